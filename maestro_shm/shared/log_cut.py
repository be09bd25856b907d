"""A cut of a shared store: what its log holds up to an offset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from maestro_shm.cut import Cut, Entry, Keys, StoredEvent, StoredSnapshot
from maestro_shm.errors import CorruptLogError, StoreUnavailableError
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot
from maestro_shm.selection import Selection
from maestro_shm.shared.feed import FloorOf
from maestro_shm.shared.log import START
from maestro_shm.shared.view import View

_Result = TypeVar("_Result")


class LogCut(Cut):
    """The reads of one.

    A reset of the store ends it, unless all that is asked for is mapped already: `StoreUnavailableError` then.
    """

    def __init__(
        self,
        view: View,
        published: int,
        directory: Path,
        renew: Callable[[], tuple[View, int]],
        taken: int | None = None,
    ) -> None:
        """What was published up to an offset; without what was truncated by another one, where it was taken later.

        `renew` gives the newest view, and where its log ends.
        """
        self._view = view
        self._published = published
        self._directory = directory
        self._renew = renew
        self._taken = published if taken is None else taken

    def get_events(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE, complete: bool = False
    ) -> list[Event]:
        def read(published: int) -> list[Event]:
            bounds = min_sequence, max_sequence
            return self._view.events(published, aggregate_id, *bounds, complete=complete, taken=self._taken)

        return self._read(read)

    def get_snapshot(self, aggregate_id: str) -> Snapshot | None:
        return self._read(self._view.snapshot, aggregate_id)

    def last_sequence(self, aggregate_id: str) -> int | None:
        return self._read(self._view.last_sequence, aggregate_id)

    def first_sequence(self, aggregate_id: str) -> int:
        return self._read(lambda _: self._view.first_sequence(self._taken, aggregate_id))

    @property
    def is_truncated(self) -> bool:
        return self._view.floors.are_there

    @property
    def incarnation(self) -> int:
        return self._view.incarnation

    @property
    def mark(self) -> int:
        return self._view.shorter + self._published

    @property
    def last_position(self) -> int:
        return self._read(self._view.last_position)

    def position_at(self, timestamp: int) -> int:
        return self._read(self._view.position_at, timestamp)

    def until(self, position: int) -> LogCut:
        end = START
        if position:
            frame = self._read(lambda _: self._view.frame_of(position))
            end = frame.end if frame else START + 1  # there was something by then, of which nothing is left
        return LogCut(self._view, end, self._directory, self._renew, self._taken)

    def feed(self, wanted: Selection) -> Iterator[list[Event]]:
        """It may take longer than the files are there that a compaction replaced: it goes on with those in their place.

        Positions stay, and what is truncated since need not be there.
        """
        last = self.last_position
        view, taken = self._view, self._taken
        while True:
            try:
                for position, events in view.feed.batches(wanted, last, _floor_of(view, taken)):
                    left = None if wanted.limit is None else wanted.limit - len(events)
                    wanted = wanted._replace(after=position, limit=left)
                    yield events
            except CorruptLogError:
                if not view.is_retired:
                    raise
                view, taken = self._renew()
                if view.incarnation != self._view.incarnation:
                    raise self._is_gone() from None
            else:
                return

    def stored_events(self, after: int) -> Iterator[list[StoredEvent]]:
        yield from self._each(self._view.feed.stored(after, self.last_position, _floor_of(self._view, self._taken)))

    def stored_snapshots(self) -> Iterator[StoredSnapshot]:
        yield from self._each(self._view.snapshots(self._published))

    def table_names(self) -> list[str]:
        self._check_tables()
        return self._read(self._view.table_names)

    def entry(self, table: str, key: str) -> Entry:
        self._check_tables()
        return self._read(self._view.entry, table, key)

    def keys(self, table: str) -> Keys:
        self._check_tables()
        return self._read(self._view.keys_of, table)

    def _check_tables(self) -> None:
        if START < self._published < self._view.compacted:
            reason = "what its tables were so far back is forgotten, since its space was used again (see Store.compact)"
            raise StoreUnavailableError(str(self._directory), reason)

    def _each(self, found: Iterator[_Result]) -> Iterator[_Result]:
        while (one := self._read(lambda _: next(found, None))) is not None:
            yield one

    def _read(self, read: Callable[..., _Result], *arguments: object) -> _Result:
        try:
            return read(self._published, *arguments)
        except CorruptLogError:
            if self._view.is_retired:
                raise self._is_gone() from None
            raise

    def _is_gone(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            str(self._directory), "it was reset while it was read, or compacted some time before"
        )


def _floor_of(view: View, taken: int) -> FloorOf | None:
    return (lambda key: view.floors.get(key, taken)) if view.floors.are_there else None
