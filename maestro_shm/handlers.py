"""Registering the handlers of aggregates, and finding them again by type.

Rules kept here: a class has at most one handler per kind and type of its own; a subclass inherits handlers along the
MRO and may override them, by type with a decorator or by name without one. What is wrong with a class shows when it
is made, as far as that can be seen without calling a handler. Handlers of events are plain functions, never bound.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from maestro_shm.errors import InvalidHandlerError, shown
from maestro_shm.records import Command, Event, NewEvent

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

_COMMAND: Final = "on_command"
_EVENT: Final = "on_event"
_UPCAST: Final = "upcast"
_MARK: Final = "__maestro_handles__"


class _Key(NamedTuple):
    kind: str
    type: str


class _Entry(NamedTuple):
    name: str
    function: Callable[..., Any]


def on_command(type: str) -> Callable[[_Function], _Function]:  # noqa: A002 (public name)
    """Make a method `(root, command)` the handler of commands of this type.

    It returns the command's `NewEvent`s in a list (or another iterable; a generator will do), an empty one where
    nothing happens, or refuses by raising, best `InvalidCommandError`. It must only look at `root.state` and not
    change it, and it may run several times for one command, since it runs again after every conflict. The function is
    marked, so it belongs to one class and its subclasses. Raises `InvalidHandlerError` if the type is not a non-empty
    `str`, or what it decorates is not a plain function.
    """
    return lambda function: _mark(_Key(_COMMAND, type), function, function)


def on_event(type: str) -> Callable[[Callable[_Params, _Result]], staticmethod[_Params, _Result]]:  # noqa: A002 (public)
    """Make a plain function `(state, event)`, written in the class body, the handler of events of this type.

    It returns the next state, also when it has changed the given one in place. It must depend on its two arguments
    alone and always succeed: the event is committed by the time that it runs. It stays callable as
    `Account.withdrawn(state, event)`. Raises `InvalidHandlerError` as `on_command` does.
    """
    return lambda function: _mark(_Key(_EVENT, type), function, staticmethod(_plain(function)))


def upcast(type: str) -> Callable[[Callable[_Params, _Result]], staticmethod[_Params, _Result]]:  # noqa: A002 (public)
    """Make a plain function `(event)`, written in the class body, translate events of this old type to a newer one.

    It returns a `NewEvent` of another type, which may have an upcast in its turn. Sequence number, timestamp and
    position stay the event's; so does the metadata, unless the `NewEvent` brings some. What is stored does not
    change. Raises `InvalidHandlerError` as `on_command` does.
    """
    return lambda function: _mark(_Key(_UPCAST, type), function, staticmethod(_plain(function)))


@dataclass(frozen=True, slots=True)
class Handlers:
    """All handlers of one class of aggregates, by type; `owner` is the name of the class."""

    owner: str
    commands: dict[str, Callable[[Any, Command], Iterable[NewEvent]]]
    events: dict[str, Callable[[Any, Event], Any]]
    upcasts: dict[str, Callable[[Event], NewEvent]]

    def for_command(self, command: Command) -> Callable[[Any, Command], Iterable[NewEvent]]:
        """The handler of the command. Raises `InvalidHandlerError` if there is none."""
        given: object = command  # callers are not all type-checked
        if not isinstance(given, Command) or type(given.type) is not str:
            raise InvalidHandlerError(shown(given), "what is evaluated must be a Command whose type is a str")
        handler = self.commands.get(command.type)
        if handler is None:
            raise self._missing(_COMMAND, command.type)
        return handler

    def next_state(self, state: Any, event: Event) -> Any:
        """The state after the event. Raises `InvalidHandlerError` if its type has no handler, even when upcast."""
        if event.type in self.upcasts:
            event = self._newest(event)
        handler = self.events.get(event.type)
        if handler is None:
            raise self._missing(_EVENT, event.type)
        return handler(state, event)

    def new_events(self, command: Command, returned: object) -> list[NewEvent]:
        """Check what the handler of a command returned; raises `InvalidHandlerError` unless it may be committed."""
        # To ask a list whether it is an `Iterable` takes a microsecond.
        if type(returned) is not list and (isinstance(returned, NewEvent) or not isinstance(returned, Iterable)):
            raise InvalidHandlerError(command.type, _not_new_events(returned))
        events = list(returned)
        for event in events:
            if not isinstance(event, NewEvent):
                raise InvalidHandlerError(command.type, _not_new_events(event, "among its events"))
            self._check_new(event)
        return events

    def _check_new(self, event: NewEvent) -> None:
        if type(event.type) is not str:
            raise InvalidHandlerError(shown(event.type), "the type of an event must be a str")
        if event.type in self.upcasts:
            reason = f"{self.owner} upcasts events of this old type, so its commands must return the newer one"
            raise InvalidHandlerError(event.type, reason)
        if event.type not in self.events:
            raise self._missing(_EVENT, event.type)

    def _newest(self, event: Event) -> Event:
        types = [event.type]
        while upcaster := self.upcasts.get(event.type):
            event = _upcasted(event, upcaster(event))
            if event.type in types:
                raise InvalidHandlerError(types[0], f"its upcasts go in a circle: {[*types, event.type]}")
            types.append(event.type)
        return event

    def _missing(self, kind: str, type: str) -> InvalidHandlerError:  # noqa: A002 (a record's field)
        return InvalidHandlerError(type, f"{self.owner} has no {kind} handler for it")


def collect(cls: type, base: type) -> Handlers:
    """The handlers of a new subclass of `base`.

    Raises `InvalidHandlerError` where one class body registers two for the same type, where a handler has the name of
    something that `base` needs itself, and where an inherited handler is overridden by what cannot be called.
    """
    table: dict[_Key, _Entry] = {}
    for ancestor in reversed(cls.__mro__):
        # In the base itself, as in `object`, nothing is marked; its names are what handlers must stay clear of.
        table.update(_overridden(ancestor, table))
        table.update(_own(ancestor, base))
    by_kind: dict[str, dict[str, Any]] = {_COMMAND: {}, _EVENT: {}, _UPCAST: {}}
    for key, entry in table.items():
        by_kind[key.kind][key.type] = entry.function
    return Handlers(cls.__name__, by_kind[_COMMAND], by_kind[_EVENT], by_kind[_UPCAST])


def _own(ancestor: type, base: type) -> dict[_Key, _Entry]:
    own: dict[_Key, _Entry] = {}
    for key, entry in _marked(ancestor):
        if hasattr(base, entry.name):
            raise InvalidHandlerError(key.type, f"its handler needs another name: {entry.name!r} is {base.__name__}'s")
        if own.setdefault(key, entry).function is not entry.function:
            reason = f"{ancestor.__name__} has two {key.kind} handlers for it: {own[key].name!r} and {entry.name!r}"
            raise InvalidHandlerError(key.type, reason)
    return own


def _marked(ancestor: type) -> Iterator[tuple[_Key, _Entry]]:
    for name, value in vars(ancestor).items():
        for key in _marks(value):
            yield key, _Entry(name, _plain(value))


def _overridden(ancestor: type, table: dict[_Key, _Entry]) -> dict[_Key, _Entry]:
    body = vars(ancestor)
    return {
        key: _Entry(entry.name, _checked(key, body[entry.name]))
        for key, entry in table.items()
        if entry.name in body and not _marks(body[entry.name])
    }


def _mark(key: _Key, decorated: object, marked: _Result) -> _Result:
    if type(key.type) is not str or not key.type:
        raise InvalidHandlerError(repr(key.type), f'{key.kind} needs a non-empty str, as in @{key.kind}("some type")')
    _checked(key, decorated)
    setattr(marked, _MARK, (*_marks(decorated), key))
    return marked


def _marks(value: object) -> tuple[_Key, ...]:
    # Not `getattr`: a class attribute may be anything, and some objects (mocks, proxies) have every attribute.
    marks: tuple[_Key, ...] = getattr(value, "__dict__", {}).get(_MARK, ())
    return marks


def _checked(key: _Key, value: object) -> Callable[..., Any]:
    function: object = _plain(value)
    if isinstance(function, type) or not callable(function):
        raise InvalidHandlerError(key.type, f"its {key.kind} handler must be a plain function, not {value!r}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidHandlerError(key.type, f"its {key.kind} handler must not be async")
    return function


def _plain(value: Any) -> Any:
    return value.__func__ if isinstance(value, staticmethod) else value


def _not_new_events(returned: object, where: str = "") -> str:
    hint = "return [] for no events" if returned is None else "return NewEvents in a list"
    return f"its handler returned {shown(returned)} {where}".rstrip() + f"; {hint}"


def _upcasted(event: Event, newer: object) -> Event:
    if not isinstance(newer, NewEvent):
        raise InvalidHandlerError(event.type, f"its upcast must return a NewEvent, not {shown(newer)}")
    metadata = event.metadata if newer.metadata is None else newer.metadata
    return replace(event, type=newer.type, body=newer.body, metadata=metadata)
