"""What a transaction proposes to its store: events, changes of tables, and by which reads it was decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from maestro_shm import codec, validation
from maestro_shm.cut import NEVER
from maestro_shm.errors import InvalidEventError
from maestro_shm.records import Event, set_position, set_timestamp
from maestro_shm.validation import PackedEvent

EntryKey = tuple[str, str]
"""A table's name, and a key in it."""


class Change(NamedTuple):
    """What an entry becomes: the version after the change, and the packed value, or None where it is deleted."""

    version: int
    payload: bytes | None


@dataclass
class Proposal:
    """To be committed as a whole, or refused with a `ConflictError` if any of the reads has become stale."""

    events: list[PackedEvent] = field(default_factory=list)
    changes: dict[EntryKey, Change] = field(default_factory=dict)
    streams: dict[str, int | None] = field(default_factory=dict)
    """The last sequence numbers that were read."""
    entries: dict[EntryKey, int] = field(default_factory=dict)
    """The versions of entries that were read."""
    tables: dict[str, int] = field(default_factory=dict)
    """The versions of the tables whose keys were gone through."""

    def unguarded_streams(self) -> dict[str, int]:
        """The last sequence numbers that were read, -1 for none, where the commit's own events do not guard them.

        Of a stream whose first own event comes right behind the last one read nobody can have put one in between.
        """
        first = {aggregate_id: sequence for aggregate_id, sequence, _, _ in reversed(self.events)}
        return {
            name: last
            for name, read in self.streams.items()
            if first.get(name) != (last := NEVER if read is None else read) + 1
        }

    def unguarded_entries(self) -> dict[EntryKey, int]:
        """The versions of entries that were read and are not changed: those of the others have to rise."""
        return {entry: version for entry, version in self.entries.items() if entry not in self.changes}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be stored."""
        return not self.events and not self.changes

    def check_size(self, limit: int) -> None:
        """Raise `InvalidEventError` if it has more than so many bytes altogether."""
        size = sum(validation.record_size(event[0], event[3]) for event in self.events)
        size += sum(validation.entry_size(*key, change.payload) for key, change in self.changes.items())
        if size > limit:
            raise InvalidEventError(f"the commit {validation.over_limit(size, limit)}")


def as_stored(packed: Sequence[PackedEvent], first_position: int, timestamps: Sequence[int]) -> list[Event]:
    """The events of a commit as they are stored from a position on."""
    return placed(unplaced(packed), first_position, timestamps)


def unplaced(packed: Sequence[PackedEvent]) -> list[Event]:
    """The events of a commit as they are going to be stored, as yet without timestamps and positions."""
    if len(packed) > 1:
        return codec.unpack_unplaced(packed)
    return [
        codec.unpack_event(aggregate_id, sequence, None, None, payload) for aggregate_id, sequence, _, payload in packed
    ]


def placed(events: list[Event], first_position: int, timestamps: Sequence[int]) -> list[Event]:
    """The same events, which nobody else has seen yet, with timestamps and positions."""
    for position, (event, timestamp) in enumerate(zip(events, timestamps, strict=True), first_position):
        set_timestamp(event, timestamp)
        set_position(event, position)
    return events
