"""A cut: one consistent state of a store, that stays as it is whatever is committed meanwhile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot
from maestro_shm.selection import Selection

NEVER: Final = -1
"""The version of an entry, or of a table, that has never been there."""


class Entry(NamedTuple):
    """A value of a table as it is stored. Its version counts its changes from 0; to be deleted is one of them."""

    version: int
    payload: bytes | None
    """None where it is deleted or has never been there."""


class Keys(NamedTuple):
    """The keys of a table, in order. The version rises when some come or go, not when values change."""

    version: int
    keys: Sequence[str]


NO_ENTRY: Final = Entry(NEVER, None)


class StoredEvent(NamedTuple):
    """An event as it is stored, with its packed payload."""

    aggregate_id: str
    sequence: int
    timestamp: int
    payload: bytes
    position: int
    commit: int
    """The same for two neighbours exactly if they were committed together; what it is otherwise is the store's own."""


class StoredSnapshot(NamedTuple):
    """A snapshot as it is stored, with its packed body."""

    aggregate_id: str
    sequence: int
    payload: bytes


class Cut(ABC):
    """The reads of one state. Arguments are right already: whoever asks has checked them."""

    @abstractmethod
    def get_events(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE, complete: bool = False
    ) -> list[Event]:
        """See `Store.get_events`."""

    @abstractmethod
    def get_snapshot(self, aggregate_id: str) -> Snapshot | None:
        """The aggregate's snapshot, if there is one."""

    @abstractmethod
    def last_sequence(self, aggregate_id: str) -> int | None:
        """See `Store.last_sequence`."""

    @abstractmethod
    def first_sequence(self, aggregate_id: str) -> int:
        """See `Store.first_sequence`."""

    @property
    @abstractmethod
    def is_truncated(self) -> bool:
        """Whether any events were truncated, of whatever aggregates."""

    @property
    @abstractmethod
    def incarnation(self) -> int:
        """Another number after each reset of the store."""

    @property
    @abstractmethod
    def mark(self) -> int:
        """A number that rises with each commit, of whatever kind."""

    @property
    @abstractmethod
    def last_position(self) -> int:
        """That of the newest event, or 0."""

    @abstractmethod
    def position_at(self, timestamp: int) -> int:
        """The last position before the first commit that has an event with a timestamp above this one."""

    @abstractmethod
    def until(self, position: int) -> Cut:
        """The state that the commit with the event at this position left; before the first one where it is 0."""

    @abstractmethod
    def feed(self, wanted: Selection) -> Iterator[list[Event]]:
        """The wanted events in the order of their positions, some at once."""

    @abstractmethod
    def stored_events(self, after: int) -> Iterator[list[StoredEvent]]:
        """The events behind a position in the order of their positions, some at once, none of them unpacked."""

    @abstractmethod
    def stored_snapshots(self) -> Iterator[StoredSnapshot]:
        """The snapshots of all aggregates, one for each that has any, in no particular order."""

    @abstractmethod
    def table_names(self) -> list[str]:
        """The names of the tables that have, or had, any entries, in order."""

    @abstractmethod
    def entry(self, table: str, key: str) -> Entry:
        """What a table has under a key."""

    def versions(self, table: str, keys: Sequence[str]) -> list[int]:
        """The versions of what a table has under these keys."""
        return [self.entry(table, key).version for key in keys]

    @abstractmethod
    def keys(self, table: str) -> Keys:
        """What keys a table has."""

    def pairs(self, table: str, start: str | None = None) -> Iterator[tuple[str, bytes]]:
        """A table's keys from `start` on, with their packed values."""
        keys = self.keys(table).keys
        for key in keys[0 if start is None else bisect_left(keys, start) :]:
            if (payload := self.entry(table, key).payload) is not None:
                yield key, payload
