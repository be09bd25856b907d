"""Roots of one aggregate that write at the same time: every effect once, and a deadline for those who lose."""

# ruff: noqa: N805 (handlers of events take no self)

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import pytest

import maestro_shm as ms
from maestro_shm.memory import MemoryStore


class Counter(ms.Aggregate):
    initial_state: ClassVar[Any] = {"total": 0, "adds": 0}

    @ms.on_command("add")
    def add(self, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("added", command.data), ms.NewEvent("counted", self.state["adds"] + 1)]

    @ms.on_command("call")
    def call(self, command: ms.Command) -> list[ms.NewEvent]:
        """Run what the command brings, with the root, between its look at the state and the commit."""
        seen = self.state["total"]
        command.data(self)
        return [ms.NewEvent("added", seen)]

    @ms.on_event("added")
    def added(state: Any, event: ms.Event) -> Any:
        return {**state, "total": state["total"] + event.body}

    @ms.on_event("counted")
    def counted(state: Any, event: ms.Event) -> Any:
        return {**state, "adds": event.body}


class AlwaysConflictingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.attempts = 0

    def commit_events(self, events: Iterable[ms.Event]) -> list[ms.Event]:
        self.attempts += 1
        first = next(iter(events))
        raise ms.SequenceConflictError(first.aggregate_id, first.sequence, first.sequence)


class FakeTime:
    """Time that passes only when somebody sleeps, or by `step` seconds with each look at it."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 1000.0
        self.step = step
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def store() -> Iterator[ms.Store]:
    with ms.connect("memory:") as store:
        yield store


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(time, "monotonic", fake.monotonic)
    monkeypatch.setattr(time, "sleep", fake.sleep)
    return fake


def longest_pauses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Make every pause as long as it may be, and write down the bounds that it was drawn from."""
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", uniform)
    return bounds


def once(action: Callable[[ms.Aggregate], object]) -> Callable[[ms.Aggregate], None]:
    """An action that runs in the first attempt only."""
    left = [action]

    def run(root: ms.Aggregate) -> None:
        if left:
            left.pop()(root)

    return run


def exhaust(root: ms.Aggregate, data: Any = 1) -> ms.RetriesExhaustedError:
    with pytest.raises(ms.RetriesExhaustedError) as caught:
        root.evaluate(ms.Command("add", data))
    return caught.value


def test_a_conflict_makes_the_root_catch_up_and_evaluate_again(store: ms.Store) -> None:
    root, rival = Counter(store, "x"), Counter(store, "x")
    root.evaluate(ms.Command("add", 5))
    overtake = once(lambda _: rival.evaluate(ms.Command("add", 10)))
    (event,) = root.evaluate(ms.Command("call", overtake))
    assert (event.sequence, event.body) == (5, 15)
    assert (root.get(), root.sequence, root.conflicts) == ({"total": 30, "adds": 2}, 5, 1)
    assert root.get() == Counter(store, "x").get()
    assert rival.conflicts == 0


def test_a_conflict_on_the_first_event_of_an_aggregate_is_met_in_the_same_way(store: ms.Store) -> None:
    root, rival = Counter(store, "x"), Counter(store, "x")
    overtake = once(lambda _: rival.evaluate(ms.Command("add", 10)))
    (event,) = root.evaluate(ms.Command("call", overtake))
    assert (event.sequence, event.body, root.conflicts) == (3, 10, 1)


def test_a_command_that_is_refused_after_a_conflict_commits_nothing(store: ms.Store) -> None:
    attempts = []

    def overtake_then_refuse(_: ms.Aggregate) -> None:
        attempts.append(1)
        if len(attempts) == 2:
            msg = "too late"
            raise ms.InvalidCommandError(msg)
        Counter(store, "x").evaluate(ms.Command("add", 10))

    root = Counter(store, "x")
    with pytest.raises(ms.InvalidCommandError, match="too late"):
        root.evaluate(ms.Command("call", overtake_then_refuse))
    assert (root.get()["total"], store.last_sequence("x")) == (10, 2)


def test_conflicts_on_one_aggregate_leave_others_alone(store: ms.Store) -> None:
    root, other = Counter(store, "x"), Counter(store, "y")
    root.evaluate(ms.Command("call", lambda _: other.evaluate(ms.Command("add", 10))))
    assert (root.conflicts, other.conflicts, root.sequence) == (0, 0, 1)


def test_a_handler_may_not_evaluate_on_its_own_root(store: ms.Store) -> None:
    root = Counter(store, "x")
    with pytest.raises(ms.InvalidHandlerError, match="'add': evaluated while <Counter 'x' at sequence 0> evaluates"):
        root.evaluate(ms.Command("call", lambda own: own.evaluate(ms.Command("add", 1))))
    assert store.stats()["events"] == 0
    root.evaluate(ms.Command("add", 1))
    assert root.sequence == 2


