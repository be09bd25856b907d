"""Registering handlers, and refusing those that break their contract."""

# ruff: noqa: N805 (handlers of events take no self)

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import maestro_shm as ms


@pytest.fixture
def store() -> Iterator[ms.Store]:
    with ms.connect("memory:") as store:
        yield store


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


def test_a_handler_of_events_is_a_plain_function_of_its_class_and_of_its_roots(store: ms.Store) -> None:
    event = ms.Event("c", 1, "added", 3)
    assert Counter.added(4, event) == Counter(store, "c").added(4, event) == 7


def test_one_function_may_handle_several_types(store: ms.Store) -> None:
    class Both(ms.Aggregate):
        initial_state = 0

        @ms.on_command("up")
        @ms.on_command("more")
        def up(self, _command: ms.Command) -> list[ms.NewEvent]:
            return [ms.NewEvent("a"), ms.NewEvent("b")]

        @ms.on_event("a")
        @ms.on_event("b")
        def counted(state: int, _event: ms.Event) -> int:
            return state + 1

    root = Both(store, "x")
    root.evaluate(ms.Command("up"))
    root.evaluate(ms.Command("more"))
    assert root.get() == 4


def test_a_handler_may_be_marked_as_a_static_method_too(store: ms.Store) -> None:
    class Static(Counter):
        @ms.on_event("added")
        @staticmethod
        def twice(state: int, event: ms.Event) -> int:
            return state + 2 * int(event.body)

    root = Static(store, "x")
    root.evaluate(ms.Command("add", 3))
    assert root.get() == root.twice(0, ms.Event("x", 1, "added", 3)) == 6


def test_a_function_registered_by_two_classes_gives_neither_the_others_types(store: ms.Store) -> None:
    def same(state: Any, _event: ms.Event) -> Any:
        return state

    class First(ms.Aggregate):
        first = ms.on_event("first")(same)

    class Second(ms.Aggregate):
        second = ms.on_event("second")(same)

    store.commit_events([ms.Event("x", 1, "first", None)])
    assert First(store, "x").get() is None
    with pytest.raises(ms.InvalidHandlerError, match=r"^'first': Second has no on_event handler"):
        Second(store, "x").get()


def test_a_wrapper_around_a_handler_takes_its_place(store: ms.Store) -> None:
    def doubled(handler: Any) -> Any:
        @functools.wraps(handler)
        def wrapper(*args: Any) -> Any:
            return 2 * handler(*args)

        return wrapper

    class Wrapped(Counter):
        @doubled
        @ms.on_command("add")
        def add(self, command: ms.Command) -> list[ms.NewEvent]:
            return [ms.NewEvent("added", command.data)]

    assert len(Wrapped(store, "x").evaluate(ms.Command("add", 1))) == 2


def test_handlers_are_inherited_and_overridden_by_type(store: ms.Store) -> None:
    class Eager(Counter):
        @ms.on_command("add")
        def add_more(self, command: ms.Command) -> list[ms.NewEvent]:
            return [ms.NewEvent("added", command.data + 1)]

    class Third(Eager):
        @ms.on_event("added")
        def tripled(state: int, event: ms.Event) -> int:
            return state + 3 * int(event.body)

    for kind, expected in ((Counter, 1), (Eager, 2), (Third, 6)):
        root = kind(store, kind.__name__)
        root.evaluate(ms.Command("add", 1))
        assert root.get() == expected


def test_a_method_without_a_decorator_overrides_the_handler_of_its_name(store: ms.Store) -> None:
    class Doubling(Counter):
        def add(self, command: ms.Command) -> list[ms.NewEvent]:
            return [*super().add(command), *super().add(command)]

        @staticmethod
        def added(state: Any, event: ms.Event) -> Any:
            return Counter.added(state, event) + 100

    root = Doubling(store, "x")
    root.evaluate(ms.Command("add", 1))
    assert root.get() == 202


def test_a_name_overrides_a_handler_only_while_that_is_in_force(store: ms.Store) -> None:
    class Renamed(Counter):
        @ms.on_event("added")
        def better(state: Any, event: ms.Event) -> Any:
            return state - event.body

    class Last(Renamed):
        @staticmethod
        def added(_state: Any, _event: ms.Event) -> Any:
            raise AssertionError

    root = Last(store, "x")
    root.evaluate(ms.Command("add", 1))
    assert root.get() == -1


