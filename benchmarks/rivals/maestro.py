"""This package's shared store, private to the run."""

from __future__ import annotations

from collections.abc import Sequence

import maestro_shm as ms
from benchmarks.rivals.rival import Rival
from benchmarks.workload import EVENT_TYPE, READ, body


class Maestro(Rival):
    name = "maestro_shm"
    stale = ms.SequenceConflictError

    def open(self) -> None:
        self._store = ms.connect()

    def close(self) -> None:
        self._store.close()

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        self._store.commit_events(
            [ms.Event(aggregate_id, number, EVENT_TYPE, body(number)) for number in range(first, first + count)]
        )

    def last_sequence(self, aggregate_id: str) -> int | None:
        return self._store.last_sequence(aggregate_id)

    def catch_up(self, aggregate_id: str, last: int) -> Sequence[object]:
        return self._store.get_events(aggregate_id, last + 1)

    def read_last(self, aggregate_id: str, last: int) -> Sequence[object]:
        return self._store.get_events(aggregate_id, last - READ + 1)
