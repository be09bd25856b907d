"""Translating events of old types to the newest ones while they are applied."""

# ruff: noqa: N805 (handlers of events take no self)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import maestro_shm as ms


class Counter(ms.Aggregate):
    initial_state: ClassVar[Any] = 0

    @ms.on_command("add")
    def add(self, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("added", command.data)]

    @ms.on_command("return")
    def give_back(self, command: ms.Command) -> Any:
        return command.data

    @ms.on_event("added")
    def added(state: Any, event: ms.Event) -> Any:
        return state + event.body


class Modern(Counter):
    """Has seen two older forms of its events."""

    @ms.upcast("increased")
    def increased(event: ms.Event) -> ms.NewEvent:
        return ms.NewEvent("changed", {"by": event.body})

    @ms.upcast("changed")
    def changed(event: ms.Event) -> ms.NewEvent:
        return ms.NewEvent("added", event.body["by"])


class Watching(ms.Aggregate):
    """Its state is the last event that it was given."""

    @ms.upcast("plain")
    def plain(event: ms.Event) -> ms.NewEvent:
        return ms.NewEvent("seen", [event.body])

    @ms.upcast("marked")
    def marked(event: ms.Event) -> ms.NewEvent:
        return ms.NewEvent("seen", event.body, {"from": "marked"})

    @ms.on_event("seen")
    def seen(state: object, event: ms.Event) -> ms.Event:
        return event


@pytest.fixture
def store() -> Iterator[ms.Store]:
    with ms.connect("memory:") as store:
        yield store


def test_an_upcast_is_a_plain_function_of_its_class() -> None:
    assert Modern.increased(ms.Event("c", 1, "increased", 3)) == ms.NewEvent("changed", {"by": 3})


def test_a_new_event_of_an_upcast_type_is_refused(store: ms.Store) -> None:
    with pytest.raises(ms.InvalidHandlerError, match="'changed': Modern upcasts events of this old type"):
        Modern(store, "x").evaluate(ms.Command("return", [ms.NewEvent("changed", {"by": 1})]))
    assert store.stats()["events"] == 0


def test_upcasts_chain_to_the_newest_type(store: ms.Store) -> None:
    store.commit_events(
        [ms.Event("x", 1, "increased", 1), ms.Event("x", 2, "changed", {"by": 20}), ms.Event("x", 3, "added", 300)]
    )
    root = Modern(store, "x")
    assert (root.get(), root.replay(1), root.replay(2), root.sequence) == (321, 1, 21, 3)
    assert [event.type for event in store.get_events("x")] == ["increased", "changed", "added"]


def test_an_upcast_event_keeps_all_but_type_and_body(store: ms.Store) -> None:
    store.commit_events([ms.Event("other", 1, "x", None)])
    (stored,) = store.commit_events([ms.Event("x", 4, "plain", 7, metadata={"by": "alice"})])
    seen = Watching(store, "x").get()
    assert seen == ms.Event("x", 4, "seen", [7], stored.timestamp, 2, {"by": "alice"})


def test_an_upcast_may_replace_the_metadata(store: ms.Store) -> None:
    store.commit_events([ms.Event("x", 1, "marked", 7, metadata={"by": "alice"})])
    assert Watching(store, "x").get().metadata == {"from": "marked"}


def test_an_upcast_goes_before_a_handler_of_the_same_type(store: ms.Store) -> None:
    class Corrected(Counter):
        @ms.upcast("added")
        def negated(event: ms.Event) -> ms.NewEvent:
            return ms.NewEvent("corrected", -event.body)

        @ms.on_event("corrected")
        def corrected(state: Any, event: ms.Event) -> Any:
            return state + event.body

    store.commit_events([ms.Event("x", 1, "added", 5)])
    assert Corrected(store, "x").get() == -5


@pytest.mark.parametrize("steps", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b"}])
def test_upcasts_in_a_circle_are_refused_at_use(store: ms.Store, steps: dict[str, str]) -> None:
    def to(newer: str) -> Any:
        return lambda _: ms.NewEvent(newer)

    body = {f"from_{old}": ms.upcast(old)(to(newer)) for old, newer in steps.items()}
    circular = type("Circular", (ms.Aggregate,), body)
    store.commit_events([ms.Event("x", 1, "a", None)])
    with pytest.raises(ms.InvalidHandlerError, match="'a': its upcasts go in a circle"):
        circular(store, "x").get()


def test_an_upcast_must_return_a_new_event(store: ms.Store) -> None:
    same = type("Same", (ms.Aggregate,), {"old": ms.upcast("old")(lambda event: event)})
    store.commit_events([ms.Event("x", 1, "old", None)])
    with pytest.raises(ms.InvalidHandlerError, match=r"'old': its upcast must return a NewEvent, not Event\("):
        same(store, "x").get()


def test_an_upcast_to_a_type_without_handler_names_that_type(store: ms.Store) -> None:
    astray = type("Astray", (ms.Aggregate,), {"old": ms.upcast("old")(lambda _: ms.NewEvent("nowhere"))})
    store.commit_events([ms.Event("x", 1, "old", None)])
    with pytest.raises(ms.InvalidHandlerError, match="'nowhere': Astray has no on_event handler"):
        astray(store, "x").get()
