"""Events of aggregates, as streams of the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from eventsourcing.persistence import AggregateRecorder, IntegrityError, ProgrammingError, StoredEvent

from maestro_shm.errors import InvalidEventError, shown
from maestro_shm.eventsourcing.originator_id import aggregate_id_of
from maestro_shm.eventsourcing.recorder import MaestroRecorder
from maestro_shm.eventsourcing.translation import translating
from maestro_shm.records import MAX_SEQUENCE, Event

_Commit = Callable[[list[Event]], Sequence[Event]]
"""Stores events, and gives them back as stored."""
_WIDER: Final = 8
"""How much further back to look for the newest events where versions have gaps."""


class MaestroAggregateRecorder(MaestroRecorder, AggregateRecorder):
    """What it raises says `translating`."""

    @translating
    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """Commit all of the events or none.

        Raises `IntegrityError` if the version of any is not above the last one of its aggregate.
        """
        self._commit(stored_events, self.datastore.store.commit_events)
        return None

    @translating
    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """The aggregate's events with versions above `gt` and up to `lte`, or the first `limit` of them."""
        check_limit(limit)
        first, last = 0 if gt is None else gt + 1, MAX_SEQUENCE if lte is None else lte
        aggregate_id = aggregate_id_of(originator_id)
        if desc and limit is not None:
            events = self._newest(aggregate_id, first, last, limit)
        else:
            events = self.datastore.store.get_events(aggregate_id, first, max_sequence=last)
        if desc:
            events.reverse()
        return [
            StoredEvent(originator_id, event.sequence, event.type, event.body)
            for event in (events if limit is None else events[:limit])
        ]

    def _commit(self, stored_events: Sequence[StoredEvent], commit: _Commit) -> list[int]:
        """The positions of the events."""
        events = [_as_event(stored) for stored in stored_events]
        try:
            with self.datastore.turns.next():
                return [event.position or 0 for event in commit(events)]
        except InvalidEventError as error:
            _refuse_repeated(stored_events, error)
            raise

    def _newest(self, aggregate_id: str, first: int, last: int, count: int) -> list[Event]:
        """So many of the newest events between the bounds, in their order, and maybe some before them."""
        store = self.datastore.store
        head = store.last_sequence(aggregate_id)
        if head is None or not count:
            return []
        last = min(last, head)
        span = count
        while True:  # once, unless there are gaps
            start = max(first, last - span + 1)
            events = store.get_events(aggregate_id, start, max_sequence=last)
            if len(events) >= count or start == first:
                return events
            span *= _WIDER


def check_limit(limit: int | None) -> None:
    """Raise `ProgrammingError` for a number of events that is below 0."""
    if limit is not None and limit < 0:
        raise ProgrammingError(f"the limit must be None or an int from 0 up, not {shown(limit)}")


def _as_event(stored: StoredEvent) -> Event:
    return Event(aggregate_id_of(stored.originator_id), stored.originator_version, stored.topic, stored.state)


def _refuse_repeated(stored_events: Sequence[StoredEvent], cause: InvalidEventError) -> None:
    """Raise `IntegrityError` if versions do not rise: by the library's rules that is a conflict and no bad data."""
    last: dict[UUID | str, int] = {}
    for stored in stored_events:
        version = stored.originator_version
        if type(version) is not int or version < 0:
            return
        if version <= last.get(stored.originator_id, -1):
            raise IntegrityError(str(cause)) from cause
        last[stored.originator_id] = version
