"""Those who wait for the disk at each commit: ours, and SQLite as it is used for that. Their files lie on a disk."""

from __future__ import annotations

import os
import sqlite3

import maestro_shm as ms
from benchmarks.rivals.maestro import Maestro
from benchmarks.rivals.sqlite_file import SqliteFile

_PATIENCE = 60.0
"""Seconds that SQLite's writers wait for each other."""


class MaestroPower(Maestro):
    name = "maestro_shm, power"

    def open(self) -> None:
        self._store = ms.connect(self.directory / "store", durability="power")

    def close(self) -> None:
        super().close()
        ms.destroy(self.directory / "store")


class SqliteFull(SqliteFile):
    """A database is opened in each process: it may not be carried through a fork."""

    name = "SQLite, WAL, synchronous=FULL"

    def open(self) -> None:
        super().open()
        self.close()
        self._process = 0

    def close(self) -> None:
        self._database.close()

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            path = self.directory / "events.sqlite"
            self._database = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE)
            self._database.execute("PRAGMA synchronous = FULL")
        super().commit(aggregate_id, first, count)
