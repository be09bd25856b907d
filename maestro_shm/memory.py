"""The store of one process: plain dicts under a lock, the seed's in-memory store.

It is the model that the other stores are tested against, so it prefers the obvious to the fast. Payloads are kept
packed all the same: a body that is changed after its commit must not change the past, here as elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, NoReturn

from maestro_shm import codec, options, validation
from maestro_shm.backend import Backend
from maestro_shm.clock import HybridClock
from maestro_shm.cut import NEVER, NO_ENTRY, Cut, Entry, Keys, StoredEvent, StoredSnapshot
from maestro_shm.errors import (
    SequenceConflictError,
    StaleReadError,
    StoreClosedError,
    StoreUnavailableError,
    TableConflictError,
    TruncatedError,
    TruncationError,
)
from maestro_shm.leases import Leases, ThreadLeases
from maestro_shm.proposal import Change, Proposal
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot
from maestro_shm.selection import Selection
from maestro_shm.transaction import refuse_within
from maestro_shm.validation import PackedEvent
from maestro_shm.vigil import Vigil


class _StoredEvent(NamedTuple):
    sequence: int
    timestamp: int
    position: int
    payload: bytes


class _End(NamedTuple):
    """What a commit of events left behind: its number, the last position, and the highest timestamp of all so far."""

    commit: int
    position: int
    latest: int


_NOTHING: Final = _End(0, 0, 0)
_OF_ONE_PROCESS: Final = (
    "lives in one process, and cannot be pickled or used by a fork of that; "
    "use maestro_shm.connect() for one that worker processes share"
)


class _StoredSnapshot(NamedTuple):
    commit: int
    sequence: int
    payload: bytes


class _Truncation(NamedTuple):
    commit: int
    first_sequence: int


class _StoredEntry(NamedTuple):
    commit: int
    version: int
    payload: bytes | None


class _Table:
    """The entries of a table with all that they have been, and when keys came or went."""

    def __init__(self) -> None:
        self.entries: dict[str, list[_StoredEntry]] = {}
        self.versions: list[int] = []
        """The commits in which some did."""

    def change(self, commit: int, key: str, change: Change) -> None:
        entry = self.entries.setdefault(key, [])
        was_there = bool(entry) and entry[-1].payload is not None
        if was_there != (change.payload is not None) and self.versions[-1:] != [commit]:
            self.versions.append(commit)
        entry.append(_StoredEntry(commit, *change))


def _unpack(aggregate_id: str, stored: _StoredEvent) -> Event:
    return codec.unpack_event(aggregate_id, stored.sequence, stored.timestamp, stored.position, stored.payload)


_by_sequence: Final = attrgetter("sequence")


class _Content:
    """All that a store has. A reset begins another; cuts of this one keep it.

    What is truncated is kept, and passed over by the cuts that come later: those before still have it.
    """

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.streams: dict[str, list[_StoredEvent]] = {}
        self.all: list[tuple[str, _StoredEvent]] = []
        self.ends: list[_End] = []
        """By the position of each of a commit's events."""
        self.snapshots: dict[str, list[_StoredSnapshot]] = {}
        self.tables: dict[str, _Table] = {}
        self.truncations: dict[str, list[_Truncation]] = {}
        self.truncated = 0
        self.commits = 0
        self.position = 0
        self.bytes = 0


