"""SQLite in this process: write-ahead log, never waiting for a disk, statements kept prepared."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgpack

from benchmarks.rivals.rival import Rival, StaleError
from benchmarks.workload import EVENT_TYPE, READ, body

_TABLE = """
    CREATE TABLE events (
        aggregate_id TEXT, sequence INTEGER, type TEXT, body BLOB, PRIMARY KEY (aggregate_id, sequence)
    ) WITHOUT ROWID
"""
_LAST = "SELECT max(sequence) FROM events WHERE aggregate_id = ?"
_READ = "SELECT sequence, type, body FROM events WHERE aggregate_id = ? AND sequence > ? ORDER BY sequence"
_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?)"


class SqliteFile(Rival):
    name = "SQLite"
    stale = StaleError

    def open(self) -> None:
        self._database = sqlite3.connect(self.directory / "events.sqlite", isolation_level=None)
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF", _TABLE):
            self._database.execute(statement)

    def close(self) -> None:
        self._database.close()

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        rows = [
            (aggregate_id, number, EVENT_TYPE, msgpack.packb(body(number))) for number in range(first, first + count)
        ]
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            if (self.last_sequence(aggregate_id) or 0) >= first:
                raise StaleError(aggregate_id, first)
            self._database.executemany(_INSERT, rows)

    def last_sequence(self, aggregate_id: str) -> int | None:
        last: int | None = self._database.execute(_LAST, (aggregate_id,)).fetchone()[0]
        return last

    def catch_up(self, aggregate_id: str, last: int) -> Sequence[object]:
        rows = self._database.execute(_READ, (aggregate_id, last))
        return [(sequence, type_, msgpack.unpackb(packed)) for sequence, type_, packed in rows]

    def read_last(self, aggregate_id: str, last: int) -> Sequence[object]:
        return self.catch_up(aggregate_id, last - READ)
