"""The reading side of a store's files: no server, no lock, no round trip.

A read takes the published offset first and steps back over anything newer, so that what it sees is one consistent cut,
across aggregates too. Then it looks whether the index is still the one that it knows: the writer publishes a new
generation before it stops to write the old one, so a table that is current now holds all that was published before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from maestro_shm import codec
from maestro_shm.cut import NO_ENTRY, Cut, Entry, Keys
from maestro_shm.errors import CorruptLogError, StoreClosedError, StoreUnavailableError
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot
from maestro_shm.shared import header as head
from maestro_shm.shared import index as tables
from maestro_shm.shared.frame import ENTRY, EVENT, SNAPSHOT, TABLE
from maestro_shm.shared.header import GENERATION, PUBLISHED, RETIRED
from maestro_shm.shared.index import Index
from maestro_shm.shared.key_list import NO_KEYS as _NO_KEYS
from maestro_shm.shared.key_list import known_after
from maestro_shm.shared.log import Log
from maestro_shm.shared.mapped import MappedFile

_CACHED_HEADS: Final = 1 << 16
"""How many streams' newest records are remembered by a reader."""
_CACHED_ENTRIES: Final = 1 << 16
_CACHED_BYTES: Final = 1 << 10
"""How many entries of tables are remembered, and up to which size."""
_RESET_PATIENCE: Final = 2.0
"""Seconds to wait for the next incarnation where one has ended: a reset takes a millisecond."""

_Head = tuple[int, int, int]
"""The word of the index that points to a stream's newest record, that record's offset, and its sequence."""

_StoredEntry = tuple[int, int, Entry]
"""The word of the index that points to an entry's newest record, that record's offset, and what it says."""
_Result = TypeVar("_Result")


class _NoWords:
    """In place of a header's words once the reader is closed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __getitem__(self, number: int) -> int:
        raise StoreClosedError(str(self._directory))


class _View:
    """The mapped files as they are for one generation of the index, and what was learnt of them."""

    words: memoryview | _NoWords

    def __init__(self, header: MappedFile, log: Log, index: Index, generation: int) -> None:
        self.header = header
        self.words = header.words
        self.log = log
        self.index = index
        self.index_words = index.words
        self.generation = generation
        self.heads: dict[str, _Head] = {}
        self.entries: dict[tuple[str, str], _StoredEntry] = {}
        self.keys: dict[str, tuple[int, Keys]] = {}
        """Of tables: the offset of the record that told of them last, and what they were then."""

    @property
    def is_retired(self) -> bool:
        """Whether these files are no longer the store's."""
        return self.words[GENERATION] == RETIRED

    def newest(self, kind: int, key: bytes, published: int) -> tuple[int, int]:
        """The word of a key and the offset of its newest published record; the offset is 0 where there is none."""
        word = self.index.find(kind, key)
        if word is None:
            return 0, 0
        offset = self.index_words[word]
        while offset >= published:
            offset = self.log.read(offset)[1]
        return word, offset

    def head(self, aggregate_id: str, published: int) -> _Head | None:
        """Where the stream ends."""
        known = self.heads.get(aggregate_id)
        # Where the index still has an offset that was published before this cut, nothing is new.
        if known is not None and self.index_words[known[0]] == known[1] < published:
            return known
        word, offset = self.newest(EVENT, aggregate_id.encode(), published)
        if not offset:
            return None
        if len(self.heads) >= _CACHED_HEADS:
            self.heads.clear()
        found = self.heads[aggregate_id] = (word, offset, self.log.read(offset)[0])
        return found

    def last_sequence(self, published: int, aggregate_id: str) -> int | None:
        known = self.head(aggregate_id, published)
        return known[2] if known else None

    def events(self, published: int, aggregate_id: str, min_sequence: int, max_sequence: int) -> list[Event]:
        known = self.head(aggregate_id, published)
        if known is None or known[2] < min_sequence:
            return []
        unpack = codec.unpack_event
        return [
            unpack(aggregate_id, sequence, timestamp, position, payload)
            for sequence, _, position, timestamp, payload in reversed(
                self.log.read_back(known[1], min_sequence, max_sequence)
            )
            if sequence >= min_sequence
        ]

    def snapshot(self, published: int, aggregate_id: str) -> Snapshot | None:
        _, offset = self.newest(SNAPSHOT, aggregate_id.encode(), published)
        if not offset:
            return None
        sequence, _, _, _, payload = self.log.read(offset)
        return Snapshot(aggregate_id, sequence, codec.unpack(payload)[0])

    def entry(self, published: int, table: str, key: str) -> Entry:
        known = self.entries.get((table, key))
        if known is not None and self.index_words[known[0]] == known[1] < published:
            return known[2]
        word, offset = self.newest(ENTRY, f"{table}\0{key}".encode(), published)
        if not offset:
            return NO_ENTRY
        if len(self.entries) >= _CACHED_ENTRIES:
            self.entries.clear()
        version, _, _, _, payload = self.log.read(offset)
        found = Entry(version, payload or None)
        if len(payload) <= _CACHED_BYTES:
            self.entries[table, key] = word, offset, found
        return found

    def keys_of(self, published: int, table: str) -> Keys:
        _, offset = self.newest(TABLE, table.encode(), published)
        if not offset:
            return _NO_KEYS
        before, known = self.keys.get(table, (0, _NO_KEYS))
        if offset == before:
            return known
        if offset < before:  # a cut that is older than another one's
            before, known = 0, _NO_KEYS
        found = known_after(known, self.log.read_back(offset, known.version + 1, MAX_SEQUENCE))
        if before or table not in self.keys:
            self.keys[table] = offset, found
        return found


