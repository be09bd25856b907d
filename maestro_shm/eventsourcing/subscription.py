"""The notifications of an application, as they come."""

from __future__ import annotations

from collections.abc import Sequence

from eventsourcing.persistence import ApplicationRecorder, Notification, Subscription

from maestro_shm.eventsourcing.originator_id import originator_id_of
from maestro_shm.eventsourcing.translation import translating
from maestro_shm.records import Event
from maestro_shm.store import Store


class MaestroSubscription(Subscription[ApplicationRecorder]):
    """It has no thread: who asks for the next notification waits at the store. `stop` may be called by any thread.

    It goes on where the store's server ends and another one takes over. Raises `OperationalError` if the store cannot
    be reached, and `ProgrammingError` if it is closed meanwhile.
    """

    def __init__(
        self, recorder: ApplicationRecorder, store: Store, gt: int | None = None, topics: Sequence[str] = ()
    ) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._events = store.subscribe(max(0, gt or 0), types=topics or None)

    def stop(self) -> None:
        """End the iteration, now or when it begins."""
        super().stop()
        self._events.close()

    @translating
    def __next__(self) -> Notification:
        return as_notification(next(self._events))


def as_notification(event: Event) -> Notification:
    """The notification of an event."""
    return Notification(
        originator_id_of(event.aggregate_id), event.sequence, event.type, event.body, event.position or 0
    )