def test_handlers_come_from_mixins_in_the_order_of_the_mro(store: ms.Store) -> None:
    class Twice:
        @ms.on_event("added")
        def twice(state: int, event: ms.Event) -> int:
            return state + 2 * int(event.body)

    class Before(Twice, Counter):
        pass

    class After(Counter, Twice):
        pass

    store.commit_events([ms.Event("x", 1, "added", 5)])
    assert (Before(store, "x").get(), After(store, "x").get()) == (10, 5)


def test_two_handlers_of_one_type_in_one_class_are_refused_when_it_is_made() -> None:
    def class_with_two(decorator: Any) -> None:
        type("Two", (ms.Aggregate,), {"one": decorator(lambda *_: None), "two": decorator(lambda *_: None)})

    for kind in (ms.on_command, ms.on_event, ms.upcast):
        with pytest.raises(ms.InvalidHandlerError, match=r"Two has two .* handlers for it: 'one' and 'two'") as caught:
            class_with_two(kind("added"))
        assert caught.value.type == "added"


def test_a_second_name_for_the_same_handler_is_no_second_handler(store: ms.Store) -> None:
    class Alias(Counter):
        @ms.on_event("added")
        def plus(state: int, _event: ms.Event) -> int:
            return state + 10

        also = plus

    store.commit_events([ms.Event("x", 1, "added", 5)])
    assert Alias(store, "x").get() == 10


@pytest.mark.parametrize("name", ["snapshot", "fetch", "state", "_apply"])
def test_a_handler_may_not_have_a_name_that_roots_need(name: str) -> None:
    with pytest.raises(ms.InvalidHandlerError, match=f"'{name}' is Aggregate's"):
        type("Clash", (ms.Aggregate,), {name: ms.on_command("x")(lambda *_: [])})


def test_an_inherited_handler_may_not_be_overridden_by_what_cannot_be_called() -> None:
    with pytest.raises(ms.InvalidHandlerError, match="'added': its on_event handler must be a plain function"):
        type("Hole", (Counter,), {"added": None})


async def _async(*_: object) -> None: ...


async def _async_generator(*_: object) -> Any:
    yield


@pytest.mark.parametrize("decorator", [ms.on_command, ms.on_event, ms.upcast])
def test_a_decorator_refuses_what_can_be_no_handler(decorator: Any) -> None:
    no_functions = (None, 5, int, classmethod(lambda *_: None), property(lambda _: None))
    for bad in no_functions:
        with pytest.raises(ms.InvalidHandlerError, match="must be a plain function"):
            decorator("x")(bad)


@pytest.mark.parametrize("decorator", [ms.on_command, ms.on_event, ms.upcast])
@pytest.mark.parametrize("bad", [_async, _async_generator])
def test_a_decorator_refuses_async_functions(decorator: Any, bad: Any) -> None:
    with pytest.raises(ms.InvalidHandlerError, match="must not be async"):
        decorator("x")(bad)


@pytest.mark.parametrize("decorator", [ms.on_command, ms.on_event, ms.upcast])
@pytest.mark.parametrize("bad", ["", None, 5, b"x", lambda *_: None])
def test_a_decorator_needs_the_type_as_a_non_empty_string(decorator: Any, bad: Any) -> None:
    with pytest.raises(ms.InvalidHandlerError, match="needs a non-empty str"):
        decorator(bad)(lambda *_: None)


def test_an_unknown_command_is_refused_before_the_store_is_asked(store: ms.Store) -> None:
    root = Counter(store, "x")
    store.close()
    with pytest.raises(ms.InvalidHandlerError, match="Counter has no on_command handler for it") as caught:
        root.evaluate(ms.Command("subtract", 1))
    assert caught.value.type == "subtract"


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, r"returned None; return \[\] for no events"),
        (ms.NewEvent("added", 1), r"returned NewEvent\(.*; return NewEvents in a list"),
        (7, "returned 7; return NewEvents in a list"),
        ("added", "returned 'a' among its events; return NewEvents in a list"),
        ({"added": 1}, "returned 'added' among its events"),
        ([ms.NewEvent("added", 1), None], "returned None among its events"),
        ([ms.Event("x", 1, "added", 1)], r"returned Event\(.* among its events"),
        ([[ms.NewEvent("added", 1)]], r"returned \[NewEvent\(.* among its events"),
    ],
)
def test_a_command_handler_that_returns_anything_but_new_events_is_refused(
    store: ms.Store, returned: Any, says: str
) -> None:
    root = Counter(store, "x")
    with pytest.raises(ms.InvalidHandlerError, match=says) as caught:
        root.evaluate(ms.Command("return", returned))
    assert caught.value.type == "return"
    assert store.stats()["events"] == root.sequence == 0


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "returned",
    [10**5000, [10**5000], Unprintable(), [Unprintable()], ["x" * 1_000_000]],
    ids=["huge int", "list of one", "unprintable", "list of one such", "list of a long str"],
)
def test_what_cannot_be_shown_is_refused_like_anything_else(store: ms.Store, returned: Any) -> None:
    with pytest.raises(ms.InvalidHandlerError) as caught:
        Counter(store, "x").evaluate(ms.Command("return", returned))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("bad", [[], None, 5])