def test_a_handler_that_moves_its_root_has_looked_at_a_stale_state_and_runs_again(store: ms.Store) -> None:
    root, rival = Counter(store, "x"), Counter(store, "x")

    def overtake_and_fetch(own: ms.Aggregate) -> None:
        rival.evaluate(ms.Command("add", 10))
        own.fetch()

    (event,) = root.evaluate(ms.Command("call", once(overtake_and_fetch)))
    assert (event.sequence, event.body, root.conflicts) == (3, 10, 1)


def test_conflicts_that_the_handler_raises_itself_are_not_retried(store: ms.Store) -> None:
    attempts = []

    def conflict(_: ms.Aggregate) -> None:
        attempts.append(1)
        raise ms.SequenceConflictError("elsewhere", 1, 1)

    root = Counter(store, "x")
    with pytest.raises(ms.SequenceConflictError, match="elsewhere"):
        root.evaluate(ms.Command("call", conflict))
    assert (len(attempts), root.conflicts) == (1, 0)


@pytest.mark.parametrize("snapshot_every", [None, 7])
def test_threads_that_race_on_one_aggregate_lose_nothing(store: ms.Store, snapshot_every: int | None) -> None:
    threads, rounds = 4, 25
    all_have_looked = threading.Barrier(threads, timeout=30)

    class Racing(Counter):
        meet: Callable[[ms.Aggregate], None]

        def add(self, command: ms.Command) -> list[ms.NewEvent]:
            events = super().add(command)
            self.meet(self)
            return events

    Racing.snapshot_every = snapshot_every
    roots = [Racing(store, "hot") for _ in range(threads)]

    def work(root: Racing, amount: int) -> None:
        # Nobody commits before all have looked at the same state: so there are conflicts in every run.
        root.meet = once(lambda _: all_have_looked.wait())
        for _ in range(rounds):
            root.evaluate(ms.Command("add", amount))

    workers = [threading.Thread(target=work, args=(root, 10**i)) for i, root in enumerate(roots)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    expected = {"total": rounds * 1111, "adds": rounds * threads}
    assert [root.fetch() for root in [*roots, Counter(store, "hot")]] == [expected] * (threads + 1)
    assert [event.sequence for event in store.get_events("hot")] == list(range(1, 2 * rounds * threads + 1))
    assert sum(root.conflicts for root in roots) >= threads - 1


def test_retries_end_at_the_deadline_with_the_facts(fake_time: FakeTime) -> None:
    root = type("Hasty", (Counter,), {"retry_timeout": 0.25})(store := AlwaysConflictingStore(), "x")
    error = exhaust(root)
    assert (error.aggregate_id, error.command_type) == ("x", "add")
    assert error.attempts == store.attempts == root.conflicts > 5
    assert error.seconds == pytest.approx(0.25) == pytest.approx(sum(fake_time.sleeps))
    assert root.sequence == 0


def test_retries_end_at_the_deadline_of_the_real_clock_too() -> None:
    root = type("Hasty", (Counter,), {"retry_timeout": 0.01})(store := AlwaysConflictingStore(), "x")
    error = exhaust(root)
    assert error.attempts == store.attempts == root.conflicts
    assert error.seconds >= 0.01


def test_the_first_retry_goes_at_once_and_later_pauses_double_up_to_a_cap(
    fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = longest_pauses(monkeypatch)
    root = type("Hasty", (Counter,), {"retry_timeout": 0.2})(store := AlwaysConflictingStore(), "x")
    exhaust(root)
    doubling = [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05, 0.05]
    assert bounds == [(0, high) for high in doubling]
    assert fake_time.sleeps[:-1] == doubling[:-1]
    # One attempt before any retry, one retry without a pause.
    assert store.attempts == len(doubling) + 2


def test_no_pause_goes_past_the_deadline(fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    longest_pauses(monkeypatch)
    exhaust(type("Hasty", (Counter,), {"retry_timeout": 0.2})(AlwaysConflictingStore(), "x"))
    assert fake_time.sleeps[-1] < 0.05
    assert fake_time.now == pytest.approx(1000.2)


def test_time_that_passes_while_evaluating_counts_towards_the_deadline(fake_time: FakeTime) -> None:
    fake_time.step = 1.0
    error = exhaust(type("Hasty", (Counter,), {"retry_timeout": 2.5})(AlwaysConflictingStore(), "x"))
    assert error.attempts == 3


def test_without_time_for_retries_there_is_one_attempt(fake_time: FakeTime) -> None:
    root = type("Once", (Counter,), {"retry_timeout": 0.0})(AlwaysConflictingStore(), "x")
    assert exhaust(root).attempts == root.conflicts == 1
    assert fake_time.sleeps == []


def test_thousands_of_conflicts_in_a_row_are_no_other_error(
    fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest_pauses(monkeypatch)
    root = type("Patient", (Counter,), {"retry_timeout": 100.0})(AlwaysConflictingStore(), "x")
    assert exhaust(root).attempts > 2000
    assert max(fake_time.sleeps) == 0.05
