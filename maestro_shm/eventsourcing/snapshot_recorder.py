"""Snapshots, as entries of a table for each aggregate.

The library takes the snapshot of a version after that version's event is recorded. So of two workers the one with the
older version may come last, and must not meet a conflict: versions come in any order here.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from eventsourcing.persistence import AggregateRecorder, DataError, IntegrityError, StoredEvent

from maestro_shm import validation
from maestro_shm.errors import shown
from maestro_shm.eventsourcing.aggregate_recorder import check_limit
from maestro_shm.eventsourcing.datastore import Datastore
from maestro_shm.eventsourcing.originator_id import aggregate_id_of
from maestro_shm.eventsourcing.recorder import MaestroRecorder
from maestro_shm.eventsourcing.translation import translating
from maestro_shm.records import MAX_SEQUENCE
from maestro_shm.transaction import Transaction

_DIGITS: Final = len(str(MAX_SEQUENCE))


class MaestroSnapshotRecorder(MaestroRecorder, AggregateRecorder):
    """Of one purpose. What it raises says `translating`."""

    def __init__(self, datastore: Datastore, purpose: str = "snapshots") -> None:
        super().__init__(datastore)
        self._purpose = purpose

    @translating
    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """Store all of the snapshots or none.

        Raises `IntegrityError` if there is one of the same aggregate and version already.
        """
        self.datastore.transact(self._insert, stored_events)
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
        """The aggregate's snapshots with versions above `gt` and up to `lte`, or the first `limit` of them."""
        check_limit(limit)
        table = self.datastore.store.table(self._table_name(originator_id))
        keys = _between(list(table), gt, lte)
        if desc:
            keys.reverse()
        return [StoredEvent(originator_id, int(key), *table[key]) for key in keys[:limit]]

    def _insert(self, transaction: Transaction, stored_events: Sequence[StoredEvent]) -> None:
        for stored in stored_events:
            table = transaction.table(self._table_name(stored.originator_id))
            if not table.insert(_key(stored.originator_version), [stored.topic, _checked(stored.state)]):
                raise IntegrityError(
                    f"there is one of version {stored.originator_version} of {shown(stored.originator_id)} already"
                )

    def _table_name(self, originator_id: UUID | str) -> str:
        aggregate_id = aggregate_id_of(originator_id)
        validation.check_aggregate_id(aggregate_id)
        name = f"eventsourcing/{self._purpose}/{aggregate_id}"
        if "\0" not in name and len(name.encode()) <= validation.MAX_TABLE_BYTES:
            return name
        return f"eventsourcing/{self._purpose} by SHA-256/{hashlib.sha256(aggregate_id.encode()).hexdigest()}"


def _between(keys: list[str], gt: int | None, lte: int | None) -> list[str]:
    start = 0 if gt is None or gt < 0 else bisect_right(keys, f"{gt:0{_DIGITS}}")
    stop = len(keys) if lte is None else bisect_left(keys, f"{max(0, lte + 1):0{_DIGITS}}")
    return keys[start:stop]


def _key(version: int) -> str:
    if type(version) is not int or not 0 <= version <= MAX_SEQUENCE:
        raise DataError(f"a version must be an int from 0 to {MAX_SEQUENCE}, not {shown(version)}")
    return f"{version:0{_DIGITS}}"


def _checked(state: bytes) -> bytes:
    if type(state) is not bytes:
        raise DataError(f"a state must be bytes, not {shown(state)}")
    return state
