"""Calls that end without their outcome in the caller's hands, and the very same call made again."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest
from alarm import Alarm
from processes import Fork, named_target
from relay import Cut, Fault, Relay

import maestro_shm as ms
from maestro_shm import open_calls
from maestro_shm.open_calls import OpenCalls
from maestro_shm.shared.store import SharedStore

T = TypeVar("T")
PACKAGE = str(Path(ms.__file__).parent)


class InterruptError(Exception):
    """What a signal's handler raises."""


@contextlib.contextmanager
def interrupted_at(number: int, what: str) -> Iterator[None]:
    """Raise at a "line" or a "call" in the package, counted as they are run.

    The handlers of signals run at calls and at jumps back only; most code here can bear more.
    """
    left = number

    def trace(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG001 (how Python calls it)
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == what:
            left -= 1
            if left == 0:
                raise InterruptError
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(former)


def event(aggregate_id: str, sequence: int = 1, body: Any = None, **facts: Any) -> ms.Event:
    return ms.Event(aggregate_id, sequence, "made", body, **facts)


@pytest.fixture
def target() -> Iterator[str]:
    with named_target() as target:
        yield target


@pytest.fixture
def named(target: str) -> Iterator[ms.Store]:
    with ms.connect(target) as store:
        yield store


def leave_open(store: ms.Store, call: Callable[[], object], fate: Cut, *, seconds: float = 0.3) -> None:
    """Make a call whose deadline passes; the request is stored now, or comes late."""
    assert isinstance(store, SharedStore)
    store._proxy._hang_up()
    with Relay(store.directory) as relay:
        relay.take_place()
        relay.meet(b"", Fault(fate))
        store._proxy._timeout = seconds
        with pytest.raises(ms.StoreUnavailableError, match="may or may not have been stored"):
            call()
        store._proxy._timeout = 30
        assert relay.met == [fate]


def commit_and_interrupt(store: ms.Store, events: list[ms.Event], number: int) -> tuple[list[ms.Event], bool]:
    """What a commit that is interrupted at its nth line gives when it is made again, and whether it was."""
    try:
        with interrupted_at(number, "line"):
            return store.commit_events(events), False
    except InterruptError:
        return store.commit_events(events), True


def test_a_commit_that_is_interrupted_at_any_line_and_made_again_is_stored_once_and_answered_so(
    named: ms.Store,
) -> None:
    for number in itertools.count(1):
        events = [event(f"a-{number}", 1, number), event(f"b-{number}", 2, timestamp=number), event(f"b-{number}", 7)]
        stored, again = commit_and_interrupt(named, events, number)
        assert stored == named.get_events(f"a-{number}") + named.get_events(f"b-{number}")
        assert [one.body for one in stored] == [number, None, None]
        assert stored[1].timestamp == number
        with pytest.raises(ms.SequenceConflictError):
            named.commit_events(events)
        if not again:
            break
    assert number > 50
    assert named.stats()["events"] == 3 * number


def test_a_commit_of_one_event_that_is_interrupted_at_any_line_and_made_again_is_stored_once_and_answered_so(
    named: ms.Store,
) -> None:
    for number in itertools.count(1):
        events = [event("a", number, number)]
        stored, again = commit_and_interrupt(named, events, number)
        assert stored == named.get_events("a", number)
        with pytest.raises(ms.SequenceConflictError):
            named.commit_events(events)
        if not again:
            break
    assert number > 50
    assert named.stats()["events"] == number


def test_a_snapshot_that_is_interrupted_at_any_line_and_made_again_is_answered_with_what_became_of_it(
    named: ms.Store,
) -> None:
    for number in itertools.count(1):
        snapshot = ms.Snapshot("a", number, number)
        try:
            with interrupted_at(number, "line"):
                assert named.commit_snapshot(snapshot)
        except InterruptError:
            named.commit_snapshot(ms.Snapshot("a", number, "a rival's"))
            ours = named.commit_snapshot(snapshot)
            assert ours == (named.get_snapshot("a") == snapshot)
            assert not named.commit_snapshot(snapshot)
        else:
            break
    assert number > 50


def test_a_real_conflict_stays_one_though_the_call_is_made_again(named: ms.Store) -> None:
    events = [event("a"), event("b")]
    leave_open(named, lambda: named.commit_events(events), Cut.LOST)
    named.commit_events([event("b", 5)])
    for _ in range(2):
        with pytest.raises(ms.SequenceConflictError) as caught:
            named.commit_events(events)
        assert (caught.value.aggregate_id, caught.value.last_sequence) == ("b", 5)
    assert named.last_sequence("a") is None


def test_a_commit_whose_deadline_passed_is_answered_when_it_is_made_again(named: ms.Store) -> None:
    for sequence, fate in enumerate((Cut.HELD, Cut.LOST, Cut.LATE), 1):
        leave_open(named, partial(named.commit_events, [event("a", sequence)]), fate)
        (stored,) = named.commit_events([event("a", sequence)])
        assert named.get_events("a")[-1] == stored
    assert named.stats()["events"] == 3


def test_a_commit_that_the_server_broke_off_each_time_is_answered_when_it_is_made_again(named: ms.Store) -> None:
    assert isinstance(named, SharedStore)
    named._proxy._hang_up()
    with Relay(named.directory) as relay:
        relay.take_place()
        relay.meet(b"torn", *[Fault(Cut.TORN, part) for part in (0.0, 0.3, 0.7, 1.0)])
        with pytest.raises(ms.StoreUnavailableError, match=r"several times.*may or may not have been stored"):
            named.commit_events([event("a", 1, "torn")])
        (stored,) = named.commit_events([event("a", 1, "torn")])
    assert named.get_events("a") == [stored]


def test_a_request_that_lies_unread_behind_the_one_that_was_made_again_does_no_harm(target: str) -> None:
    with ms.connect(target) as other, ms.connect(target, timeout=0.3) as store:
        assert isinstance(store, SharedStore)
        server = store.stats()["server_pid"]
        for number in range(1, 4):
            events = [event("a", number), event("b", number, number)]
            store.commit_events([event(f"warm-{number}")])
            first, second = store._proxy._take(), store._proxy._attach(time.monotonic() + 30, resent=False)
            store._proxy._at_rest += filter(None, (second, first))
            os.kill(server, signal.SIGSTOP)
            try:
                for _ in range(2):
                    with pytest.raises(ms.StoreUnavailableError, match="may or may not have been stored"):
                        store.commit_events(events)
            finally:
                os.kill(server, signal.SIGCONT)
            stored = until_answered(partial(store.commit_events, events))
            assert stored == other.get_events("a", number) + other.get_events("b", number)
        assert other.stats()["events"] == 9


def until_answered(call: Callable[[], T]) -> T:
    """Make a call again as long as a busy machine lets its short deadline pass."""
    while True:
        try:
            return call()
        except ms.StoreUnavailableError:
            pass


@pytest.mark.parametrize("fork", [os.fork, ctypes.PyDLL(None).fork], ids=["python", "c"])
def test_a_forked_child_does_not_take_its_parents_commit_for_its_own(named: ms.Store, fork: Callable[[], int]) -> None:
    leave_open(named, lambda: named.commit_events([event("a")]), Cut.HELD)

    def commit() -> str:
        try:
            return f"{named.commit_events([event('a')])}"
        except ms.SequenceConflictError:
            return "conflict"

    with Fork(commit, fork) as child:
        assert child.result() == "conflict"
    assert named.commit_events([event("a")]) == named.get_events("a")


@pytest.mark.usefixtures("hasty_threads")
def test_of_several_threads_that_make_an_open_call_again_one_gets_its_outcome(named: ms.Store) -> None:
    for sequence in range(1, 6):
        leave_open(named, partial(named.commit_events, [event("a", sequence)]), Cut.HELD)
        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(named.commit_events, [event("a", sequence)]) for _ in range(8)]
        assert sum(call.exception() is None for call in calls) == 1
        assert {type(call.exception()) for call in calls} == {type(None), ms.SequenceConflictError}