def test_a_type_that_is_no_str_is_refused_and_named(store: ms.Store, bad: Any) -> None:
    with pytest.raises(ms.InvalidHandlerError, match="a Command whose type is a str") as caught:
        Counter(store, "x").evaluate(ms.Command(bad))
    assert repr(bad) in caught.value.type
    with pytest.raises(ms.InvalidHandlerError, match="the type of an event must be a str") as caught:
        Counter(store, "x").evaluate(ms.Command("return", [ms.NewEvent(bad)]))
    assert caught.value.type == repr(bad)


def test_what_is_no_command_is_refused_and_named(store: ms.Store) -> None:
    not_a_command: Any = "add"
    with pytest.raises(ms.InvalidHandlerError, match="a Command whose type is a str") as caught:
        Counter(store, "x").evaluate(not_a_command)
    assert caught.value.type == "'add'"


@pytest.mark.parametrize("bad", [0, -1, "3", 2.0, True])
def test_a_class_whose_snapshots_cannot_be_counted_is_refused_when_it_is_made(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"Wrong\.snapshot_every must be None or an int from 1 up"):
        type("Wrong", (Counter,), {"snapshot_every": bad})


@pytest.mark.parametrize("bad", [-1, "3", None, float("nan"), True])
def test_a_class_whose_time_is_no_time_is_refused_when_it_is_made(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"Wrong\.retry_timeout must be a number of seconds"):
        type("Wrong", (Counter,), {"retry_timeout": bad})


@pytest.mark.parametrize("of_kind", [list, tuple, iter, lambda events: (event for event in events)])
def test_new_events_may_come_in_any_iterable(store: ms.Store, of_kind: Any) -> None:
    root = Counter(store, "x")
    root.evaluate(ms.Command("return", of_kind([ms.NewEvent("added", 1), ms.NewEvent("added", 2)])))
    assert (root.get(), root.sequence) == (3, 2)


def test_an_exception_from_a_generator_handler_commits_nothing(store: ms.Store) -> None:
    class Yielding(Counter):
        @ms.on_command("yield")
        def give(self, command: ms.Command) -> Iterator[ms.NewEvent]:
            yield ms.NewEvent("added", 1)
            raise ms.InvalidCommandError(command.type)

    with pytest.raises(ms.InvalidCommandError):
        Yielding(store, "x").evaluate(ms.Command("yield"))
    assert store.stats()["events"] == 0


def test_a_new_event_without_handler_is_refused_with_all_of_its_command(store: ms.Store) -> None:
    events = [ms.NewEvent("added", 1), ms.NewEvent("lost", 1)]
    with pytest.raises(ms.InvalidHandlerError, match="Counter has no on_event handler for it") as caught:
        Counter(store, "x").evaluate(ms.Command("return", events))
    assert caught.value.type == "lost"
    assert store.stats()["events"] == 0


def test_a_stored_event_without_handler_is_named_and_leaves_the_root_not_loaded(store: ms.Store) -> None:
    root = Counter(store, "x")
    root.evaluate(ms.Command("add", 1))
    store.commit_events([ms.Event("x", 2, "added", 1), ms.Event("x", 3, "lost", None)])
    for load in (root.fetch, root.get, lambda: root.replay(3)):
        with pytest.raises(ms.InvalidHandlerError, match="Counter has no on_event handler for it") as caught:
            load()
        assert caught.value.type == "lost"
        assert root.sequence == 0
    assert root.replay(2) == 2


def test_an_interrupted_handler_of_events_leaves_the_root_not_loaded(store: ms.Store) -> None:
    class Interrupted(Counter):
        initial_state: ClassVar[Any] = dict
        interrupt = True

        @ms.on_event("added")
        def added(state: Any, event: ms.Event) -> Any:
            state[event.sequence] = event.body
            if event.sequence == 2 and Interrupted.interrupt:
                raise KeyboardInterrupt
            return state

    root = Interrupted(store, "x")
    with pytest.raises(KeyboardInterrupt):
        root.evaluate(ms.Command("return", [ms.NewEvent("added", 1), ms.NewEvent("added", 2)]))
    assert root.sequence == 0
    Interrupted.interrupt = False
    assert root.get() == {1: 1, 2: 2}
