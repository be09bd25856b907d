"""Events of an application, in the order of their notification ids, which are positions of its store."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Any

from eventsourcing.persistence import ApplicationRecorder, Notification, StoredEvent, Subscription

from maestro_shm.eventsourcing.aggregate_recorder import MaestroAggregateRecorder, check_limit
from maestro_shm.eventsourcing.subscription import MaestroSubscription, as_notification
from maestro_shm.eventsourcing.translation import translating


class MaestroApplicationRecorder(MaestroAggregateRecorder, ApplicationRecorder):
    """What it raises says `translating`."""

    @translating
    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int]:
        """Commit all of the events or none, and return their notification ids.

        Raises `IntegrityError` if the version of any is not above the last one of its aggregate.
        """
        return self._commit(stored_events, self.datastore.store.commit_events)

    @translating
    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """See `ApplicationRecorder`; read from the feed."""
        check_limit(limit)
        store = self.datastore.store
        after = max(0, (start or 0) - 1 if inclusive_of_start else start or 0)
        if stop is None:
            events = store.read(after, limit=limit, types=topics or None)
        else:  # all are read and chosen from here, so this ends at `stop`, however rare the topics are
            most = max(0, stop - after)
            read = store.read(after, limit=most if topics else min(limit, most))
            within = takewhile(lambda event: (event.position or 0) <= stop, read)  # some may have been truncated
            events = islice((event for event in within if not topics or event.type in topics), limit)
        return [as_notification(event) for event in events]

    @translating
    def max_notification_id(self) -> int | None:
        """The id of the newest notification, or None."""
        return self.datastore.store.last_position or None

    @translating
    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """The notifications behind `gt`, as they come: woken by the commit, in whichever process it is made."""
        return MaestroSubscription(self, self.datastore.store, gt, topics)
