"""The reads of a store, each over one cut of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar

from maestro_shm import validation
from maestro_shm.arrival import check_position
from maestro_shm.clock import as_timestamp
from maestro_shm.cut import Cut
from maestro_shm.errors import InvalidEventError, StoreUnavailableError, shown
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot, in_range
from maestro_shm.selection import selection
from maestro_shm.store import Store
from maestro_shm.tables import Table

_Result = TypeVar("_Result")


class CutReads(Store):
    """A store that can take a cut."""

    @abstractmethod
    def _cut(self) -> Cut:
        """The state to read."""

    @abstractmethod
    def _check_open(self) -> None:
        """Raise `StoreClosedError` after `close`."""

    def get_events(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE, complete: bool = False
    ) -> list[Event]:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        validation.check_bounds(min_sequence, max_sequence)
        return self._at_newest(
            lambda cut: cut.get_events(aggregate_id, min_sequence, max_sequence=max_sequence, complete=complete)
        )

    def get_snapshot(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE
    ) -> Snapshot | None:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        validation.check_bounds(min_sequence, max_sequence)
        snapshot = self._at_newest(lambda cut: cut.get_snapshot(aggregate_id))
        return snapshot if snapshot and in_range(snapshot, min_sequence, max_sequence) else None

    def last_sequence(self, aggregate_id: str) -> int | None:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        return self._at_newest(lambda cut: cut.last_sequence(aggregate_id))

    def first_sequence(self, aggregate_id: str) -> int:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        return self._at_newest(lambda cut: cut.first_sequence(aggregate_id))

    @property
    def last_position(self) -> int:
        return self._at_one_cut(lambda cut: cut.last_position)

    def read(
        self,
        after: int = 0,
        *,
        limit: int | None = None,
        types: Collection[str] | None = None,
        aggregate_prefix: str | None = None,
    ) -> Iterator[Event]:
        return self._one_by_one(self._cut().feed(selection(after, limit, types, aggregate_prefix)))

    def table(self, name: str) -> Table:
        return Table(name, self)

    def payload(self, table: str, key: str) -> bytes | None:
        """For tables: the packed value of an entry, or None."""
        return self._at_newest(lambda cut: cut.entry(table, key).payload)

    def sorted_keys(self, table: str) -> Sequence[str]:
        """For tables: all keys."""
        return self._at_one_cut(lambda cut: cut.keys(table).keys)

    def pairs(self, table: str, start: str | None) -> Iterator[tuple[str, bytes]]:
        """For tables: keys from `start` on, with their packed values."""
        return self._cut().pairs(table, start)

    def _at_one_cut(self, read: Callable[[Cut], _Result]) -> _Result:
        """What is read at the newest cut; if a reset comes between, at the one after it."""
        while True:
            cut = self._cut()
            try:
                return read(cut)
            except StoreUnavailableError:
                if self._cut().incarnation == cut.incarnation:
                    raise

    def _at_newest(self, read: Callable[[Cut], _Result]) -> _Result:
        """The same for one read of one thing; for overriding, where that needs no cut before it."""
        return self._at_one_cut(read)

    def _past_cut(self, position: int | None, time: datetime | int | None) -> tuple[int, Cut]:
        """The position that is meant by either, and the state that the commit with this one left."""
        cut = self._cut()
        if (position is None) == (time is None):
            raise InvalidEventError("the past is asked for by a position or by a time: at(position=5), at(time=moment)")
        if position is None:
            position = cut.position_at(_timestamp(time))
        else:
            check_position(position)
        position = min(position, cut.last_position)
        return position, cut.until(position)

    def _one_by_one(self, batches: Iterable[list[Event]]) -> Iterator[Event]:
        self._check_open()
        try:
            for batch in batches:
                yield from batch
                self._check_open()
        except StoreUnavailableError:
            self._check_open()  # a private store ends with its handle
            raise


def _timestamp(time: object) -> int:
    if type(time) is int:
        return time
    if isinstance(time, datetime) and time.tzinfo is not None:
        return as_timestamp(time)
    raise InvalidEventError(f"a time must be a datetime with a time zone, or an event's timestamp, not {shown(time)}")
