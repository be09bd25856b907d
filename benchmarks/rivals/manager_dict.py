"""A stock `Manager().dict()` of lists under a `Manager().Lock()`, by hand: lock, fetch, check, append, store.

A stream travels whole, both ways, so its figures grow with the length of the streams, that is with the run.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.child import FORK
from benchmarks.rivals.rival import Rival, StaleError
from benchmarks.workload import EVENT_TYPE, READ, body

_Stored = tuple[int, str, object]


class ManagerDict(Rival):
    name = "Manager().dict()"
    stale = StaleError

    def open(self) -> None:
        self._manager = FORK.Manager()
        self._streams = self._manager.dict()
        self._lock = self._manager.Lock()

    def close(self) -> None:
        self._manager.shutdown()

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        with self._lock:
            stream = self._stream(aggregate_id)
            if stream and stream[-1][0] >= first:
                raise StaleError(aggregate_id, first)
            stream.extend((number, EVENT_TYPE, body(number)) for number in range(first, first + count))
            self._streams[aggregate_id] = stream

    def last_sequence(self, aggregate_id: str) -> int | None:
        stream = self._stream(aggregate_id)
        return stream[-1][0] if stream else None

    def catch_up(self, aggregate_id: str, last: int) -> Sequence[object]:
        return [event for event in self._stream(aggregate_id) if event[0] > last]

    def read_last(self, aggregate_id: str, last: int) -> Sequence[object]:  # noqa: ARG002 (the list knows its end)
        return self._stream(aggregate_id)[-READ:]

    def _stream(self, aggregate_id: str) -> list[_Stored]:
        stream: list[_Stored] = self._streams.get(aggregate_id, [])
        return stream
