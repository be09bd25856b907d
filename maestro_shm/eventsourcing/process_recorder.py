"""Events of an application that processes those of others, each commit with the tracking record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventsourcing.persistence import ProcessRecorder, StoredEvent, Tracking

from maestro_shm.eventsourcing.application_recorder import MaestroApplicationRecorder
from maestro_shm.eventsourcing.tracked_commit import commit_tracked
from maestro_shm.eventsourcing.tracking_recorder import MaestroTrackingRecorder
from maestro_shm.eventsourcing.translation import translating


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
            return self._commit(stored_events, self.datastore.store.commit_events)
        return self._commit(stored_events, lambda events: commit_tracked(self.datastore.store, events, tracking))
