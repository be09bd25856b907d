"""Durable subscriptions across processes: consumers and servers are killed, and every event is done all the same."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import Fork, is_gone, kill, open_descriptors, wait_until

import maestro_shm as ms
from maestro_shm.errors import StoreUnavailableError, SubscriptionError
from maestro_shm.shared.file_leases import FileLeases

SOON = 60.0
KEYS = "abcdefghijklmnop"


def fill(store: ms.Store, count: int, first: int = 1) -> None:
    for sequence in range(first, first + count):
        store.commit_events([ms.Event(key, sequence, "made", sequence) for key in KEYS])


def note(tx: ms.Transaction, event: ms.Event) -> None:
    """Let a table tell who did which event when: an aggregate's in order, each once, or this raises."""
    done = tx.table("done")
    assert done.get(event.aggregate_id, 0) == event.sequence - 1
    done[event.aggregate_id] = event.sequence


def consume(path: Path, name: str = "billing") -> None:
    """Apply events until the process is killed."""
    with ms.connect(path) as store, store.subscription(name) as consumer:
        for event in consumer:
            consumer.apply(event, note)


def is_done(store: ms.Store, count: int) -> bool:
    return dict(store.table("done")) == dict.fromkeys(KEYS, count)


@contextmanager
def consumers(path: Path, count: int) -> Iterator[list[Fork[None]]]:
    forks: list[Fork[None]] = []
    try:
        forks += [Fork(lambda: consume(path)) for _ in range(count)]
        yield forks
    finally:
        for fork in forks:
            fork.kill()


def test_events_are_applied_once_each_though_consumers_are_killed(path: Path) -> None:
    with ms.connect(path) as store:
        store.subscription("billing", 8)
        with consumers(path, 3) as forks:
            for turn in range(6):
                fill(store, 10, 1 + 10 * turn)
                time.sleep(0.05)
                forks[turn % 3].kill()
                forks[turn % 3] = Fork(lambda: consume(path))
            wait_until(lambda: is_done(store, 60), "all is done", seconds=SOON)
        assert store.subscription("billing").parked() == []


def test_events_are_applied_once_each_though_servers_are_killed(path: Path) -> None:
    with ms.connect(path) as store:
        store.subscription("billing", 8)
        with consumers(path, 2):
            for turn in range(5):
                fill(store, 10, 1 + 10 * turn)
                kill(store.stats()["server_pid"])
            wait_until(lambda: is_done(store, 50), "all is done", seconds=SOON)


def test_no_two_consumers_have_events_of_one_aggregate_at_a_time_though_servers_are_killed(path: Path) -> None:
    """Each event is held for a moment under a lock of its aggregate that must be free."""

    def work() -> None:
        with ms.connect(path) as store, store.subscription("slow") as consumer:
            for event in consumer:
                lock = path.parent / f"lock-{event.aggregate_id}"
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
                time.sleep(0.002)
                lock.unlink()
                consumer.apply(event, note)

    with ms.connect(path) as store:
        store.subscription("slow", 8, most_attempts=1)
        forks = []
        try:
            for turn in range(4):
                forks.append(Fork(work))
                fill(store, 6, 1 + 6 * turn)
                kill(store.stats()["server_pid"])
            wait_until(
                lambda: is_done(store, 24) or any(is_gone(fork.pid) for fork in forks), "all is done", seconds=SOON
            )
            assert is_done(store, 24)
        finally:
            for fork in forks:
                fork.kill()


def test_an_event_that_kills_its_consumers_is_parked(path: Path) -> None:
    def work() -> None:
        with ms.connect(path) as store, store.subscription("billing") as consumer:
            for event in consumer:
                if event.sequence == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                consumer.ack(event)
                if event.sequence == 3:
                    return

    with ms.connect(path) as store:
        store.subscription("billing", 1, most_attempts=2)
        for sequence in (1, 2, 3):
            store.commit_events([ms.Event("a", sequence, "made", None)])
        deaths = 0
        while True:
            with Fork(work) as fork:
                wait_until(lambda fork=fork: is_gone(fork.pid), "it has ended")  # type: ignore[misc]
                try:
                    fork.result()
                except Exception:  # noqa: BLE001 (it died)
                    deaths += 1
                else:
                    break
        assert deaths == 3  # the first is only suspected
        assert store.subscription("billing").parked() == [ms.Parked(2, "its consumers died", 2)]


def test_a_consumer_that_dies_at_rest_costs_no_event_its_attempts(path: Path) -> None:
    with ms.connect(path) as store:
        store.subscription("billing", 1, most_attempts=2)

        def work() -> None:
            with ms.connect(path) as own, own.subscription("billing") as consumer:
                consumer.get(0)
                (path.parent / "ready").touch()
                consumer.get()

        for _ in range(4):
            with Fork(work) as fork:
                wait_until((path.parent / "ready").exists, "it has its partition")
                fork.kill()
            (path.parent / "ready").unlink()
        store.commit_events([ms.Event("a", 1, "made", None)])
        with store.subscription("billing") as consumer:
            event = consumer.get(SOON)
            assert event is not None
            consumer.ack(event)
            assert consumer.parked() == []


