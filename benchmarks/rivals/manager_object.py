"""A stock `BaseManager` object: one call per operation; the server compares and appends, in a dict of lists."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from multiprocessing.managers import BaseManager

from benchmarks.child import FORK
from benchmarks.rivals.rival import Rival, StaleError
from benchmarks.workload import EVENT_TYPE, READ, body

_Stored = tuple[int, str, object]


class EventTable:
    """What the server holds. A stock server has a thread for each client: hence the lock."""

    def __init__(self) -> None:
        self._streams: dict[str, list[_Stored]] = {}
        self._lock = threading.Lock()

    def commit(self, aggregate_id: str, events: list[_Stored]) -> None:
        with self._lock:
            stream = self._streams.setdefault(aggregate_id, [])
            if stream and stream[-1][0] >= events[0][0]:
                raise StaleError(aggregate_id, events[0][0])
            stream.extend(events)

    def last_sequence(self, aggregate_id: str) -> int | None:
        stream = self._streams.get(aggregate_id)
        return stream[-1][0] if stream else None

    def read_last(self, aggregate_id: str, count: int) -> list[_Stored]:
        return self._streams.get(aggregate_id, [])[-count:]

    def read_after(self, aggregate_id: str, last: int) -> list[_Stored]:
        stream = self._streams.get(aggregate_id, [])
        start = len(stream)
        while start and stream[start - 1][0] > last:
            start -= 1
        return stream[start:]


class _TableManager(BaseManager):
    new_table: Callable[[], EventTable]


_TableManager.register("new_table", EventTable)


class ManagerObject(Rival):
    name = "BaseManager object"
    stale = StaleError

    def open(self) -> None:
        self._manager = _TableManager(ctx=FORK)
        self._manager.start()
        self._table = self._manager.new_table()

    def close(self) -> None:
        self._manager.shutdown()

    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        self._table.commit(aggregate_id, [(number, EVENT_TYPE, body(number)) for number in range(first, first + count)])

    def last_sequence(self, aggregate_id: str) -> int | None:
        return self._table.last_sequence(aggregate_id)

    def catch_up(self, aggregate_id: str, last: int) -> Sequence[object]:
        return self._table.read_after(aggregate_id, last)

    def read_last(self, aggregate_id: str, last: int) -> Sequence[object]:  # noqa: ARG002 (the list knows its end)
        return self._table.read_last(aggregate_id, READ)
