"""Events of an application that processes those of others, each commit with the tracking record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventsourcing.persistence import ProcessRecorder, StoredEvent, Tracking

from maestro_shm.eventsourcing.application_recorder import MaestroApplicationRecorder
from maestro_shm.eventsourcing.originator_id import aggregate_id_of
from maestro_shm.eventsourcing.tracking_recorder import TRACKING, MaestroTrackingRecorder, advance
from maestro_shm.eventsourcing.translation import translating
from maestro_shm.records import Event
from maestro_shm.tables import Tables


class MaestroProcessRecorder(MaestroTrackingRecorder, MaestroApplicationRecorder, ProcessRecorder):
    """What it raises says `translating`."""

    @translating
    def insert_events(
        self, stored_events: Sequence[StoredEvent], *, tracking: Tracking | None = None, **_: Any
    ) -> Sequence[int]:
        """Commit all of the events and the tracking record, or nothing, and return the notification ids.

        Raises `IntegrityError` as `insert_tracking` does, too.
        """
        if tracking is None:
            return self._commit(stored_events)
        if not stored_events:
            self.insert_tracking(tracking)
            return []
        return self._commit(stored_events, [_Advance(stored_events[0], tracking)])


class _Advance:
    """A projection that changes the tracking record, once in each attempt of the commit."""

    def __init__(self, first: StoredEvent, tracking: Tracking) -> None:
        self._first = aggregate_id_of(first.originator_id), first.originator_version
        self._tracking = tracking

    def project(self, event: Event, tables: Tables) -> None:
        if (event.aggregate_id, event.sequence) == self._first:
            advance(tables[TRACKING], self._tracking)
