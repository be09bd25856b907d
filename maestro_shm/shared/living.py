"""Which records of a log are live: those that a state of it, or one that comes later, can still show.

Of streams these are the events that were not truncated, and the newest one, by its number alone. Of snapshots, entries
and floors the newest; an entry that was deleted, too, since its versions must go on to rise. Of a table's keys that
came and went: those that came and have not gone since, where they came last.

The newest commits stay whole: a commit whose reply was lost may be sent again, and is known by its records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Final

from maestro_shm import codec
from maestro_shm.shared.floors import Floors
from maestro_shm.shared.frame import EVENT, TABLE, Frame, Record
from maestro_shm.shared.index import Index
from maestro_shm.shared.log import START, Log

WHOLE_COMMITS: Final = 10_000
WHOLE_BYTES: Final = 8 << 20
"""At most so many of the newest commits stay whole, and so many bytes of them."""
_CACHED: Final = 1 << 16


class Living:
    """As of an offset where the log ended for readers."""

    def __init__(self, words: memoryview, log: Log, index: Index, published: int, whole_commits: int) -> None:
        self._log = log
        self._index = index
        self._whole_from = whole_from(log, published, whole_commits)
        floors = Floors(words, index, log)
        self._are_floors_there = floors.are_there
        # What is committed while the log is copied lies between the index and what held then. Without a memory each
        # record of a stream would be a walk over all that has come to it since, and the copy never be done.
        self._newest = lru_cache(_CACHED)(partial(index.newest, published=published))
        self._floor = lru_cache(_CACHED)(partial(floors.get, published=published))
        self._came = dict(self._keys_that_came())

    def of(self, frame: Frame, records: list[Record]) -> list[Record]:
        """Those of a frame, as they are to be from now on."""
        if frame.offset >= self._whole_from:
            return records
        kept = (self._kept(record) for record in records)
        return [record for record in kept if record is not None]

    def _kept(self, record: Record) -> Record | None:
        if record.kind == EVENT:
            return self._kept_event(record)
        if record.kind == TABLE:
            came = self._came.get(record.offset)
            return None if came is None else record._replace(payload=_packed(came))
        return record if self._newest(record.kind, record.key)[1] == record.offset else None

    def _kept_event(self, record: Record) -> Record | None:
        if not self._are_floors_there or record.sequence >= self._floor(record.key):
            return record
        return record._replace(payload=b"") if self._newest(EVENT, record.key)[1] == record.offset else None

    def _keys_that_came(self) -> Iterator[tuple[int, list[str]]]:
        """By the offsets of records of tables that are not to stay whole, what came by them and is still there."""
        for key, _ in self._index.all_of(TABLE):
            _, offset = self._newest(TABLE, key)
            chain: list[tuple[int, bytes]] = []
            while offset:
                _, previous, _, _, payload = self._log.read(offset)
                if offset < self._whole_from:
                    chain.append((offset, payload))
                offset = previous
            if chain:
                yield from _came_last(chain).items()


def _came_last(chain: list[tuple[int, bytes]]) -> dict[int, list[str]]:
    """By offsets, of a table's records from the newest on; the newest has an entry in any case."""
    found: dict[int, list[str]] = {chain[0][0]: []}
    known: set[str] = set()
    for offset, payload in chain:
        came, went = codec.unpack(payload)
        if left := [key for key in came if key not in known]:
            found.setdefault(offset, []).extend(left)
        known.update(came, went)
    return found


def _packed(came: list[str]) -> bytes:
    return codec.pack([came, []], ("came", "went"))


def whole_from(log: Log, published: int, commits: int) -> int:
    """From where on the commits stay whole."""
    offsets = log.frame_offsets(START, published)
    newest = deque(offsets, maxlen=commits) if commits else ()
    return next((offset for offset in newest if offset >= published - WHOLE_BYTES), published)
