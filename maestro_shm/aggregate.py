"""Aggregate roots: the state of one aggregate, and the lifecycle of its commands.

Rules kept here: an event is applied after its commit and never before, once, in the order of its sequence. A root is
never half applied: when a handler of events raises, the root forgets its state. Nothing of a command is committed
unless its handler saw every event stored before. Roots leave no gap in a stream and start it at 1, but put up with
raw events that leave gaps or start at 0. Nothing is known here of any store beyond the contract.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any, ClassVar, Final, Self

from maestro_shm import codec
from maestro_shm.clock import new_id
from maestro_shm.errors import (
    InvalidEventError,
    InvalidHandlerError,
    RetriesExhaustedError,
    SequenceConflictError,
    TruncatedError,
    shown,
)
from maestro_shm.handlers import Handlers, collect
from maestro_shm.projection import Projection
from maestro_shm.records import MAX_SEQUENCE, Command, Event, NewEvent, Snapshot
from maestro_shm.retries import DEFAULT_SECONDS
from maestro_shm.store import Store
from maestro_shm.trace import carried
from maestro_shm.validation import check_aggregate_id

_NOT_LOADED: Final = object()


class Aggregate:
    """The root of one aggregate: subclass it, and register handlers by `on_command`, `on_event` and `upcast`.

    A root keeps the state that it has seen and catches up with the store when asked. Roots of one aggregate may exist
    in many processes and threads at once, but each root belongs to one thread at a time. It pickles as its class,
    store and id, and loads the state anew on the other side. After `Store.reset`, make roots anew.

    Raises `InvalidEventError` for an id that is not a non-empty `str`.
    """

    initial_state: ClassVar[Any] = None
    """The state before the first event, copied for every start; or a method (or a type) that makes it."""
    state_version: ClassVar[int] = 1
    """Raise it when the state's form or the handlers of events change: snapshots of other versions are not used."""
    snapshot_every: ClassVar[int | None] = None
    """Take a snapshot after a commit once it is this many sequence numbers past the last known one; None for never."""
    retry_timeout: ClassVar[float] = DEFAULT_SECONDS
    """For how many seconds `evaluate` goes on trying while it meets conflicts."""
    projections: ClassVar[Sequence[Projection]] = ()
    """What its events change in tables, in the same commits. What one raises reaches the caller of `evaluate`."""

    id: str
    """Which aggregate this is the root of."""
    store: Store
    """Where its events are."""
    conflicts: int
    """How many conflicts this root has met so far."""

    _handlers: ClassVar[Handlers] = Handlers("Aggregate", {}, {}, {})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._handlers = collect(cls, Aggregate)
        every, timeout = cls.snapshot_every, cls.retry_timeout
        if every is not None and (type(every) is not int or every < 1):
            raise ValueError(f"{cls.__name__}.snapshot_every must be None or an int from 1 up, not {shown(every)}")
        if type(timeout) not in (int, float) or not timeout >= 0:
            raise ValueError(f"{cls.__name__}.retry_timeout must be a number of seconds, not {shown(timeout)}")

    def __init__(self, store: Store, id: str) -> None:  # noqa: A002 (public name)
        check_aggregate_id(id)
        self.id = id
        self.store = store
        self.conflicts = 0
        self._evaluating: str | None = None
        self._forget()

    @classmethod
    def new(cls, store: Store) -> Self:
        """The root of a new aggregate, with an id that nobody else has."""
        return cls(store, new_id())

    @property
    def sequence(self) -> int:
        """The sequence number of the last event in the root's state; 0 before there are any. Never asks the store."""
        return max(self._next_sequence - 1, 0)

    @property
    def state(self) -> Any:
        """The same as `get()`."""
        return self.get()

    def get(self) -> Any:
        """The state that the root has, which may be stale; it is loaded at the first use. Not to be changed."""
        return self.fetch() if self._state is _NOT_LOADED else self._state

    def fetch(self) -> Any:
        """Catch up with the store and return the state. Not to be changed.

        Raises `InvalidHandlerError` for an event whose type has no handler, and what handlers of events raise; the
        root has then forgotten its state, and loads it anew at the next use. Raises `TruncatedError` where it would
        have to begin with events that were truncated, since the snapshot is of another `state_version`.
        """
        if self._state is _NOT_LOADED:
            self._load()
        else:
            self._catch_up()
        return self._state

    def replay(
        self, sequence: int | None = None, *, position: int | None = None, time: datetime | int | None = None
    ) -> Any:
        """The past state, as it was after this sequence number; the root stays where it is.

        A number below the first event's gives the initial state, one above the last event's the newest. In place of it
        there may be a position or a time, as `Store.at` takes them. Raises as that and `fetch` do; so `TruncatedError`
        where events were truncated, and no snapshot is left of what they did by then.
        """
        if sequence is None:
            return self._state_at(self.store.at(position=position, time=time))
        if position is not None or time is not None:
            raise InvalidEventError("a past state is asked for by one of sequence, position and time")
        return self._state_in(self.store, sequence)

    def evaluate(self, command: Command) -> list[Event]:
        """Bring the state up to date, ask the command's handler, commit and apply what it returns.

        Returns the stored events, with position and timestamp; none are no error. After a conflict it catches up and
        evaluates again, pausing at random between attempts, and raises `RetriesExhaustedError` once `retry_timeout`
        seconds are over. What the handler raises comes through unchanged, and nothing is committed then; the same
        holds for `InvalidHandlerError`, when the command or an event has no handler or the handler returns anything
        but `NewEvent`s. What a handler of events raises comes through too, but that is after the commit: handlers of
        events must always succeed. An automatic snapshot that fails gives a `RuntimeWarning`.

        When it is interrupted (by a signal's handler that raises, say) or ends with `StoreUnavailableError`, the
        command may have been stored, or be stored this moment, or not. The root is none the worse and catches up at its
        next use: look at `fetch()` before evaluating the command again, since what is stored counts as another's then.
        Where that is not enough let the command carry an id that its events keep, so that its handler can tell.
        """
        handler = self._handlers.for_command(command)
        self._refuse_nesting(command)
        with self.store._attempts(self.retry_timeout, self.id) as attempts:
            while (stored := self._attempt(handler, command)) is None:
                self.conflicts += 1
                if not attempts.pause():
                    raise RetriesExhaustedError(self.id, command.type, attempts.count, attempts.seconds())
            if stored:
                attempts.succeed()
        if stored:
            # Handlers of events may keep parts of a body in the state and change them there: what the caller gets must
            # stay as it was stored.
            self._apply(map(codec.copied, stored))
            self._snapshot_if_due()
        return stored

    def snapshot(self) -> bool:
        """Catch up and store a snapshot, so that roots load faster; say whether the store took it.

        False if there are no events yet, or the store has a snapshot of this sequence number or a newer one. Raises
        `InvalidEventError` if the state cannot be stored: see `prepare_snapshot`.
        """
        self.fetch()
        return self._next_sequence > 0 and self._store_snapshot()

    def prepare_snapshot(self, state: Any) -> Any:
        """What to store of a state, in values that bodies may hold; must leave the state as it is. For overriding."""
        return state

    def use_snapshot(self, body: Any) -> Any:
        """The state that `prepare_snapshot` made this body of. For overriding."""
        return body

    def __reduce__(self) -> tuple[type[Self], tuple[Store, str]]:
        return type(self), (self.store, self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r} at sequence {self.sequence}>"

    def _forget(self) -> None:
        self._state: Any = _NOT_LOADED
        # Not the sequence number itself: that cannot tell "no events yet" from a raw event with sequence 0.
        self._next_sequence = 0
        self._snapshot_sequence = 0

    def _state_at(self, past: Store) -> Any:
        try:
            return self._state_in(past, MAX_SEQUENCE)
        except TruncatedError:
            if (last := past.last_sequence(self.id)) is None:
                raise
            return self._state_in(self.store, last)  # a later snapshot may tell what was so then

    def _state_in(self, store: Store, sequence: int) -> Any:
        state, _, events = self._read(store, sequence)
        for event in events:
            state = self._handlers.next_state(state, event)
        return state

    def _load(self) -> None:
        state, next_sequence, events = self._read(self.store, MAX_SEQUENCE)
        # Assigned when the store has told everything, lest a failed read leave a state that was never up to date.
        self._state, self._next_sequence = state, next_sequence
        self._snapshot_sequence = self.sequence
        self._apply(events)

    def _catch_up(self) -> None:
        try:
            events = self.store.get_events(self.id, self._next_sequence, complete=True)
        except TruncatedError:  # what it has missed is in a snapshot by now
            self._load()
        else:
            self._apply(events)

    def _read(self, store: Store, max_sequence: int) -> tuple[Any, int, list[Event]]:
        """The state to begin with, the sequence number to go on from, and the events from there on."""
        before = -1
        while True:
            state, next_sequence = self._start(store, max_sequence)
            try:
                return (
                    state,
                    next_sequence,
                    store.get_events(self.id, next_sequence, max_sequence=max_sequence, complete=True),
                )
            except TruncatedError:
                # If it was since the look at the snapshot, there is a newer one.
                if next_sequence == before:
                    raise
                before = next_sequence

    def _start(self, store: Store, max_sequence: int) -> tuple[Any, int]:
        """The state to begin with on the way to `max_sequence`, and the sequence number to go on from."""
        snapshot = store.get_snapshot(self.id, max_sequence=max_sequence)
        if snapshot is not None and self._is_usable(snapshot.body):
            return self.use_snapshot(snapshot.body["state"]), snapshot.sequence + 1
        initial = self.initial_state
        return deepcopy(initial() if callable(initial) else initial), 0

    def _is_usable(self, body: Any) -> bool:
        return isinstance(body, dict) and "state" in body and body.get("state_version") == self.state_version

    def _apply(self, events: Iterable[Event]) -> None:
        try:
            for event in events:
                self._state = self._handlers.next_state(self._state, event)
                self._next_sequence = event.sequence + 1
        except BaseException:
            # The handler may have changed the state in place before it raised.
            self._forget()
            raise

    def _attempt(self, handler: Callable[[Any, Command], Iterable[NewEvent]], command: Command) -> list[Event] | None:
        """The stored events, or None after a conflict."""
        self.fetch()
        # Taken before the handler runs: should it move the root, its decision is stale and has to conflict.
        first = self.sequence + 1
        new = self._decide(handler, command)
        events = [
            Event(self.id, sequence, event.type, event.body, metadata=carried(command.metadata, event.metadata))
            for sequence, event in enumerate(new, first)
        ]
        try:
            if self.projections and events:
                return self.store.commit_all(events, self.projections)
            return self.store.commit_events(events) if events else []
        except SequenceConflictError:
            return None

    def _decide(self, handler: Callable[[Any, Command], Iterable[NewEvent]], command: Command) -> list[NewEvent]:
        self._evaluating = command.type
        try:
            return self._handlers.new_events(command, handler(self, command))
        finally:
            self._evaluating = None

    def _refuse_nesting(self, command: Command) -> None:
        # Events of the inner command would make the outer one conflict and evaluate both again, for ever.
        if self._evaluating is not None:
            reason = f"evaluated while {self!r} evaluates {self._evaluating!r}; let that handler return all the events"
            raise InvalidHandlerError(command.type, reason)

    def _store_snapshot(self) -> bool:
        body = {"state_version": self.state_version, "state": self.prepare_snapshot(self._state)}
        stored = self.store.commit_snapshot(Snapshot(self.id, self.sequence, body))
        self._snapshot_sequence = self.sequence
        return stored

    def _snapshot_if_due(self) -> None:
        if self.snapshot_every is None or self.sequence - self._snapshot_sequence < self.snapshot_every:
            return
        try:
            self._store_snapshot()
        except Exception as error:  # noqa: BLE001 (the command has succeeded, whatever becomes of the snapshot)
            message = f"no snapshot of {self!r}, though its events are committed: {error!r}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
