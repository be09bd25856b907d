"""Tracking records: which notification of another application was processed last, as entries of a table."""

from __future__ import annotations

import threading
import time
from typing import Final

from eventsourcing.persistence import Tracking, TrackingRecorder, WaitInterruptedError

from maestro_shm.eventsourcing.recorder import MaestroRecorder
from maestro_shm.eventsourcing.tracked_commit import TRACKING, check_later, commit_tracked
from maestro_shm.eventsourcing.translation import translating
from maestro_shm.transaction import Transaction
from maestro_shm.vigil import Vigil

_LOOK: Final = 0.1
"""Seconds between two looks at an interrupt, which nobody can be woken by."""


class MaestroTrackingRecorder(MaestroRecorder, TrackingRecorder):
    """Views subclass it, and keep what they make of events in tables: `track` belongs into the same transaction.

    What it raises says `translating`.
    """

    @translating
    def insert_tracking(self, tracking: Tracking) -> None:
        """Raises `IntegrityError` if the notification, or a later one of this application, has been tracked."""
        store = self.datastore.store
        with self.datastore.turns.next():
            commit_tracked(store, (), tracking)

    def track(self, transaction: Transaction, tracking: Tracking) -> None:
        """Record it with the commit of a transaction of `datastore`. Raises as `insert_tracking` does."""
        table = transaction.table(TRACKING)
        check_later(table.get(tracking.application_name), tracking)
        table[tracking.application_name] = tracking.notification_id

    @translating
    def max_tracking_id(self, application_name: str) -> int | None:
        """The id of the last notification of this application that was tracked, or None."""
        last: int | None = self.datastore.store.table(TRACKING).get(application_name)
        return last

    @translating
    def wait(
        self,
        application_name: str,
        notification_id: int | None,
        timeout: float = 1.0,
        interrupt: threading.Event | None = None,
    ) -> None:
        """Return when the notification, or a later one of this application, is tracked: woken by the commit.

        Raises `TimeoutError`, and `WaitInterruptedError` within some 0.1 s after the interrupt is set.
        """
        store = self.datastore.store
        deadline = time.monotonic() + timeout
        cut = store._cut()
        while not self.has_tracking_id(application_name, notification_id):
            if interrupt is not None and interrupt.is_set():
                raise WaitInterruptedError
            if (now := time.monotonic()) >= deadline:
                raise TimeoutError(
                    f"notification {notification_id} of {application_name!r} was not tracked within {timeout:g} s"
                )
            look = deadline if interrupt is None else min(deadline, now + _LOOK)
            store._wait_for_commit(cut.incarnation, cut.mark, look, Vigil())
            cut = store._cut()
