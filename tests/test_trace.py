"""Correlation and causation: carried on from the command to its events, and from those to what they lead to."""

from __future__ import annotations

from typing import Any

import pytest

import maestro_shm as ms


class Order(ms.Aggregate):
    initial_state = 0

    @ms.on_command("place")
    def place(self, command: ms.Command) -> list[ms.NewEvent]:
        own = command.data
        return [ms.NewEvent("placed", metadata=own), ms.NewEvent("noted")]

    @ms.on_event("placed")
    def placed(state: int, _event: ms.Event) -> int:  # noqa: N805 (a plain function)
        return state + 1

    @ms.on_event("noted")
    def noted(state: int, _event: ms.Event) -> int:  # noqa: N805 (a plain function)
        return state


def metadata(store: ms.Store, aggregate_id: str) -> list[Any]:
    return [event.metadata for event in store.get_events(aggregate_id)]


def test_what_a_command_carries_its_events_have(store: ms.Store) -> None:
    stored = Order(store, "a").evaluate(ms.Command("place", metadata={"correlation_id": "x", "user": 5}))
    assert [event.metadata for event in stored] == metadata(store, "a") == [{"correlation_id": "x", "user": 5}] * 2


def test_a_command_without_metadata_leaves_that_of_its_events_alone(store: ms.Store) -> None:
    Order(store, "a").evaluate(ms.Command("place", {"own": 1}))
    assert metadata(store, "a") == [{"own": 1}, None]


def test_what_the_handler_gives_stands_above_what_the_command_carries(store: ms.Store) -> None:
    Order(store, "a").evaluate(ms.Command("place", {"user": 6}, metadata={"correlation_id": "x", "user": 5}))
    assert metadata(store, "a") == [{"correlation_id": "x", "user": 6}, {"correlation_id": "x", "user": 5}]


def test_a_chain_of_commands_is_traced_to_its_beginning(store: ms.Store) -> None:
    first, _ = Order(store, "a").evaluate(ms.Command("place"))
    second, _ = Order(store, "b").evaluate(ms.Command("place", metadata=ms.caused_by(first)))
    third, _ = store.transact(
        lambda tx: tx.root(Order, "c").evaluate(ms.Command("place", metadata=ms.caused_by(second)))
    )
    assert ms.event_id(first) == "a@1"
    assert second.metadata == {"correlation_id": "a@1", "causation_id": "a@1"}
    assert third.metadata == {"correlation_id": "a@1", "causation_id": "b@1"}
    assert metadata(store, "c")[0] == third.metadata
    family = [event.aggregate_id for event in store.read() if (event.metadata or {}).get("correlation_id") == "a@1"]
    assert family == ["b", "b", "c", "c"]


def test_metadata_that_cannot_be_any_is_refused_with_its_event(store: ms.Store) -> None:
    with pytest.raises(ms.InvalidEventError, match="metadata"):
        Order(store, "a").evaluate(ms.Command("place", metadata="x"))  # type: ignore[arg-type]
    assert store.get_events("a") == []