class _ClosedView(_View):
    """In place of a closed reader's view: everything begins with a look at the words."""

    def __init__(self, directory: Path) -> None:
        self.words = _NoWords(directory)


class Reader:
    """Reads of one store in one process. Threads may share it, and it goes on working after a fork.

    A segment is mapped when it is first read, and a reset may have removed it by then: the read begins again on the new
    files. (Written out three times, since a call in between would cost a freshness check a third of its time.)
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._closed: _ClosedView | None = None
        self._view = self._open()

    def last_sequence(self, aggregate_id: str) -> int | None:
        """The sequence number of the newest event, or None."""
        while True:
            view, published = self._cut()
            try:
                return view.last_sequence(published, aggregate_id)
            except CorruptLogError:
                if not view.is_retired:
                    raise

    def events(self, aggregate_id: str, min_sequence: int, max_sequence: int) -> list[Event]:
        """The events between the bounds, both included, in sequence order."""
        while True:
            view, published = self._cut()
            try:
                return view.events(published, aggregate_id, min_sequence, max_sequence)
            except CorruptLogError:
                if not view.is_retired:
                    raise

    def snapshot(self, aggregate_id: str) -> Snapshot | None:
        """The stored snapshot, or None."""
        while True:
            view, published = self._cut()
            try:
                return view.snapshot(published, aggregate_id)
            except CorruptLogError:
                if not view.is_retired:
                    raise

    def payload(self, table: str, key: str) -> bytes | None:
        """The packed value of a table's entry, or None."""
        while True:
            view, published = self._cut()
            try:
                return view.entry(published, table, key).payload
            except CorruptLogError:
                if not view.is_retired:
                    raise

    def cut(self) -> LogCut:
        """The newest state, to be read from for as long as it takes."""
        return LogCut(*self._cut(), self._directory)

    def stats(self) -> dict[str, Any]:
        """The figures of the store."""
        words = self._current_view().words
        return {
            "events": words[head.LAST_POSITION],
            "aggregates": words[head.AGGREGATES],
            "last_position": words[head.LAST_POSITION],
            "bytes": sum(map(_allocated_bytes, self._directory.iterdir())),
            "server_pid": words[head.SERVER_PID],
            "epoch": words[head.EPOCH],
            "clients": words[head.CLIENTS],
            "directory": str(self._directory),
        }

    def max_commit_bytes(self) -> int:
        """The size cap of a commit."""
        return self._current_view().words[head.MAX_COMMIT_BYTES]

    def is_over(self) -> bool:
        """Whether the store is gone."""
        return self._view.is_retired and not (self._directory / head.NAME).exists()

    def close(self) -> None:
        """Let go of the files, which end with the last read that is under way; later ones raise `StoreClosedError`."""
        self._closed = self._view = _ClosedView(self._directory)

    def _cut(self) -> tuple[_View, int]:
        view = self._view
        published = view.words[PUBLISHED]
        while view.words[GENERATION] != view.generation:
            view = self._current_view()
            published = view.words[PUBLISHED]
        return view, published

    def _current_view(self) -> _View:
        view = self._view
        if view.words[GENERATION] == view.generation:
            return view
        try:
            self._view = _open_index(self._directory, view.header, view.log)
        except FileNotFoundError:
            self._view = self._open()
        # The former view is not unmapped here: another thread may be reading in it. It goes with its last reference.
        if self._closed is not None:  # by another thread, just before a view was put in its place
            self._view = self._closed
        return self._view

    def _open(self) -> _View:
        """The view of the newest incarnation. There is none for the moment that a reset takes."""
        deadline = time.monotonic() + _RESET_PATIENCE
        while True:
            try:
                header = head.open_header(self._directory)
            except FileNotFoundError:
                raise StoreClosedError(str(self._directory)) from None
            try:
                log = Log(self._directory, header.words[head.INCARNATION], writable=False)
                return _open_index(self._directory, header, log)
            except FileNotFoundError:
                pass
            if time.monotonic() > deadline:
                raise StoreUnavailableError(str(self._directory), "its server died while it reset or destroyed it")
            time.sleep(0.001)


class LogCut(Cut):
    """What the log holds up to an offset.

    A reset of the store ends it, unless all that is asked for is mapped already: `StoreUnavailableError` then.
    """

    def __init__(self, view: _View, published: int, directory: Path) -> None:
        self._view = view
        self._published = published
        self._directory = directory

    def get_events(self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE) -> list[Event]:
        return self._read(self._view.events, aggregate_id, min_sequence, max_sequence)

    def get_snapshot(self, aggregate_id: str) -> Snapshot | None:
        return self._read(self._view.snapshot, aggregate_id)

    def last_sequence(self, aggregate_id: str) -> int | None:
        return self._read(self._view.last_sequence, aggregate_id)

    def entry(self, table: str, key: str) -> Entry:
        return self._read(self._view.entry, table, key)

    def keys(self, table: str) -> Keys:
        return self._read(self._view.keys_of, table)

    def _read(self, read: Callable[..., _Result], *arguments: object) -> _Result:
        try:
            return read(self._published, *arguments)
        except CorruptLogError:
            if self._view.is_retired:
                raise StoreUnavailableError(str(self._directory), "it was reset while a transaction read it") from None
            raise


def _allocated_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:  # a generation of the index that was replaced this moment, a socket
        return 0


def _open_index(directory: Path, header: MappedFile, log: Log) -> _View:
    """Map the current generation. Raises `FileNotFoundError` if the incarnation has ended."""
    while True:
        generation = header.words[GENERATION]
        try:
            index = Index.open(tables.path(directory, header.words[head.INCARNATION], generation), log)
        except FileNotFoundError:
            # It may have been replaced between the look at its number and the opening.
            if header.words[GENERATION] == generation:
                raise
        else:
            return _View(header, log, index, generation)
