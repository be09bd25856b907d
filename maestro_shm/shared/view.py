"""A view: a store's mapped files as they are for one generation of the index. Each read says up to which offset."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from maestro_shm import codec
from maestro_shm.cut import NO_ENTRY, Entry, Keys, StoredSnapshot
from maestro_shm.errors import StoreClosedError, TruncatedError
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot
from maestro_shm.shared import header as head
from maestro_shm.shared import index as tables
from maestro_shm.shared.feed import Feed
from maestro_shm.shared.floors import Floors
from maestro_shm.shared.frame import ENTRY, EVENT, SNAPSHOT, TABLE, Frame
from maestro_shm.shared.header import GENERATION, LAST_POSITION, NEWEST_FLOOR, RETIRED
from maestro_shm.shared.index import Index
from maestro_shm.shared.key_list import NO_KEYS, known_after
from maestro_shm.shared.log import Log
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.positions import Positions
from maestro_shm.shared.truncation import Truncation, truncation

_CACHED_HEADS: Final = 1 << 16
"""How many streams' newest records are remembered by a reader."""
_CACHED_ENTRIES: Final = 1 << 16
_CACHED_BYTES: Final = 1 << 10
"""How many entries of tables are remembered, and up to which size."""
_CACHED_TABLES: Final = 1 << 16
"""How many tables' keys are remembered."""

_Head = tuple[int, int, int]
"""The word of the index that points to a stream's newest record, that record's offset, and its sequence."""

_StoredEntry = tuple[int, int, Entry]
"""The word of the index that points to an entry's newest record, that record's offset, and what it says."""


