"""States that handlers change in place: nothing is shared by accident, and nothing is half applied."""

# ruff: noqa: N805 (handlers of events take no self)

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import maestro_shm as ms


class Basket(ms.Aggregate):
    """Its handlers change the state in place, and keep the very objects that events bring."""

    initial_state: ClassVar[Any] = {"items": [], "times": []}

    @ms.on_command("fill")
    def fill(basket, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("filled", command.data), ms.NewEvent("added", "bread")]

    @ms.on_command("refill")
    def refill(basket, _command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("added", "salt"), ms.NewEvent("filled", basket.state["items"])]

    @ms.on_command("note")
    def note(basket, _command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("noted"), ms.NewEvent("noted")]

    @ms.on_event("filled")
    def filled(state: Any, event: ms.Event) -> Any:
        state["items"] = event.body
        return state

    @ms.on_event("added")
    def added(state: Any, event: ms.Event) -> Any:
        state["items"].append(event.body)
        return state

    @ms.on_event("noted")
    def noted(state: Any, event: ms.Event) -> Any:
        state["times"].append((event.position, event.timestamp))
        return state


class Fragile(ms.Aggregate):
    """Its handler changes the state in place and then raises for some events."""

    initial_state: ClassVar[Any] = []
    fails = True

    @ms.on_command("append")
    def append(fragile, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("appended", item) for item in command.data]

    @ms.on_event("appended")
    def appended(state: Any, event: ms.Event) -> Any:
        state.append(event.body)
        if event.body == "bad" and Fragile.fails:
            msg = "cannot apply"
            raise ValueError(msg)
        return state


@pytest.fixture
def store() -> Iterator[ms.Store]:
    with ms.connect("memory:") as store:
        yield store


def test_each_start_gets_its_own_copy_of_the_initial_state(store: ms.Store) -> None:
    Basket(store, "a").evaluate(ms.Command("note"))
    root = Basket(store, "b")
    root.get()["items"].append("stray")
    assert root.replay(0) == Basket(store, "c").get() == Basket.initial_state == {"items": [], "times": []}


def test_handlers_of_events_see_the_position_and_timestamp_of_what_was_stored(store: ms.Store) -> None:
    store.commit_events([ms.Event("other", 1, "x", None)])
    basket = Basket(store, "b")
    stored = basket.evaluate(ms.Command("note"))
    assert [event.position for event in stored] == [2, 3]
    assert basket.get()["times"] == [(event.position, event.timestamp) for event in stored]


def test_replay_does_not_touch_a_state_that_is_changed_in_place(store: ms.Store) -> None:
    basket = Basket(store, "b")
    basket.evaluate(ms.Command("fill", ["milk"]))
    before = copy.deepcopy(basket.get())
    basket.replay(2)["items"].append("stray")
    assert basket.get() == before == basket.replay(2)


def test_handlers_may_change_the_state_in_place(store: ms.Store) -> None:
    basket = Basket(store, "b")
    basket.evaluate(ms.Command("fill", ["milk"]))
    refilled = basket.evaluate(ms.Command("refill"))
    assert basket.get()["items"] == ["milk", "bread"]
    assert Basket(store, "b").get() == basket.get()
    assert refilled == store.get_events("b", 3)
    assert basket.replay(3)["items"] == ["milk", "bread", "salt"]


def test_the_state_shares_nothing_with_the_command_or_with_the_returned_events(store: ms.Store) -> None:
    basket = Basket(store, "b")
    data = ["milk"]
    stored = basket.evaluate(ms.Command("fill", data))
    assert data == ["milk"]
    assert stored == store.get_events("b")
    data.append("later")
    assert basket.get()["items"] == ["milk", "bread"]


@pytest.mark.parametrize("mended", [False, True])
def test_a_root_whose_handler_of_events_raises_is_never_half_applied(
    store: ms.Store, monkeypatch: pytest.MonkeyPatch, *, mended: bool
) -> None:
    root = Fragile(store, "f")
    root.evaluate(ms.Command("append", ["a"]))
    with pytest.raises(ValueError, match="cannot apply"):
        root.evaluate(ms.Command("append", ["b", "bad", "c"]))
    assert (root.sequence, store.last_sequence("f")) == (0, 4)
    monkeypatch.setattr(Fragile, "fails", not mended)
    if mended:
        assert root.get() == ["a", "b", "bad", "c"]
    else:
        with pytest.raises(ValueError, match="cannot apply"):
            root.get()


def test_a_root_is_not_half_applied_when_catching_up_fails(store: ms.Store) -> None:
    root = Fragile(store, "f")
    root.evaluate(ms.Command("append", ["a"]))
    store.commit_events([ms.Event("f", 2, "appended", "b"), ms.Event("f", 3, "appended", "bad")])
    with pytest.raises(ValueError, match="cannot apply"):
        root.fetch()
    assert root.sequence == 0
    assert root.replay(2) == ["a", "b"]
