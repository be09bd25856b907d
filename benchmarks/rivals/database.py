"""Commits into one PostgreSQL server: ours, and by the recorder of the `eventsourcing` library.

Rules: each process has connections of its own; both are given the same bytes; the server flushes at each commit, as it
does by default.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_OID, uuid5

import msgpack
import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from postgres_server import PostgresServer
from psycopg.conninfo import conninfo_to_dict

import maestro_shm as ms
from benchmarks.rivals.rival import Contender
from benchmarks.workload import EVENT_TYPE, body
from maestro_shm.postgres.location import in_schema
from maestro_shm.postgres.migration import migrate

DATABASE_WRITERS: Final = (1, 8)
_SCHEMA: Final = "theirs"


class DatabaseContender(Contender):
    """`directory` is that of a server that runs."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._process = 0

    def open(self) -> None:
        self.make_tables(PostgresServer(self.directory).url)

    def close(self) -> None: ...

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            self.connect(PostgresServer(self.directory).url)
        self.insert(aggregate_id, [(number, msgpack.packb(body(number))) for number in range(first, first + count)])

    @abstractmethod
    def make_tables(self, url: str) -> None: ...

    @abstractmethod
    def connect(self, url: str) -> None: ...

    @abstractmethod
    def insert(self, aggregate_id: str, numbered: list[tuple[int, bytes]]) -> None: ...


class MaestroDatabase(DatabaseContender):
    name = "maestro_shm, PostgreSQL"

    def make_tables(self, url: str) -> None:
        migrate(in_schema(url, "ours"))

    def connect(self, url: str) -> None:
        self._store = ms.connect(in_schema(url, "ours"))

    def insert(self, aggregate_id: str, numbered: list[tuple[int, bytes]]) -> None:
        self._store.commit_events([ms.Event(aggregate_id, number, EVENT_TYPE, state) for number, state in numbered])


class LibraryDatabase(DatabaseContender):
    name = "eventsourcing PostgreSQL"

    def make_tables(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            connection.execute(f"CREATE SCHEMA {_SCHEMA}".encode())
        self.connect(url)
        self._recorder.create_table()
        self._recorder.datastore.close()

    def connect(self, url: str) -> None:
        where = {name: str(value) for name, value in conninfo_to_dict(url).items()}
        datastore = PostgresDatastore(where["dbname"], where["host"], "5432", where["user"], "", schema=_SCHEMA)
        self._recorder = PostgresApplicationRecorder(datastore, events_table_name="events")

    def insert(self, aggregate_id: str, numbered: list[tuple[int, bytes]]) -> None:
        originator_id = uuid5(NAMESPACE_OID, aggregate_id)
        self._recorder.insert_events(
            [StoredEvent(originator_id, number, EVENT_TYPE, state) for number, state in numbered]
        )
