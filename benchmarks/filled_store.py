"""Stores with few and with many events, filled in large commits.

Rule: event n of a store belongs to aggregate n % aggregates, so all streams are of one length.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Final

import maestro_shm as ms
from benchmarks.settings import Settings
from benchmarks.workload import EVENT_TYPE, body

_PER_COMMIT: Final = 500


@dataclass(frozen=True, slots=True)
class FilledStore:
    store: ms.Store
    events: int
    aggregates: int

    @property
    def last_sequence(self) -> int:
        """Of every aggregate."""
        return self.events // self.aggregates


def aggregate_name(number: int) -> str:
    return f"account-{number:05d}"


def fill_small(store: ms.Store, settings: Settings) -> FilledStore:
    return _fill(store, settings.small_events, settings.small_events, 100, float("inf"))


def fill_large(store: ms.Store, settings: Settings) -> FilledStore:
    return _fill(store, settings.large_events, settings.fewer_events, 1000, settings.fill_seconds)


def _fill(store: ms.Store, events: int, fewer: int, aggregates: int, seconds: float) -> FilledStore:
    """Stop at `fewer` if it took so long that all would take longer than `seconds`."""
    started = perf_counter()
    for first in range(0, events, _PER_COMMIT):
        if first == fewer and perf_counter() - started > seconds * fewer / events:
            return FilledStore(store, fewer, aggregates)
        store.commit_events(_events(range(first, min(first + _PER_COMMIT, events)), aggregates))
    return FilledStore(store, events, aggregates)


def _events(numbers: range, aggregates: int) -> list[ms.Event]:
    return [
        ms.Event(aggregate_name(number % aggregates), 1 + number // aggregates, EVENT_TYPE, body(number))
        for number in numbers
    ]
