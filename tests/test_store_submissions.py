"""Commits that nobody waits for: each is done or refused as one that is waited for, in the order of the submissions."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import Future, wait
from itertools import count
from typing import Any

import pytest
from books import set_word
from hypothesis import given
from hypothesis import strategies as st
from processes import output_of
from store_contract import exactly

import maestro_shm as ms
from maestro_shm import submissions
from maestro_shm.backend import Backend
from maestro_shm.shared import header as head
from maestro_shm.shared.store import SharedStore
from maestro_shm.submissions import Submissions
from maestro_shm.validation import PackedEvent

SOON = 30.0


def event(sequence: int, key: str = "a", body: Any = None) -> ms.Event:
    return ms.Event(key, sequence, "made", body)


def results(futures: list[Future[list[ms.Event]]]) -> list[list[ms.Event] | BaseException]:
    wait(futures, SOON)
    return [future.exception(0) or future.result(0) for future in futures]


def test_what_is_submitted_is_committed_in_that_order(store: ms.Store) -> None:
    futures = [store.submit([event(1, f"key-{number}"), event(2, f"key-{number}")]) for number in range(200)]
    stored = [found for result in results(futures) if isinstance(result, list) for found in result]
    assert [found.position for found in stored] == list(range(1, 401))
    assert exactly(stored) == exactly(list(store.read()))


def test_a_future_has_what_a_commit_returns(store: ms.Store) -> None:
    body = {"list": [1, 2]}
    future = store.submit([event(1, body=body)])
    body["list"].append(3)
    (stored,) = future.result(SOON)
    assert stored.body == {"list": [1, 2]}
    assert exactly([stored]) == exactly(store.get_events("a"))


def test_what_is_refused_holds_nothing_up(store: ms.Store) -> None:
    futures = [store.submit([event(sequence)]) for sequence in (1, 1, 2, 2, 3)]
    told = results(futures)
    assert [type(one) for one in told] == [list, ms.SequenceConflictError, list, ms.SequenceConflictError, list]
    refused = told[3]
    assert isinstance(refused, ms.SequenceConflictError)
    assert (refused.aggregate_id, refused.sequence, refused.last_sequence) == ("a", 2, 2)
    assert store.last_sequence("a") == 3


def test_what_breaks_a_rule_is_refused_at_once(store: ms.Store) -> None:
    with pytest.raises(ms.InvalidEventError):
        store.submit([ms.Event("", 1, "made", None)])
    assert store.last_position == 0


def test_no_events_are_done(store: ms.Store) -> None:
    assert store.submit([]).result(0) == []


def test_a_transaction_submits_nothing(store: ms.Store) -> None:
    def submit_past(_: Any) -> None:
        store.submit([event(1)])

    def submit_within(tx: Any) -> None:
        tx.root(ms.Aggregate, "a").store.submit([event(1)])

    for function in (submit_past, submit_within):
        with pytest.raises(ms.TransactionError):
            store.transact(function)
    with pytest.raises(ms.ReadOnlyError):
        store.at(position=0).submit([event(1)])
    assert store.last_position == 0


def test_whoever_closes_a_store_waits_for_what_was_submitted(make_store: Any) -> None:
    store = make_store()
    futures = [store.submit([event(1, f"key-{number}")]) for number in range(300)]
    store.close()
    assert all(future.done() for future in futures)
    assert [future.result(0)[0].position for future in futures] == list(range(1, 301))
    with pytest.raises(ms.StoreClosedError):
        store.submit([event(1)])


def test_a_callback_may_submit_and_close(make_store: Any) -> None:
    store = make_store()
    ended = threading.Event()

    def go_on(_: object) -> None:
        store.submit([event(2)]).add_done_callback(end)

    def end(_: object) -> None:
        store.close()
        ended.set()

    store.submit([event(1)]).add_done_callback(go_on)
    assert ended.wait(SOON)


def test_the_thread_ends_when_there_is_nothing_to_do(store: ms.Store) -> None:
    before = set(threading.enumerate())
    store.submit([event(1)]).result(SOON)
    for thread in set(threading.enumerate()) - before:
        thread.join(SOON)
    assert set(threading.enumerate()) <= before
    assert store.submit([event(2)]).result(SOON)[0].sequence == 2


def test_threads_that_submit_together_lose_nothing(store: ms.Store, hasty_threads: None) -> None:  # noqa: ARG001
    futures: list[Future[list[ms.Event]]] = []

    def submit(key: str) -> None:
        futures.extend([store.submit([event(sequence, key)]) for sequence in range(1, 51)])

    threads = [threading.Thread(target=submit, args=[f"key-{number}"]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one[0].position or 0 for one in results(futures) if isinstance(one, list)) == list(range(1, 201))


# How they are carried out together


class Held:
    """Carries out when it is let, and keeps what came together."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.batches: list[int] = []

    def carry_out(self, commits: Any) -> list[list[ms.Event]]:
        assert self.let.wait(SOON)
        self.batches.append(len(commits))
        return [[] for _ in commits]


def packed(size: int = 0) -> list[PackedEvent]:
    return [("a", 1, None, bytes(size))]


def test_what_waits_together_is_carried_out_together_within_bounds() -> None:
    held, several = Held(), Submissions(10_000)
    first = several.submit(packed(), held.carry_out)
    while not first.running():
        pass
    sizes = [*[0] * (submissions.MOST_TOGETHER + 35), 4000, 4000, 4000, 4000, 20_000]
    futures = [several.submit(packed(size), held.carry_out) for size in sizes]
    held.let.set()
    wait(futures, SOON)
    assert held.batches == [1, submissions.MOST_TOGETHER, 36, 2, 1, 1]