class Done:
    """Notes each event, and that it was not noted before."""

    def project(self, event: ms.Event, tables: ms.Tables) -> None:
        done = tables["done"]
        assert done.get(event.aggregate_id, 0) == event.sequence - 1
        done[event.aggregate_id] = event.sequence


def test_events_are_projected_once_each_though_runners_and_servers_are_killed(path: Path) -> None:
    def project() -> None:
        with ms.connect(path) as own:
            own.projector("done", Done()).run()

    with ms.connect(path) as store:
        for turn in range(8):
            with Fork(project) as fork:
                fill(store, 8, 1 + 8 * turn)
                if turn % 3 == 2:
                    kill(store.stats()["server_pid"])
                    store.projector("done").wait_for(store.last_position - 5, timeout=SOON)
                fork.kill()
        done = store.projector("done", Done())
        done.catch_up()
        assert dict(done.table("done")) == dict.fromkeys(KEYS, 64)


def test_a_fork_is_no_consumer_and_holds_none_of_its_parents_leases(path: Path) -> None:
    with ms.connect(path) as store:
        fill(store, 1)
        consumer = store.subscription("billing", 2)
        event = next(consumer)

        def work() -> str:
            try:
                consumer.ack(event)
            except SubscriptionError as error:
                return str(error)
            return ""

        with Fork(work) as fork:
            assert "make one in this process" in fork.result()
            consumer.ack(event)
        with Fork(lambda: time.sleep(SOON)):
            consumer.close()
            with store.subscription("billing") as other:
                assert other.get(SOON) is not None


def test_consumers_that_come_and_go_leave_nothing_behind(path: Path) -> None:
    with ms.connect(path) as store:
        fill(store, 1)
        with store.subscription("billing", 4) as consumer:
            for _ in range(16):
                consumer.ack(next(consumer))
        before = open_descriptors()
        for number in range(30):
            consumer = store.subscription("billing")
            assert consumer.get(0) is None
            if number % 2:
                consumer.close()
            del consumer
        assert open_descriptors() == before


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_leases_keep_out_others_of_the_same_process(tmp_path: Path, leave: str) -> None:
    one: FileLeases | None = FileLeases(tmp_path / "leases")
    other = FileLeases(tmp_path / "leases")
    assert one is not None
    assert [one.take(number) for number in (1, 5, 6, 7, 2**20)] == [True] * 5
    assert one.take(5)
    assert not other.take(6)
    assert other.take(3)
    assert other.taken_by_others(0, 8) == [1, 5, 6, 7]
    assert other.taken_by_others(2, 7) == [5, 6]
    assert other.taken_by_others(0, 2**21) == [1, 5, 6, 7, 2**20]
    assert one.taken_by_others(0, 2**21) == [3]
    one.give_back(6)
    one.give_back(6)
    assert other.take(6)
    if leave == "close":
        one.close()
        one.close()
    one = None
    assert other.taken_by_others(0, 2**21) == []
    assert other.take(2**20)
    other.close()


def test_many_leases_of_many_holders_are_all_seen(tmp_path: Path) -> None:
    holders = [FileLeases(tmp_path / "leases") for _ in range(12)]
    expected = defaultdict(list)
    for number in range(200):
        assert holders[number * 7 % 12].take(number * 3)
        expected[number * 7 % 12].append(number * 3)
    for which, holder in enumerate(holders):
        others = sorted(number for other, numbers in expected.items() if other != which for number in numbers)
        assert holder.taken_by_others(0, 600) == others
    for holder in holders:
        holder.close()


def test_leases_end_with_their_process(tmp_path: Path) -> None:
    def hold() -> None:
        leases = FileLeases(tmp_path / "leases")
        assert leases.take(1)
        (tmp_path / "ready").touch()
        time.sleep(SOON)

    mine = FileLeases(tmp_path / "leases")
    with Fork(hold) as fork:
        wait_until((tmp_path / "ready").exists, "the lease is taken")
        assert not mine.take(1)
        fork.kill()
    assert mine.take(1)
    mine.close()


def test_a_link_in_place_of_the_leases_is_refused(path: Path) -> None:
    with ms.connect(path) as store:
        consumer = store.subscription("billing", 1)
        assert consumer.get(0) is None
        consumer.close()
        (leases,) = path.glob("leases-*")
        leases.unlink()
        leases.symlink_to(path.parent / "elsewhere")
        with pytest.raises(StoreUnavailableError, match="cannot open 'leases-"):
            store.subscription("billing").get(0)
        assert not (path.parent / "elsewhere").exists()


def test_a_destroyed_store_takes_its_leases_along(path: Path) -> None:
    with ms.connect(path) as store:
        assert store.subscription("billing", 1).get(0) is None
    ms.destroy(path)
    assert not path.exists()
