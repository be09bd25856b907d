"""Roots: their state, the lifecycle of a command without conflicts, and past states."""

# ruff: noqa: N805 (handlers of events take no self, and the root reads better as account)

from __future__ import annotations

import copy
import pickle
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import pytest

import maestro_shm as ms
from maestro_shm.memory import MemoryStore


class Account(ms.Aggregate):
    initial_state: ClassVar[Any] = {"balance": 0, "log": []}

    @ms.on_command("deposit")
    def deposit(account, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("deposited", command.data)]

    @ms.on_command("withdraw")
    def withdraw(account, command: ms.Command) -> list[ms.NewEvent]:
        if account.state["balance"] < command.data:
            msg = "insufficient funds"
            raise ms.InvalidCommandError(msg)
        return [ms.NewEvent("withdrawn", command.data, {"by": "alice"})]

    @ms.on_command("move")
    def move(account, command: ms.Command) -> Iterable[ms.NewEvent]:
        return (ms.NewEvent(kind, amount) for kind, amount in command.data)

    @ms.on_command("check")
    def check(account, _command: ms.Command) -> list[ms.NewEvent]:
        return []

    @ms.on_event("deposited")
    def deposited(state: Any, event: ms.Event) -> Any:
        return {"balance": state["balance"] + event.body, "log": [*state["log"], ("+", event.body)]}

    @ms.on_event("withdrawn")
    def withdrawn(state: Any, event: ms.Event) -> Any:
        return {"balance": state["balance"] - event.body, "log": [*state["log"], ("-", event.body)]}


