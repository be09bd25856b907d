"""LMDB in this process: written through its map, never synced; the key is the id and the number, big-endian."""

from __future__ import annotations

from collections.abc import Sequence

import lmdb
import msgpack

from benchmarks.rivals.rival import Rival, StaleError
from benchmarks.workload import EVENT_TYPE, READ, body

_MAP_BYTES = 1 << 30
_AFTER_LAST = b"\xff" * 8


class LmdbFile(Rival):
    name = "LMDB"
    stale = StaleError

    def open(self) -> None:
        self._environment = lmdb.open(
            str(self.directory), map_size=_MAP_BYTES, sync=False, metasync=False, writemap=True
        )

    def close(self) -> None:
        self._environment.close()

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        key = aggregate_id.encode()
        rows = [
            (key + number.to_bytes(8), msgpack.packb((EVENT_TYPE, body(number))))
            for number in range(first, first + count)
        ]
        with self._environment.begin(write=True, buffers=True) as transaction:
            if (_last(transaction, key) or 0) >= first:
                raise StaleError(aggregate_id, first)
            for row in rows:
                transaction.put(*row)

    def last_sequence(self, aggregate_id: str) -> int | None:
        with self._environment.begin(buffers=True) as transaction:
            return _last(transaction, aggregate_id.encode())

    def catch_up(self, aggregate_id: str, last: int) -> Sequence[object]:
        key = aggregate_id.encode()
        with self._environment.begin(buffers=True) as transaction:
            cursor = transaction.cursor()
            if not cursor.set_range(key + (last + 1).to_bytes(8)):
                return []
            return _decode(cursor, key)

    def read_last(self, aggregate_id: str, last: int) -> Sequence[object]:
        return self.catch_up(aggregate_id, last - READ)


def _last(transaction: lmdb.Transaction[memoryview], key: bytes) -> int | None:
    cursor = transaction.cursor()
    if not (cursor.prev() if cursor.set_range(key + _AFTER_LAST) else cursor.last()):
        return None
    found = cursor.key()
    return int.from_bytes(found[-8:]) if found[:-8] == key else None


def _decode(cursor: lmdb.Cursor[memoryview], key: bytes) -> list[tuple[object, ...]]:
    events: list[tuple[object, ...]] = []
    for found, value in cursor:
        if found[:-8] != key:
            break
        events.append((int.from_bytes(found[-8:]), *msgpack.unpackb(value)))
    return events
