"""The store of one process: plain dicts under a lock, the seed's in-memory store.

It is the model that the other stores are tested against, so it prefers the obvious to the fast. Payloads are kept
packed all the same: a body that is changed after its commit must not change the past, here as elsewhere.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, Final, NamedTuple, NoReturn

from maestro_shm import codec, options, validation
from maestro_shm.clock import HybridClock
from maestro_shm.errors import SequenceConflictError, StoreClosedError
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot, in_range
from maestro_shm.store import Store


class _StoredEvent(NamedTuple):
    sequence: int
    timestamp: int
    position: int
    payload: bytes


def _unpack(aggregate_id: str, stored: _StoredEvent) -> Event:
    return codec.unpack_event(aggregate_id, stored.sequence, stored.timestamp, stored.position, stored.payload)


_by_sequence: Final = attrgetter("sequence")


class MemoryStore(Store):
    """`connect("memory:")`: see `Store`. Threads may share it; processes cannot, so it refuses to be pickled."""

    target = "memory:"

    def __init__(self, *, max_commit_bytes: int = options.DEFAULT_COMMIT_BYTES) -> None:
        self._max_commit_bytes = options.commit_bytes(max_commit_bytes)
        self._lock = threading.Lock()
        self._clock = HybridClock()
        self._closed = False
        self._forget()

    def commit_events(self, events: Iterable[Event]) -> list[Event]:
        self._check_open()
        packed = validation.pack_events(events, self._max_commit_bytes)
        with self._lock:
            self._check_open()
            for aggregate_id, sequence, _, _ in packed:
                self._check_sequence(aggregate_id, sequence)
            stored = [self._append(*event) for event in packed]
        return [_unpack(event[0], new) for event, new in zip(packed, stored, strict=True)]

    def commit_snapshot(self, snapshot: Snapshot) -> bool:
        self._check_open()
        payload = validation.pack_snapshot(snapshot, self._max_commit_bytes)
        with self._lock:
            self._check_open()
            stored = self._snapshots.get(snapshot.aggregate_id)
            if stored and snapshot.sequence <= stored[0]:
                return False
            self._snapshots[snapshot.aggregate_id] = (snapshot.sequence, payload)
            self._bytes += validation.record_size(snapshot.aggregate_id, payload)
            return True

    def get_events(self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE) -> list[Event]:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        validation.check_bounds(min_sequence, max_sequence)
        with self._lock:
            self._check_open()
            stream = self._streams.get(aggregate_id, [])
            start = bisect_left(stream, min_sequence, key=_by_sequence)
            end = bisect_right(stream, max_sequence, key=_by_sequence)
            found = stream[start:end]
        return [_unpack(aggregate_id, event) for event in found]

    def get_snapshot(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE
    ) -> Snapshot | None:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        validation.check_bounds(min_sequence, max_sequence)
        with self._lock:
            self._check_open()
            stored = self._snapshots.get(aggregate_id)
        if stored is None:
            return None
        sequence, payload = stored
        snapshot = Snapshot(aggregate_id, sequence, codec.unpack(payload)[0])
        return snapshot if in_range(snapshot, min_sequence, max_sequence) else None

    def last_sequence(self, aggregate_id: str) -> int | None:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        with self._lock:
            self._check_open()
            stream = self._streams.get(aggregate_id)
            return stream[-1].sequence if stream else None

    def stats(self) -> dict[str, Any]:
        with self._lock:
            self._check_open()
            return {
                "events": self._position,
                "aggregates": len(self._streams),
                "last_position": self._position,
                "bytes": self._bytes,
            }

    def reset(self) -> None:
        with self._lock:
            self._check_open()
            self._forget()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._forget()

    def __reduce__(self) -> NoReturn:
        msg = (
            "a memory: store lives in one process and cannot be pickled; "
            "use maestro_shm.connect() for one that worker processes share"
        )
        raise TypeError(msg)

    def _forget(self) -> None:
        self._streams: dict[str, list[_StoredEvent]] = {}
        self._snapshots: dict[str, tuple[int, bytes]] = {}
        self._position = 0
        self._bytes = 0

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self.target)

    def _check_sequence(self, aggregate_id: str, sequence: int) -> None:
        stream = self._streams.get(aggregate_id)
        if stream and sequence <= stream[-1].sequence:
            raise SequenceConflictError(aggregate_id, sequence, stream[-1].sequence)

    def _append(self, aggregate_id: str, sequence: int, given: int | None, payload: bytes) -> _StoredEvent:
        self._position += 1
        timestamp = self._clock.tick() if given is None else self._clock.observe(given)
        stored = _StoredEvent(sequence, timestamp, self._position, payload)
        self._streams.setdefault(aggregate_id, []).append(stored)
        self._bytes += validation.record_size(aggregate_id, payload)
        return stored
