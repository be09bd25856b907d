"""Many who write to one stream, over every kind of store: each gets on, nothing is lost, and what is over stays so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from store_contract import in_threads

import maestro_shm as ms

THREADS = 4


class Counter(ms.Aggregate):
    initial_state: ClassVar[Any] = 0

    @ms.on_command("add")
    def add(self, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("added", self.state + 1)] * command.data

    @ms.on_command("refuse every other")
    def refuse(self, _command: ms.Command) -> list[ms.NewEvent]:
        if self.state % 2:
            raise ms.InvalidCommandError("no")
        return [ms.NewEvent("added", self.state + 1)]

    @ms.on_event("added")
    def added(_state: Any, event: ms.Event) -> Any:  # noqa: N805 (handlers of events take no self)
        return event.body


def add(store: ms.Store, times: int) -> None:
    root = Counter(store, "hot")
    for _ in range(times):
        root.evaluate(ms.Command("add", 1))


@pytest.mark.usefixtures("hasty_threads")
def test_roots_that_compete_for_one_stream_decide_one_after_the_other(store: ms.Store) -> None:
    in_threads(*[lambda: add(store, 30)] * THREADS)
    assert [event.body for event in store.get_events("hot")] == list(range(1, 30 * THREADS + 1))


@pytest.mark.usefixtures("hasty_threads")
def test_roots_that_are_made_anew_for_each_command_decide_one_after_the_other_too(store: ms.Store) -> None:
    def work() -> None:
        for _ in range(20):
            add(store, 1)

    in_threads(*[work] * THREADS)
    assert [event.body for event in store.get_events("hot")] == list(range(1, 20 * THREADS + 1))


@pytest.mark.usefixtures("hasty_threads")
def test_commands_that_come_to_nothing_or_are_refused_keep_nobody_from_a_stream(store: ms.Store) -> None:
    def work() -> None:
        root = Counter(store, "hot")
        for _ in range(20):
            root.evaluate(ms.Command("add", 0))
            try:
                root.evaluate(ms.Command("refuse every other", None))
            except ms.InvalidCommandError:
                root.evaluate(ms.Command("add", 1))

    in_threads(*[work] * THREADS)
    assert [event.body for event in store.get_events("hot")] == list(range(1, 20 * THREADS + 1))


@pytest.mark.usefixtures("hasty_threads")
def test_transactions_and_roots_that_compete_for_one_stream_decide_one_after_the_other(store: ms.Store) -> None:
    def transact() -> None:
        for _ in range(15):
            store.transact(lambda tx: tx.root(Counter, "hot").evaluate(ms.Command("add", 1)))

    in_threads(*[transact] * 2, *[lambda: add(store, 15)] * 2)
    assert [event.body for event in store.get_events("hot")] == list(range(1, 61))


def test_who_competes_in_vain_is_told_how_often_and_how_long(store: ms.Store) -> None:
    class Hasty(Counter):
        retry_timeout = 0.2
        overtake: Callable[[], object]

        def add(self, command: ms.Command) -> list[ms.NewEvent]:
            events = super().add(command)
            self.overtake()
            return events

    rival = Counter(store, "hot")
    root = Hasty(store, "hot")
    root.overtake = lambda: rival.evaluate(ms.Command("add", 1))
    with pytest.raises(ms.RetriesExhaustedError) as caught:
        root.evaluate(ms.Command("add", 1))
    assert caught.value.attempts == root.conflicts == store.last_sequence("hot")
    assert caught.value.seconds >= 0.2


def test_a_store_that_is_closed_ends_those_who_compete(make_store: Callable[..., ms.Store]) -> None:
    store = make_store()
    going = threading.Barrier(THREADS + 1)

    def work() -> type[BaseException]:
        going.wait()
        try:
            add(store, 10**9)
        except ms.StoreError as error:
            return type(error)
        raise AssertionError

    errors: list[type[BaseException]] = []
    threads = [threading.Thread(target=lambda: errors.append(work())) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    going.wait()
    store.wait(50)
    store.close()
    for thread in threads:
        thread.join()
    assert errors == [ms.StoreClosedError] * THREADS
