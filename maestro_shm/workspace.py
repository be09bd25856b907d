"""The workspace of a transaction: what it reads, all at one cut, and what it is going to commit, which it reads too.

Every read is noted with the version that was read, and every change with the version that it makes, so that the store
can tell whether anybody was faster. Values are packed when they are given: who changes one afterwards changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from maestro_shm import codec, validation
from maestro_shm.cut import Cut
from maestro_shm.errors import SequenceConflictError, TransactionError
from maestro_shm.proposal import Change, EntryKey, Proposal
from maestro_shm.records import Event, Snapshot
from maestro_shm.validation import PackedEvent


class Workspace:
    """Of one attempt. Raises `TransactionError` for whatever is done after its end."""

    def __init__(self, cut: Cut, limit: int) -> None:
        self.proposal = Proposal()
        self.snapshots: dict[str, Snapshot] = {}
        """To be stored after the commit."""
        self._cut = cut
        self._limit = limit
        self._own: dict[str, list[PackedEvent]] = {}
        self._ended = False

    def end(self) -> None:
        """Let nobody use it any more."""
        self._ended = True

    # Streams

    def get_events(
        self, aggregate_id: str, min_sequence: int, max_sequence: int, *, complete: bool = False
    ) -> list[Event]:
        """Stored events and own ones."""
        self._note_stream(aggregate_id)
        stored = self._cut.get_events(aggregate_id, min_sequence, max_sequence=max_sequence, complete=complete)
        return stored + [
            _as_event(row) for row in self._own.get(aggregate_id, []) if min_sequence <= row[1] <= max_sequence
        ]

    def get_snapshot(self, aggregate_id: str) -> Snapshot | None:
        """The stored snapshot, or the newer own one."""
        self._check()
        return self.snapshots.get(aggregate_id) or self._cut.get_snapshot(aggregate_id)

    def first_sequence(self, aggregate_id: str) -> int:
        """Below which the stored events were truncated."""
        self._check()
        return self._cut.first_sequence(aggregate_id)

    def last_sequence(self, aggregate_id: str) -> int | None:
        """That of the last event, own ones included."""
        last = self._note_stream(aggregate_id)
        own = self._own.get(aggregate_id)
        return own[-1][1] if own else last

    def add_events(self, events: Iterable[Event]) -> list[Event]:
        """Take up events, to be committed at the end; they have no position and, unless given, no timestamp yet."""
        self._check()
        packed = validation.pack_events(events, self._limit)
        for aggregate_id, sequence, _, _ in packed:
            own = self._own.get(aggregate_id)
            last = own[-1][1] if own else self._cut.last_sequence(aggregate_id)
            if last is not None and sequence <= last:
                raise SequenceConflictError(aggregate_id, sequence, last)
        for row in packed:
            self._own.setdefault(row[0], []).append(row)
        self.proposal.events += packed
        return [_as_event(row) for row in packed]

    def add_snapshot(self, snapshot: Snapshot) -> bool:
        """Take up a snapshot, to be stored after the commit; whether it is newer than what is there."""
        self._check()
        validation.pack_snapshot(snapshot, self._limit)
        before = self.get_snapshot(snapshot.aggregate_id)
        if before is not None and snapshot.sequence <= before.sequence:
            return False
        self.snapshots[snapshot.aggregate_id] = snapshot
        return True

    # Tables

    def payload(self, table: str, key: str) -> bytes | None:
        """The packed value of an entry, or None."""
        self._check()
        change = self.proposal.changes.get((table, key))
        return change.payload if change is not None else self._entry_payload((table, key))

    def sorted_keys(self, table: str) -> Sequence[str]:
        """The keys of a table, own ones included."""
        self._check()
        version, keys = self._cut.keys(table)
        self.proposal.tables[table] = version
        own = {key: change for (name, key), change in self.proposal.changes.items() if name == table}
        if not own:
            return keys
        return sorted({*keys, *own} - {key for key, change in own.items() if change.payload is None})

    def pairs(self, table: str, start: str | None) -> Iterator[tuple[str, bytes]]:
        """Keys from `start` on, with their packed values, as they are now."""
        keys = self.sorted_keys(table)
        for key in keys[0 if start is None else bisect_left(keys, start) :]:
            if (payload := self.payload(table, key)) is not None:  # or it was deleted on the way
                yield key, payload

    def change(self, table: str, key: str, payload: bytes | None) -> None:
        """Put or delete an entry. Nothing is written blindly: what was there counts as read."""
        self._check()
        self._entry_payload((table, key))
        self.proposal.changes[table, key] = Change(self.proposal.entries[table, key] + 1, payload)

    def _check(self) -> None:
        if self._ended:
            raise TransactionError(
                "this transaction has ended; use its roots and tables within the function, and others afterwards"
            )

    def _note_stream(self, aggregate_id: str) -> int | None:
        self._check()
        streams = self.proposal.streams
        if aggregate_id not in streams:
            streams[aggregate_id] = self._cut.last_sequence(aggregate_id)
        return streams[aggregate_id]

    def _entry_payload(self, entry_key: EntryKey) -> bytes | None:
        entry = self._cut.entry(*entry_key)
        self.proposal.entries[entry_key] = entry.version
        return entry.payload


def _as_event(row: PackedEvent) -> Event:
    aggregate_id, sequence, timestamp, payload = row
    return codec.unpack_event(aggregate_id, sequence, timestamp, None, payload)