class RecordingStore(MemoryStore):
    """Writes down which calls reach it, and can be cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.reachable = True

    def get_events(self, aggregate_id: str, min_sequence: int = 0, **bounds: Any) -> list[ms.Event]:
        self.calls.append(("events", min_sequence))
        if not self.reachable:
            raise ms.StoreUnavailableError(self.target, "cut off")
        return super().get_events(aggregate_id, min_sequence, **bounds)

    def get_snapshot(self, aggregate_id: str, min_sequence: int = 0, **bounds: int) -> ms.Snapshot | None:
        self.calls.append(("snapshot", min_sequence))
        return super().get_snapshot(aggregate_id, min_sequence, **bounds)

    def commit_events(self, events: Iterable[ms.Event]) -> list[ms.Event]:
        events = list(events)
        self.calls.append(("commit", *(event.sequence for event in events)))
        return super().commit_events(events)


@pytest.fixture
def store() -> Iterator[ms.Store]:
    with ms.connect("memory:") as store:
        yield store


def deposit(amount: int) -> ms.Command:
    return ms.Command("deposit", amount)


def test_a_root_without_events_is_at_sequence_0_with_the_initial_state(store: ms.Store) -> None:
    alice = Account(store, "alice")
    assert (alice.id, alice.store, alice.sequence) == ("alice", store, 0)
    assert alice.get() == alice.fetch() == alice.state == alice.replay(5) == {"balance": 0, "log": []}
    assert alice.sequence == 0


def test_the_initial_state_may_be_made_by_a_method(store: ms.Store) -> None:
    shared: list[str] = []

    class Named(ms.Aggregate):
        def initial_state(self) -> dict[str, Any]:
            return {"name": self.id, "shared": shared}

    state = Named(store, "alice").get()
    assert state == {"name": "alice", "shared": []}
    assert state["shared"] is not shared


def test_the_initial_state_may_be_made_by_a_type_and_is_none_by_default(store: ms.Store) -> None:
    class Listed(ms.Aggregate):
        initial_state = list

    assert Listed(store, "a").get() == []
    assert ms.Aggregate(store, "a").get() is None


def test_new_gives_each_root_an_id_of_its_own(store: ms.Store) -> None:
    first, second = Account.new(store), Account.new(store)
    assert type(first) is Account
    assert uuid.UUID(first.id) != uuid.UUID(second.id)


@pytest.mark.parametrize("bad", ["", None, 7, b"alice", "\ud800"])
def test_a_bad_id_is_refused_when_the_root_is_made(store: ms.Store, bad: Any) -> None:
    with pytest.raises(ms.InvalidEventError, match="aggregate id"):
        Account(store, bad)


def test_evaluate_stores_the_events_and_returns_them_as_stored(store: ms.Store) -> None:
    alice = Account(store, "alice")
    first = alice.evaluate(deposit(5))
    second = alice.evaluate(ms.Command("withdraw", 2))
    assert first + second == store.get_events("alice")
    assert [(e.sequence, e.type, e.body, e.position, e.metadata) for e in first + second] == [
        (1, "deposited", 5, 1, None),
        (2, "withdrawn", 2, 2, {"by": "alice"}),
    ]
    assert alice.state == {"balance": 3, "log": [("+", 5), ("-", 2)]}


def test_the_events_of_one_command_are_applied_in_the_order_that_the_handler_returned_them(store: ms.Store) -> None:
    alice = Account(store, "alice")
    stored = alice.evaluate(ms.Command("move", [("deposited", 1), ("withdrawn", 2), ("deposited", 3)]))
    assert [event.sequence for event in stored] == [1, 2, 3]
    assert alice.get()["log"] == [("+", 1), ("-", 2), ("+", 3)]
    assert Account(store, "alice").get() == alice.get()


def test_a_command_without_events_commits_nothing() -> None:
    store = RecordingStore()
    alice = Account(store, "alice")
    assert alice.evaluate(ms.Command("check")) == []
    assert alice.sequence == 0
    assert all(call[0] != "commit" for call in store.calls)


def test_a_refused_command_reaches_the_caller_unchanged_and_commits_nothing(store: ms.Store) -> None:
    alice = Account(store, "alice")
    alice.evaluate(deposit(1))
    with pytest.raises(ms.InvalidCommandError, match=r"^insufficient funds$"):
        alice.evaluate(ms.Command("withdraw", 2))
    assert (alice.sequence, alice.state["balance"], store.stats()["events"]) == (1, 1, 1)
    assert alice.evaluate(ms.Command("withdraw", 1))[0].sequence == 2


def test_events_that_the_store_refuses_leave_the_root_where_it_was(store: ms.Store) -> None:
    alice = Account(store, "alice")
    alice.evaluate(deposit(1))
    with pytest.raises(ms.InvalidEventError, match="cannot store"):
        alice.evaluate(ms.Command("deposit", object()))
    assert (alice.sequence, alice.state["balance"]) == (1, 1)


def test_get_may_be_stale_and_fetch_catches_up(store: ms.Store) -> None:
    alice, same = Account(store, "alice"), Account(store, "alice")
    assert alice.get()["balance"] == 0
    same.evaluate(deposit(5))
    assert (alice.get()["balance"], alice.sequence) == (0, 0)
    assert (alice.fetch()["balance"], alice.get()["balance"], alice.sequence) == (5, 5, 1)


def test_evaluate_sees_what_others_stored_before(store: ms.Store) -> None:
    alice, same = Account(store, "alice"), Account(store, "alice")
    alice.get()
    same.evaluate(deposit(5))
    assert alice.evaluate(ms.Command("withdraw", 5))[0].sequence == 2
    assert alice.conflicts == 0


def test_the_first_load_asks_for_the_snapshot_and_later_ones_only_for_newer_events() -> None:
    store = RecordingStore()
    alice = Account(store, "alice")
    alice.evaluate(deposit(1))
    alice.evaluate(deposit(1))
    alice.fetch()
    assert store.calls == [
        *(("snapshot", 0), ("events", 0), ("commit", 1)),
        *(("events", 2), ("commit", 2)),
        ("events", 3),
    ]


def test_get_and_sequence_and_repr_of_a_loaded_root_do_not_ask_the_store() -> None:
    store = RecordingStore()
    alice = Account(store, "alice")
    assert repr(alice) == "<Account 'alice' at sequence 0>"
    assert store.calls == []
    for _ in range(3):
        alice.evaluate(deposit(1))
    asked = len(store.calls)
    assert (alice.get(), alice.sequence, repr(alice)) == (alice.state, 3, "<Account 'alice' at sequence 3>")
    assert len(store.calls) == asked


def test_a_first_load_that_fails_leaves_the_root_not_loaded() -> None:
    store = RecordingStore()
    Account(store, "alice").evaluate(deposit(5))
    alice = Account(store, "alice")
    store.reachable = False
    for _ in range(2):
        with pytest.raises(ms.StoreUnavailableError):
            alice.get()
    store.reachable = True
    assert alice.get()["balance"] == 5


def test_a_later_catch_up_that_fails_keeps_the_state() -> None:
    store = RecordingStore()
    alice = Account(store, "alice")
    alice.evaluate(deposit(5))
    store.reachable = False
    with pytest.raises(ms.StoreUnavailableError):
        alice.fetch()
    assert (alice.get()["balance"], alice.sequence) == (5, 1)


def test_a_root_goes_on_from_raw_events_with_gaps(store: ms.Store) -> None:
    store.commit_events([ms.Event("alice", 3, "deposited", 5), ms.Event("alice", 9, "withdrawn", 1)])
    alice = Account(store, "alice")
    assert (alice.get()["balance"], alice.sequence) == (4, 9)
    assert alice.evaluate(deposit(1))[0].sequence == 10
    store.commit_events([ms.Event("alice", 20, "deposited", 5)])
    assert (alice.fetch()["balance"], alice.sequence) == (10, 20)


def test_a_raw_event_with_sequence_0_is_applied_once(store: ms.Store) -> None:
    alice = Account(store, "alice")
    assert alice.get()["balance"] == 0
    store.commit_events([ms.Event("alice", 0, "deposited", 5)])
    assert (alice.fetch()["balance"], alice.fetch()["balance"], alice.sequence) == (5, 5, 0)
    assert alice.replay(0)["balance"] == 5
    assert alice.evaluate(deposit(1))[0].sequence == 1
    assert alice.get() == Account(store, "alice").get()


def test_replay_returns_past_states_and_leaves_the_root_where_it_is(store: ms.Store) -> None:
    alice = Account(store, "alice")
    for amount in (1, 2, 3):
        alice.evaluate(deposit(amount))
    Account(store, "alice").evaluate(deposit(4))
    assert [alice.replay(n)["balance"] for n in range(6)] == [0, 1, 3, 6, 10, 10]
    assert alice.replay(-1)["balance"] == 0
    assert (alice.get()["balance"], alice.sequence) == (6, 3)


def test_a_root_on_a_store_of_one_process_refuses_to_be_pickled(store: ms.Store) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Account(store, "alice"))


def test_a_root_pickles_as_its_class_store_and_id(store: ms.Store) -> None:
    alice = Account(store, "alice")
    alice.evaluate(deposit(1))
    assert alice.__reduce__() == (Account, (store, "alice"))
    assert copy.copy(alice).get() == alice.get()
