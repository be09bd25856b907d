"""What a transaction proposes to its store: events, changes of tables, and by which reads it was decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from maestro_shm import validation
from maestro_shm.errors import InvalidEventError
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
