"""The same SQLite file from several processes: each with a connection of its own, that waits for the others' locks."""

from __future__ import annotations

import os
import sqlite3

from benchmarks.rivals.sqlite_file import SqliteFile

_PATIENCE = 60.0
"""Seconds."""


class SqliteShared(SqliteFile):
    name = "SQLite, a connection each"

    def open(self) -> None:
        super().open()
        self._owner = os.getpid()

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        if self._owner != os.getpid():  # a forked worker: a connection must not be carried over a fork
            path = self.directory / "events.sqlite"
            self._inherited = self._database  # never closed here, as SQLite asks for
            self._database = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE)
            self._database.execute("PRAGMA synchronous = OFF")
            self._owner = os.getpid()
        super().commit(aggregate_id, first, count)