class _MemoryCut(Cut):
    """The store as it was after a commit: what came later is passed over."""

    def __init__(self, store: MemoryStore, content: _Content, commit: int, position: int, taken: int) -> None:
        """As it was after a commit, without what was truncated by the one that was the last when it was taken."""
        self._store = store
        self._content = content
        self._commit = commit
        self._position = position
        self._taken = taken

    def get_events(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE, complete: bool = False
    ) -> list[Event]:
        found = self._store.find_events(self._content, aggregate_id, min_sequence, max_sequence)
        first = self.first_sequence(aggregate_id)
        last = self.last_sequence(aggregate_id) or 0
        if complete and max(0, min_sequence) < first and min_sequence <= min(last, max_sequence):
            raise TruncatedError(aggregate_id, min_sequence, first)
        left = [event for event in found if event.sequence >= first and event.position <= self._position]
        return [_unpack(aggregate_id, event) for event in left]

    def get_snapshot(self, aggregate_id: str) -> Snapshot | None:
        stored = self._store.find_snapshot(self._content, aggregate_id, self._commit)
        return stored and Snapshot(aggregate_id, stored.sequence, codec.unpack(stored.payload)[0])

    def last_sequence(self, aggregate_id: str) -> int | None:
        found = self._store.find_events(self._content, aggregate_id, 0, MAX_SEQUENCE)
        return next((event.sequence for event in reversed(found) if event.position <= self._position), None)

    def first_sequence(self, aggregate_id: str) -> int:
        return self._store.find_first_sequence(self._content, aggregate_id, self._taken)

    @property
    def is_truncated(self) -> bool:
        return self._content.truncated > 0

    @property
    def incarnation(self) -> int:
        return self._content.incarnation

    @property
    def mark(self) -> int:
        return self._commit

    @property
    def last_position(self) -> int:
        return self._position

    def position_at(self, timestamp: int) -> int:
        return self._store.find_position(self._content, timestamp, self._position)

    def until(self, position: int) -> Cut:
        return self._store.find_cut(self._content, position, self._taken)

    def feed(self, wanted: Selection) -> Iterator[list[Event]]:
        yield self._store.find_after(self._content, wanted, self._position, self._taken)

    def stored_events(self, after: int) -> Iterator[list[StoredEvent]]:
        yield self._store.find_stored_events(self._content, after, self._position, self._taken)

    def stored_snapshots(self) -> Iterator[StoredSnapshot]:
        return iter(self._store.find_stored_snapshots(self._content, self._commit))

    def table_names(self) -> list[str]:
        return self._store.find_table_names(self._content, self._commit)

    def entry(self, table: str, key: str) -> Entry:
        return self._store.find_entry(self._content, table, key, self._commit)

    def keys(self, table: str) -> Keys:
        return self._store.find_keys(self._content, table, self._commit)