class _NoWords:
    """In place of a header's words once the reader is closed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __getitem__(self, number: int) -> int:
        raise StoreClosedError(str(self._directory))


class View:
    """The mapped files as they are for one generation of the index, and what was learnt of them."""

    words: memoryview | _NoWords

    def __init__(self, header: MappedFile, log: Log, positions: Positions, index: Index, generation: int) -> None:
        self.header = header
        self.words = header.words
        self.log = log
        self.index = index
        self.index_words = index.words
        self.generation = generation
        self.incarnation = head.era(header.words)
        self.shorter = header.words[head.SHORTER]
        self.compacted = header.words[head.COMPACTED]
        self.feed = Feed(log, positions, lambda: header.words[GENERATION] == generation)
        self.floors = Floors(header.words, index, log)
        self.heads: dict[str, _Head] = {}
        self.entries: dict[tuple[str, str], _StoredEntry] = {}
        self.keys: dict[str, tuple[int, Keys]] = {}
        """Of tables: the offset of the record that told of them last, and what they were then."""

    @property
    def is_retired(self) -> bool:
        """Whether these files are no longer the store's."""
        return self.words[GENERATION] == RETIRED

    def head(self, aggregate_id: str, published: int) -> _Head | None:
        """Where the stream ends."""
        known = self.heads.get(aggregate_id)
        if known is not None and known[1] <= (offset := self.index_words[known[0]]) < published:
            if offset == known[1]:  # nothing is new
                return known
            word = known[0]
        else:
            word, offset = self.index.newest(EVENT, aggregate_id.encode(), published)
            if not offset:
                return None
        if len(self.heads) >= _CACHED_HEADS:
            self.heads.clear()
        found = self.heads[aggregate_id] = (word, offset, self.log.read(offset)[0])
        return found

    def note(self, aggregate_id: str, sequence: int, offset: int) -> None:
        """That a stream which is read in this process has a further event, of a commit since the view was taken.

        Its record need not be read then, only to learn that nothing else is new. It is believed only while the word of
        the index says the same; if the index is another one by now, the offset may be of another incarnation's files.
        """
        known = self.heads.get(aggregate_id)
        if known is not None and self.words[GENERATION] == self.generation:
            self.heads[aggregate_id] = known[0], offset, sequence

    def last_sequence(self, published: int, aggregate_id: str) -> int | None:
        known = self.head(aggregate_id, published)
        return known[2] if known else None

    def first_sequence(self, published: int, aggregate_id: str) -> int:
        return self.floors.get(aggregate_id.encode(), published)

    def events(
        self,
        published: int,
        aggregate_id: str,
        min_sequence: int,
        max_sequence: int,
        *,
        complete: bool,
        taken: int | None = None,
    ) -> list[Event]:
        """Of a past state, which is of a cut that was taken later, without what was truncated by then."""
        known = self.head(aggregate_id, published)
        if known is None and taken is not None and complete:
            # Whether there were any by then, and they are gone, nothing tells.
            first = self.first_sequence(taken, aggregate_id)
            if first > max(0, min_sequence) and min_sequence <= max_sequence:
                raise TruncatedError(aggregate_id, min_sequence, first)
        if known is None or known[2] < min_sequence:
            return []
        if self.words[NEWEST_FLOOR]:
            first = self.first_sequence(taken or published, aggregate_id)
            if first > max(0, min_sequence):
                if complete and min_sequence <= max_sequence:
                    raise TruncatedError(aggregate_id, min_sequence, first)
                min_sequence = first
        unpack = codec.unpack_event
        return [
            unpack(aggregate_id, sequence, timestamp, position, payload)
            for sequence, _, position, timestamp, payload in reversed(
                self.log.read_back(known[1], min_sequence, max_sequence)
            )
            if sequence >= min_sequence
        ]

    def truncation(self, published: int, aggregate_id: str, before: int) -> Truncation | None:
        """What would go by one."""
        known = self.head(aggregate_id, published)
        former = self.first_sequence(published, aggregate_id)
        return truncation(self.log, known[1] if known else 0, former, before)

    def snapshot(self, published: int, aggregate_id: str) -> Snapshot | None:
        _, offset = self.index.newest(SNAPSHOT, aggregate_id.encode(), published)
        if not offset:
            return None
        sequence, _, _, _, payload = self.log.read(offset)
        return Snapshot(aggregate_id, sequence, codec.unpack(payload)[0])

    def snapshots(self, published: int) -> Iterator[StoredSnapshot]:
        """Of all aggregates."""
        for key, offset in self._newest_of(SNAPSHOT, published):
            sequence, _, _, _, payload = self.log.read(offset)
            yield StoredSnapshot(key.decode(), sequence, payload)

    def table_names(self, published: int) -> list[str]:
        """Of the tables that have, or had, any entries."""
        return sorted(key.decode() for key, _ in self._newest_of(TABLE, published))

    def _newest_of(self, kind: int, published: int) -> Iterator[tuple[bytes, int]]:
        for key, newest in self.index.all_of(kind):
            offset = newest
            while offset >= published:
                offset = self.log.read(offset)[1]
            if offset:
                yield key, offset

    def last_position(self, published: int) -> int:
        return self.feed.last_position(published, self.words[LAST_POSITION])

    def position_at(self, published: int, timestamp: int) -> int:
        positions = range(1, self.last_position(published) + 1)
        return bisect_right(positions, timestamp, key=self._latest_at)

    def _latest_at(self, position: int) -> int:
        frame = self.frame_of(position)
        return frame.latest if frame else 0

    def frame_of(self, position: int) -> Frame | None:
        """The frame of the commit that has the event at this position, or the last one before it that is left."""
        offset = self.feed.offset(position)
        return self.log.frame_of(offset) if offset else None

    def entry(self, published: int, table: str, key: str) -> Entry:
        known = self.entries.get((table, key))
        if known is not None and self.index_words[known[0]] == known[1] < published:
            return known[2]
        word, offset = self.index.newest(ENTRY, f"{table}\0{key}".encode(), published)
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
        _, offset = self.index.newest(TABLE, table.encode(), published)
        if not offset:
            return NO_KEYS
        before, known = self.keys.get(table, (0, NO_KEYS))
        if offset == before:
            return known
        if offset < before:  # a cut that is older than another one's
            before, known = 0, NO_KEYS
        found = known_after(known, self.log.read_back(offset, known.version + 1, MAX_SEQUENCE))
        if before or table not in self.keys:
            if len(self.keys) >= _CACHED_TABLES:
                self.keys.clear()
            self.keys[table] = offset, found
        return found


class ClosedView(View):
    """In place of a closed reader's view: everything begins with a look at the words."""

    def __init__(self, directory: Path) -> None:
        self.words = _NoWords(directory)
        self.heads = {}


def open_view(directory: Path, header: MappedFile, log: Log) -> View:
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
            # Not those of the former generation: if the index was built anew, so were they.
            positions = Positions(directory, header.words[head.INCARNATION], writable=False)
            return View(header, log, positions, index, generation)
