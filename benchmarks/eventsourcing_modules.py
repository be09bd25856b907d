"""Two persistence modules of the `eventsourcing` library in one process and in several: ours, and its SQLite.

Rules: both are asked through the recorder that the library would make, a process recorder; ids are UUIDs; files are in
memory where the machine has such a place. Its SQLite uses a write-ahead log by itself, and syncs.
"""

from __future__ import annotations

import itertools
import os
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

import msgpack
from eventsourcing.persistence import InfrastructureFactory, ProcessRecorder, StoredEvent, Tracking
from eventsourcing.sqlite import SQLiteFactory

import maestro_shm as ms
from benchmarks.in_turns import time_in_turns
from benchmarks.rivals.rival import Contender
from benchmarks.settings import Settings
from benchmarks.timing import Timing
from benchmarks.workload import AGGREGATES, EVENT_TYPE, PREFILL, body
from maestro_shm.eventsourcing import Factory

INSERT: Final = "eventsourcing: insert of 1 event"
TRACKED: Final = "eventsourcing: insert of 1 event with tracking"
SELECT: Final = f"eventsourcing: select of {PREFILL} events"
NOTIFICATIONS: Final = f"eventsourcing: select of {PREFILL} notifications"
ALL: Final = (INSERT, TRACKED, SELECT, NOTIFICATIONS)
WRITERS: Final = (1, 4)
_PATIENCE: Final = "60"
"""Seconds that SQLite's writers wait for each other."""


class Module(Contender):
    """A module by its factory. Each process makes one of its own: a database may not be carried through a fork."""

    def open(self) -> None:
        self._use()  # makes the database
        self._factory.close()
        self._process = 0

    def close(self) -> None:
        self._factory.close()

    @abstractmethod
    def make_factory(self) -> InfrastructureFactory[Any]: ...

    def recorder(self) -> ProcessRecorder:
        if self._process != os.getpid():
            self._use()
        return self._recorder

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        self.recorder().insert_events([stored(id_of(aggregate_id), number) for number in range(first, first + count)])

    def _use(self) -> None:
        self._factory = self.make_factory()
        self._recorder = self._factory.process_recorder()
        self._process = os.getpid()


class MaestroModule(Module):
    name = "maestro_shm, its module"

    def make_factory(self) -> Factory:
        return Factory({"MAESTRO_TARGET": str(self.directory / "store")})

    def close(self) -> None:
        super().close()
        ms.destroy(self.directory / "store")


class SqliteModule(Module):
    name = "SQLite, its module"

    def make_factory(self) -> SQLiteFactory:
        path = self.directory / "events.sqlite"
        return SQLiteFactory({"SQLITE_DBNAME": str(path), "SQLITE_LOCK_TIMEOUT": _PATIENCE})


def id_of(aggregate_id: str) -> UUID:
    return uuid5(NAMESPACE_OID, aggregate_id)


def stored(originator_id: UUID, number: int) -> StoredEvent:
    return StoredEvent(originator_id, number, EVENT_TYPE, msgpack.packb(body(number)))


def time_modules(modules: list[Module], settings: Settings) -> list[Timing]:
    """One caller, both in turn."""
    for module in modules:
        for aggregate_id in AGGREGATES:
            module.commit(aggregate_id, 1, PREFILL)
    binds: dict[str, Callable[[ProcessRecorder], Callable[[], Callable[[], object]]]] = {
        INSERT: partial(_bind_insert, first=PREFILL + 1, is_tracked=False),
        TRACKED: partial(_bind_insert, first=PREFILL + (1 << 20), is_tracked=True),
        SELECT: _bind_select,
        NOTIFICATIONS: _bind_notifications,
    }
    return [
        timing
        for figure, bind in binds.items()
        for timing in time_in_turns(figure, {module.name: bind(module.recorder()) for module in modules}, settings)
    ]


def _bind_insert(recorder: ProcessRecorder, *, first: int, is_tracked: bool) -> Callable[[], Callable[[], object]]:
    """Streams are short on both sides: aggregates take turns."""
    ids = [id_of(aggregate_id) for aggregate_id in AGGREGATES]
    numbers = itertools.count()

    def bind() -> Callable[[], object]:
        number = next(numbers)
        events = [stored(ids[number % len(ids)], first + number // len(ids))]
        if not is_tracked:
            return partial(recorder.insert_events, events)
        return partial(recorder.insert_events, events, tracking=Tracking("upstream", number + 1))

    return bind


def _bind_select(recorder: ProcessRecorder) -> Callable[[], Callable[[], object]]:
    ids = itertools.cycle([id_of(aggregate_id) for aggregate_id in AGGREGATES])
    return lambda: partial(recorder.select_events, next(ids), lte=PREFILL)


def _bind_notifications(recorder: ProcessRecorder) -> Callable[[], Callable[[], object]]:
    starts = itertools.cycle(range(1, len(AGGREGATES) * PREFILL, PREFILL))
    return lambda: partial(recorder.select_notifications, next(starts), PREFILL)