class MemoryStore(Backend):
    """`connect("memory:")`: see `Store`. Threads may share it; processes cannot, so it refuses to be pickled."""

    target = "memory:"

    def __init__(self, *, max_commit_bytes: int = options.DEFAULT_COMMIT_BYTES) -> None:
        self._max_commit_bytes = options.commit_bytes(max_commit_bytes)
        self._lock = threading.Lock()
        self._bells: set[SimpleQueue[None]] = set()
        self._incarnations = 0
        self._holders: dict[str, dict[int, object]] = {}
        self._clock = HybridClock()
        self._closed = False
        self._process = os.getpid()
        self._forget()

    def stats(self) -> dict[str, Any]:
        with self._lock:
            self._check_open()
            return {
                "events": self._content.position - self._content.truncated,
                "aggregates": len(self._content.streams),
                "last_position": self._content.position,
                "bytes": self._content.bytes,
            }

    def reset(self) -> None:
        refuse_within(self, "a reset")
        with self._lock:
            self._check_open()
            self._forget()
            self._ring()

    def close(self) -> None:
        self._finish_submissions()
        with self._lock:
            self._closed = True
            self._forget()
            self._ring()

    def find_events(
        self, content: _Content, aggregate_id: str, min_sequence: int, max_sequence: int
    ) -> list[_StoredEvent]:
        """The events between the bounds."""
        with self._lock:
            self._check_open()
            stream = content.streams.get(aggregate_id, [])
            start = bisect_left(stream, min_sequence, key=_by_sequence)
            end = bisect_right(stream, max_sequence, key=_by_sequence)
            return stream[start:end]

    def find_first_sequence(self, content: _Content, aggregate_id: str, commit: int) -> int:
        """Below which the aggregate's events were truncated by a commit."""
        with self._lock:
            self._check_open()
            return self._first_sequence(content, aggregate_id, commit)

    def find_after(self, content: _Content, wanted: Selection, last: int, commit: int) -> list[Event]:
        """The wanted events up to a last position that were not truncated by a commit."""
        with self._lock:
            self._check_open()
            found = [
                event
                for aggregate_id, stored in content.all[wanted.after : last]
                if aggregate_id.startswith(wanted.aggregate_prefix)
                and stored.sequence >= self._first_sequence(content, aggregate_id, commit)
                for event in [_unpack(aggregate_id, stored)]
                if wanted.types is None or event.type in wanted.types
            ]
            return found[: wanted.limit]

    def find_stored_events(self, content: _Content, after: int, last: int, commit: int) -> list[StoredEvent]:
        """The events behind a position up to a last one that were not truncated by a commit, as they are stored."""
        with self._lock:
            self._check_open()
            return [
                StoredEvent(
                    aggregate_id, stored.sequence, stored.timestamp, stored.payload, stored.position, end.commit
                )
                for (aggregate_id, stored), end in zip(content.all[after:last], content.ends[after:last], strict=True)
                if stored.sequence >= self._first_sequence(content, aggregate_id, commit)
            ]

    def find_stored_snapshots(self, content: _Content, commit: int) -> list[StoredSnapshot]:
        """The newest snapshot of each aggregate up to a commit, as it is stored."""
        with self._lock:
            self._check_open()
            found = [
                (aggregate_id, next((snapshot for snapshot in reversed(stored) if snapshot.commit <= commit), None))
                for aggregate_id, stored in content.snapshots.items()
            ]
            return [StoredSnapshot(name, newest.sequence, newest.payload) for name, newest in found if newest]

    def find_table_names(self, content: _Content, commit: int) -> list[str]:
        """The tables that had any entries by a commit."""
        with self._lock:
            self._check_open()
            return sorted(name for name, table in content.tables.items() if bisect_right(table.versions, commit))

    def find_position(self, content: _Content, timestamp: int, last: int) -> int:
        """The last position up to a last one before the first commit with an event of a later time."""
        with self._lock:
            self._check_open()
            return bisect_right(content.ends, timestamp, hi=last, key=attrgetter("latest"))

    def find_cut(self, content: _Content, position: int, taken: int) -> Cut:
        """The state that the commit with this position left, without what was truncated by another one."""
        with self._lock:
            self._check_open()
            end = content.ends[position - 1] if position else _NOTHING
            return _MemoryCut(self, content, end.commit, end.position, taken)

    def find_snapshot(self, content: _Content, aggregate_id: str, commit: int) -> _StoredSnapshot | None:
        """The newest snapshot up to a commit."""
        with self._lock:
            self._check_open()
            stored = content.snapshots.get(aggregate_id, [])
            return next((snapshot for snapshot in reversed(stored) if snapshot.commit <= commit), None)

    def find_entry(self, content: _Content, table: str, key: str, commit: int) -> Entry:
        """What a table had under a key after a commit."""
        with self._lock:
            self._check_open()
            return self._entry(content, table, key, commit)

    def find_keys(self, content: _Content, table: str, commit: int) -> Keys:
        """What keys a table had after a commit."""
        with self._lock:
            self._check_open()
            known = content.tables.get(table, _Table())
            there = [key for key in known.entries if self._entry(content, table, key, commit).payload is not None]
            return Keys(bisect_right(known.versions, commit) - 1, sorted(there))

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a memory: store {_OF_ONE_PROCESS}")

    def _forget(self) -> None:
        self._incarnations += 1
        self._content = _Content(self._incarnations)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self.target)
        if self._process != os.getpid():
            raise StoreUnavailableError(self.target, f"it {_OF_ONE_PROCESS}")

    def _cut(self) -> Cut:
        with self._lock:
            self._check_open()
            return _MemoryCut(self, self._content, self._content.commits, self._content.position, self._content.commits)

    def _commit(self, proposal: Proposal) -> Callable[[], list[Event]]:
        proposal.check_size(self._max_commit_bytes)
        with self._lock:
            self._check_open()
            self._check_reads(proposal)
            for aggregate_id, sequence, _, _ in proposal.events:
                self._check_sequence(aggregate_id, sequence)
            self._content.commits += 1
            stored = [self._append(*event) for event in proposal.events]
            self._note_end([event.timestamp for event in stored])
            for (table, key), change in proposal.changes.items():
                self._content.tables.setdefault(table, _Table()).change(self._content.commits, key, change)
                self._content.bytes += validation.entry_size(table, key, change.payload)
            self._ring()
        return lambda: [_unpack(event[0], new) for event, new in zip(proposal.events, stored, strict=True)]

    def _commit_events(self, events: list[PackedEvent]) -> list[Event]:
        return self._commit(Proposal(events))()

    def _commit_snapshot(self, aggregate_id: str, sequence: int, payload: bytes) -> bool:
        with self._lock:
            self._check_open()
            stored = self._content.snapshots.setdefault(aggregate_id, [])
            if stored and sequence <= stored[-1].sequence:
                return False
            self._content.commits += 1
            stored.append(_StoredSnapshot(self._content.commits, sequence, payload))
            self._content.bytes += validation.record_size(aggregate_id, payload)
            self._ring()
            return True

    def _truncate(self, aggregate_id: str, before: int) -> None:
        with self._lock:
            self._check_open()
            content = self._content
            first = self._first_sequence(content, aggregate_id, content.commits)
            stream = content.streams.get(aggregate_id, [])
            forgotten = [event.sequence for event in stream if first <= event.sequence < before]
            if not forgotten:
                return
            snapshots = content.snapshots.get(aggregate_id)
            covered = snapshots[-1].sequence if snapshots else None
            if covered is None or covered < forgotten[-1]:
                raise TruncationError(aggregate_id, forgotten[-1], covered)
            content.commits += 1
            content.truncated += len(forgotten)
            content.truncations.setdefault(aggregate_id, []).append(_Truncation(content.commits, forgotten[-1] + 1))
            self._ring()

    def _wait(self, incarnation: int, position: int, deadline: float, vigil: Vigil) -> None:
        self._wait_until(
            lambda: self._content.position >= position or self._content.incarnation != incarnation, deadline, vigil
        )

    def _wait_for_commit(self, incarnation: int, mark: int, deadline: float, vigil: Vigil) -> None:
        self._wait_until(
            lambda: self._content.commits > mark or self._content.incarnation != incarnation, deadline, vigil
        )

    def _wait_until(self, is_there: Callable[[], bool], deadline: float, vigil: Vigil) -> None:
        # Not a condition: a signal's handler may end the vigil between its look and its wait, and nobody would notice.
        bell: SimpleQueue[None] = SimpleQueue()
        self._bells.add(bell)
        try:
            with vigil.woken_by(lambda: bell.put(None)):
                while not (vigil.is_over or self._closed or is_there()):
                    if (seconds := deadline - time.monotonic()) <= 0:
                        break
                    with contextlib.suppress(Empty):
                        bell.get(timeout=min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._bells.discard(bell)
        self._check_open()

    def _ring(self) -> None:
        for bell in self._bells.copy():
            bell.put(None)

    def _leases(self, name: str) -> Leases:
        return ThreadLeases(self._holders.setdefault(name, {}))

    def _first_sequence(self, content: _Content, aggregate_id: str, commit: int) -> int:
        done = content.truncations.get(aggregate_id, [])
        return next((one.first_sequence for one in reversed(done) if one.commit <= commit), 0)

    def _entry(self, content: _Content, table: str, key: str, commit: int) -> Entry:
        stored = content.tables.get(table, _Table()).entries.get(key, [])
        return next((Entry(*entry[1:]) for entry in reversed(stored) if entry.commit <= commit), NO_ENTRY)

    def _check_reads(self, proposal: Proposal) -> None:
        for aggregate_id, read in proposal.streams.items():
            stream = self._content.streams.get(aggregate_id)
            if (last := stream[-1].sequence if stream else None) != read:
                raise StaleReadError(aggregate_id, read, last)
        for (table, key), version in proposal.entries.items():
            if (last := self._entry(self._content, table, key, self._content.commits).version) != version:
                raise TableConflictError(table, key, version, last)
        for table, version in proposal.tables.items():
            known = self._content.tables.get(table)
            if (last := len(known.versions) - 1 if known else NEVER) != version:
                raise TableConflictError(table, None, version, last)

    def _check_sequence(self, aggregate_id: str, sequence: int) -> None:
        stream = self._content.streams.get(aggregate_id)
        if stream and sequence <= stream[-1].sequence:
            raise SequenceConflictError(aggregate_id, sequence, stream[-1].sequence)

    def _note_end(self, timestamps: list[int]) -> None:
        latest = max([*timestamps, *(end.latest for end in self._content.ends[-1:])], default=0)
        self._content.ends += [_End(self._content.commits, self._content.position, latest)] * len(timestamps)

    def _append(self, aggregate_id: str, sequence: int, given: int | None, payload: bytes) -> _StoredEvent:
        self._content.position += 1
        timestamp = self._clock.tick() if given is None else self._clock.observe(given)
        stored = _StoredEvent(sequence, timestamp, self._content.position, payload)
        self._content.streams.setdefault(aggregate_id, []).append(stored)
        self._content.all.append((aggregate_id, stored))
        self._content.bytes += validation.record_size(aggregate_id, payload)
        return stored
