"""A commit of events with a tracking record.

Not by `commit_all` and a projection, which cost a third more: what is read and changed is known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from eventsourcing.persistence import IntegrityError, Tracking

from maestro_shm import codec, validation
from maestro_shm.backend import Backend
from maestro_shm.errors import RetriesExhaustedError, TableConflictError
from maestro_shm.proposal import Change, Proposal
from maestro_shm.records import Event
from maestro_shm.retries import Attempts
from maestro_shm.transaction import refuse_within
from maestro_shm.validation import PackedEvent

TRACKING: Final = "eventsourcing/tracking"
"""The name of the table: under the name of each application the id of its notification that was processed last."""


def commit_tracked(store: Backend, events: Iterable[Event], tracking: Tracking) -> Sequence[Event]:
    """The events as stored; they may be none. Raises `IntegrityError` as `check_later` does, and all of `_commit`."""
    refuse_within(store, "a commit")
    packed = validation.pack_events(events, store._max_commit_bytes)
    attempts = Attempts(store.retry_timeout)
    while True:
        try:
            return store._commit(_proposal(store, packed, tracking))()
        except TableConflictError:  # by the record of an earlier notification, maybe
            if not attempts.pause():
                what = f"tracking of {tracking.application_name}"
                raise RetriesExhaustedError(None, what, attempts.count, attempts.seconds()) from None


def check_later(last: int | None, tracking: Tracking) -> None:
    """Raise `IntegrityError` unless the notification's id is above the last one of its application."""
    if last is not None and tracking.notification_id <= last:
        raise IntegrityError(
            f"notification {tracking.notification_id} of {tracking.application_name!r} comes too late: "
            f"{last} has been tracked"
        )


def _proposal(store: Backend, packed: list[PackedEvent], tracking: Tracking) -> Proposal:
    key = TRACKING, validation.check_key(TRACKING, tracking.application_name)
    version, payload = store._cut().entry(*key)
    check_later(None if payload is None else codec.unpack(payload)[0], tracking)
    change = Change(version + 1, validation.pack_value(*key, tracking.notification_id))
    return Proposal(packed, changes={key: change}, entries={key: version})