def test_what_is_cancelled_in_time_is_not_carried_out() -> None:
    held, several = Held(), Submissions(10_000)
    first = several.submit(packed(), held.carry_out)
    while not first.running():
        pass
    cancelled, kept = (several.submit(packed(), held.carry_out) for _ in range(2))
    assert cancelled.cancel()
    assert not first.cancel()
    held.let.set()
    kept.result(SOON)
    assert held.batches == [1, 1]


def test_who_submits_too_much_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MOST_WAITING_BYTES", 1000)
    held, several = Held(), Submissions(10_000)
    several.submit(packed(2000), held.carry_out)
    submitted = threading.Event()

    def submit() -> None:
        several.submit(packed(), held.carry_out)
        submitted.set()

    thread = threading.Thread(target=submit)
    thread.start()
    assert not submitted.wait(0.05)
    held.let.set()
    thread.join(SOON)
    assert submitted.is_set()
    several.finish()


def test_whatever_fails_is_told_to_all_who_wait_for_it() -> None:
    def fail(_: object) -> list[list[ms.Event]]:
        raise MemoryError

    several = Submissions(10_000)
    futures = [several.submit(packed(), fail) for _ in range(3)]
    assert [type(one) for one in results(futures)] == [MemoryError] * 3
    several.finish()


def test_a_callback_that_ends_the_thread_does_not_end_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))

    def leave(_: object) -> None:
        sys.exit(1)

    held, several = Held(), Submissions(10_000)
    first = several.submit(packed(), held.carry_out)
    first.add_done_callback(leave)
    second = several.submit(packed(), held.carry_out)
    held.let.set()
    assert second.result(SOON) == []
    assert several.submit(packed(), held.carry_out).result(SOON) == []
    several.finish()
    assert told == [SystemExit]


def test_a_thread_whose_start_was_interrupted_carries_nothing_out_beside_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, several = Held(), Submissions(10_000)
    threads: list[threading.Thread] = []

    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            threads.append(self)
            if len(threads) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        several.submit(packed(), held.carry_out)
    futures = [several.submit(packed(), held.carry_out) for _ in range(3)]
    threads[0].join(SOON)
    assert not threads[0].is_alive()
    held.let.set()
    wait(futures, SOON)
    assert sum(held.batches) == 3
    several.finish()


# Of a shared store


def test_commits_that_are_sent_together_come_out_as_if_each_had_come_alone() -> None:
    with ms.connect() as together, ms.connect("memory:") as alone:
        assert isinstance(together, Backend)
        numbers = count()

        @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=40))
        def come_out_alike(drafts: list[tuple[str, int]]) -> None:
            number = next(numbers)  # of new streams for each of these
            named = [(f"{number}-{key}", sequence) for key, sequence in drafts]
            payload = b"\x93\xa4made\xc0\xc0"
            commits: list[list[PackedEvent]] = [[(name, sequence, None, payload)] for name, sequence in named]
            found = [*together._commit_each(commits)] if commits else []
            for (name, sequence), outcome in zip(named, found, strict=True):
                try:
                    (expected,) = alone.commit_events([event(sequence, name)])
                except ms.SequenceConflictError as error:
                    assert isinstance(outcome, ms.SequenceConflictError)
                    assert outcome.args == error.args
                else:
                    assert isinstance(outcome, list)
                    assert outcome[0].position == expected.position

        come_out_alike()


def test_a_program_that_ends_waits_for_what_it_submitted() -> None:
    said = output_of(
        """
import maestro_shm as ms, sys, threading
store = ms.connect()
reader = threading.main_thread()

def tell(future):
    print(future.result()[0].position)

for sequence in range(1, 101):
    store.submit([ms.Event("a", sequence, "made", None)]).add_done_callback(tell)
"""
    )
    assert said.split() == [str(number) for number in range(1, 101)]


def test_a_forked_child_submits_for_itself() -> None:
    with ms.connect() as store:
        futures = [store.submit([event(1, f"key-{number}")]) for number in range(100)]
        child = os.fork()
        if child == 0:
            try:
                (stored,) = store.submit([event(1, "child")]).result(SOON)
                os._exit(stored.aggregate_id != "child")
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert all(isinstance(one, list) for one in results(futures))
        assert store.stats()["events"] == 101


def test_a_server_that_is_killed_meanwhile_loses_and_doubles_nothing(path: Any) -> None:
    with ms.connect(path) as store:
        futures = []
        for sequence in range(1, 2001):
            futures.append(store.submit([event(sequence)]))
            if sequence % 500 == 250:
                os.kill(store.stats()["server_pid"], signal.SIGKILL)
        told = results(futures)
        assert [one[0].sequence for one in told if isinstance(one, list)] == list(range(1, 2001))
        assert [found.sequence for found in store.get_events("a")] == list(range(1, 2001))
        assert store.last_position == 2000


def test_commits_whose_outcome_is_open_are_known_by_their_ids_when_they_are_submitted_again(path: Any) -> None:
    with ms.connect(path) as store:
        assert isinstance(store, SharedStore)
        store.commit_events([event(1)])
        commits: list[list[PackedEvent]] = [[("a", sequence, None, b"\x93\xa4made\xc0\xc0")] for sequence in (2, 3)]
        set_word(path, head.DISK_FAILED, 1)
        told = store._commit_each(commits)
        assert [type(one) for one in told] == [ms.StoreUnavailableError] * 2
        left = dict(store._proxy._open_calls)
        assert len(left) == 2
        assert [type(one) for one in store._commit_each(commits)] == [ms.StoreUnavailableError] * 2
        assert store._proxy._open_calls == left
        set_word(path, head.DISK_FAILED, 0)
        assert all(isinstance(one, list) for one in store._commit_each(commits))
        assert not store._proxy._open_calls
