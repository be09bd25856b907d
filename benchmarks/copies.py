"""A shared store copied into a PostgreSQL database and back: whole copies, with the comparison at the end of each.

The server is on the disk, with the flushes that it has by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Final

from postgres_server import PostgresServer

import maestro_shm as ms
from benchmarks.settings import Settings
from benchmarks.workload import EVENT_TYPE, body
from maestro_shm.backend import Backend
from maestro_shm.copying import copy
from maestro_shm.postgres.migration import migrate

_AGGREGATES: Final = 1_000
_PER_COMMIT: Final = 10


@dataclass(frozen=True, slots=True)
class CopyRates:
    """Events per second, medians over the rounds."""

    events: int
    to_postgres: float
    from_postgres: float


def measure_copies(server: PostgresServer, settings: Settings) -> CopyRates:
    """There and back in turns, each time into a new store."""
    events = settings.copied_events
    to_postgres, from_postgres = [], []
    with ms.connect() as source:
        _fill(source, events)
        for turn in range(settings.copy_rounds):
            url = f"{server.url}&options=-csearch_path%3Dround_{turn}"
            migrate(url)
            with ms.connect(url) as target, ms.connect() as back:
                to_postgres.append(events / _seconds(source, target))
                from_postgres.append(events / _seconds(target, back))
    return CopyRates(events, median(to_postgres), median(from_postgres))


def _seconds(source: ms.Store, target: ms.Store) -> float:
    assert isinstance(source, Backend)
    assert isinstance(target, Backend)
    started = perf_counter()
    copy(source, target, _say_nothing)
    return perf_counter() - started


def _fill(store: ms.Store, events: int) -> None:
    for first in range(0, events, _PER_COMMIT):
        store.commit_events(
            [
                ms.Event(f"account-{number % _AGGREGATES:05d}", 1 + number // _AGGREGATES, EVENT_TYPE, body(number))
                for number in range(first, first + _PER_COMMIT)
            ]
        )


def _say_nothing(what: str, done: int, of: int | None) -> None: ...