def test_a_call_stays_open_while_there_is_no_room_for_it(target: str) -> None:
    large = b"x" * (30 << 20)
    with ms.connect(target, max_commit_bytes=32 << 20) as store:
        assert isinstance(store, SharedStore)
        for sequence in (1, 2):
            store.commit_events([event("a", sequence, large)])
        leave_open(store, lambda: store.commit_events([event("a", 3, large)]), Cut.LOST, seconds=4)
        server = store.stats()["server_pid"]
        resource.prlimit(server, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        with pytest.raises(ms.StoreFullError):
            store.commit_events([event("a", 3, large)])
        assert len(store._proxy._open_calls) == 1
        resource.prlimit(server, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert store.commit_events([event("a", 3, large)]) == store.get_events("a", 3)
        assert not store._proxy._open_calls


def test_only_the_newest_open_calls_are_kept_and_not_too_many_bytes_of_them() -> None:
    calls = OpenCalls()
    for number in range(open_calls.MAX_CALLS + 10):
        calls["commit_events", ("a", number, None, b"")] = b"id"
        calls.forget_oldest()
    assert len(calls) == open_calls.MAX_CALLS
    assert next(iter(calls))[1][1] == 10
    large = bytes(open_calls.MAX_BYTES // 2)
    for number in range(3):
        calls["commit_snapshot", "a", number, large] = b"id"
        calls.forget_oldest()
    assert [call[2] for call in calls] == [2]
    calls["commit_snapshot", "a", 3, large * 3] = b"id"
    calls.forget_oldest()
    assert [call[2] for call in calls] == [3]


class Counter(ms.Aggregate):
    initial_state = 0

    @ms.on_command("count")
    def count(self, _command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("counted")]

    @ms.on_event("counted")
    def counted(state: int, _event: ms.Event) -> int:  # noqa: N805 (a plain function)
        return state + 1


def test_a_root_whose_evaluation_was_interrupted_at_any_call_catches_up(named: ms.Store) -> None:
    counter = Counter(named, "a")
    for number in itertools.count(1):
        before = named.last_sequence("a") or 0
        try:
            with interrupted_at(number, "call"):
                counter.evaluate(ms.Command("count"))
        except InterruptError:
            for barrier in (1, 2):  # the server may have what was sent before it unread still, but not after two rounds
                named.commit_events([event(f"barrier-{number}", barrier)])
            stored = (named.last_sequence("a") or 0) - before
            assert stored in (0, 1)
            assert counter.fetch() == counter.sequence == before + stored
            (counted,) = counter.evaluate(ms.Command("count"))
            assert counted.sequence == before + stored + 1
        else:
            break
    assert number > 30
    assert counter.state == len(named.get_events("a")) == named.last_sequence("a")


def test_a_command_that_was_interrupted_before_it_was_stored_is_evaluated_again_and_stored_once(
    named: ms.Store,
) -> None:
    counter = Counter(named, "a")
    leave_open(named, lambda: counter.evaluate(ms.Command("count")), Cut.LOST)
    assert counter.fetch() == 0
    (counted,) = counter.evaluate(ms.Command("count"))
    assert counter.fetch() == counted.sequence == 1


def test_a_command_that_is_evaluated_again_while_its_first_commit_is_on_its_way_answers_with_what_is_stored(
    named: ms.Store,
) -> None:
    counter = Counter(named, "a")
    leave_open(named, lambda: counter.evaluate(ms.Command("count")), Cut.LATE)
    (counted,) = counter.evaluate(ms.Command("count"))  # the second, if the first was faster
    assert counter.fetch() == counted.sequence == len(named.get_events("a"))
    assert counted in named.get_events("a")


def test_calls_that_real_signals_interrupt_are_answered_with_their_outcome_when_made_again(named: ms.Store) -> None:
    def interrupt() -> None:
        raise InterruptError

    stop = threading.Event()
    others = threading.Thread(target=commit_until, args=(stop, named))
    interrupted = 0
    others.start()
    try:
        with Alarm(interrupt) as alarm:
            for number in range(1, 401):
                delay = 20e-6 + number % 40 * 4e-6
                stored: list[ms.Event] = []
                while not stored:
                    try:
                        alarm.set(delay)
                        stored = named.commit_events([event(f"a-{number}", 1, number), event("b", number)])
                        alarm.clear()
                    except InterruptError:
                        interrupted += not stored
                        delay = 0
                assert stored == named.get_events(f"a-{number}") + named.get_events("b", number)
    finally:
        stop.set()
        others.join()
    assert interrupted > 20


def commit_until(stop: threading.Event, store: ms.Store) -> None:
    for sequence in itertools.count(1):
        store.commit_events([event("others", sequence)])
        if stop.is_set():
            return
