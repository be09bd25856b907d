"""From a key to its newest record: a hash table in shared memory, so that a new worker needs no scan.

Open addressing with linear probing over slots of two words: a fingerprint of the key (never 0) and the offset of its
newest record. The key itself stands in that record only, and is compared there. An offset of 0 marks a slot whose
record was undone; the next key that needs one may take it.

The table never moves a key, so a slot once found stays right for this generation. It grows by a next generation
that is built aside, a few slots at each commit, so that no commit waits for all of it; then its number is published.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

from maestro_shm.shared.header import GENERATION, INCARNATION
from maestro_shm.shared.log import Log
from maestro_shm.shared.mapped import MappedFile

SMALLEST: Final = 1024
"""Slots of a new store's table."""
_SLOT_BYTES: Final = 16
_MOVED_ALWAYS: Final = 8
_MOVED_PER_NEW_KEY: Final = 4
_HEAD_SLOTS: Final = 1
"""The first slot's room holds the number of slots in use, in its first word."""


def path(directory: Path, incarnation: int, generation: int) -> Path:
    """The path of one generation's file."""
    return directory / f"index-{incarnation}-{generation:06d}"


def fingerprint(kind: int, key: bytes) -> int:
    """What a slot keeps of its key: where to look for it (the CRC in the low half), and its length."""
    return crc32(key, kind) | (len(key) + 1) << 32


class Index:
    """One generation of the table."""

    def __init__(self, file: MappedFile, log: Log) -> None:
        self._file = file
        self._log = log
        self.words = file.words
        self.capacity = file.size // _SLOT_BYTES - _HEAD_SLOTS
        self._mask = self.capacity - 1

    @classmethod
    def create(cls, file_path: Path, log: Log, capacity: int = SMALLEST) -> Index:
        """An empty table; the capacity is a power of two. Raises `StoreFullError`."""
        size = (capacity + _HEAD_SLOTS) * _SLOT_BYTES
        return cls(MappedFile.create(file_path, size, size), log)

    @classmethod
    def open(cls, file_path: Path, log: Log, *, writable: bool = False) -> Index:
        """An existing table. Raises `FileNotFoundError`."""
        return cls(MappedFile.open(file_path, writable=writable), log)

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return self.words[0]

    def find(self, kind: int, key: bytes) -> int | None:
        """The word (an index of `words`) that holds the offset of the key's newest record, or None."""
        mark = fingerprint(kind, key)
        for word in self._probe(mark):
            if self.words[word] == 0:
                return None
            if self.words[word] == mark and self._holds(word + 1, kind, key):
                return word + 1
        return None

    def put(self, kind: int, key: bytes, offset: int) -> int:
        """Store the offset of the key's newest record, and return the word that holds it."""
        mark = fingerprint(kind, key)
        free = None
        for word in self._probe(mark):
            if self.words[word] == 0:
                return self._take(word if free is None else free, mark, offset)
            if self.words[word + 1] == 0:
                free = word if free is None else free
            elif self.words[word] == mark and self._holds(word + 1, kind, key):
                self.words[word + 1] = offset
                return word + 1
        raise AssertionError("the index is full")  # pragma: no cover (it grows at half)

    def entries(self, start: int, count: int) -> Iterator[int]:
        """The offsets in some slots, of those that hold one."""
        first = start + _HEAD_SLOTS
        for slot in range(first, min(first + count, self.capacity + _HEAD_SLOTS)):
            # A slot without a fingerprint may hold the offset that a writer put there as it was killed.
            if self.words[slot * 2] and (offset := self.words[slot * 2 + 1]):
                yield offset

    def close(self) -> None:
        """Unmap the table."""
        self._file.close()

    def _probe(self, mark: int) -> Iterator[int]:
        slot = mark & self._mask
        for _ in range(self.capacity):
            yield (slot + _HEAD_SLOTS) * 2
            slot = (slot + 1) & self._mask

    def _holds(self, word: int, kind: int, key: bytes) -> bool:
        offset = self.words[word]
        if not offset:
            return False
        record = self._log.record(offset)
        return record.key == key and record.kind == kind

    def _take(self, word: int, mark: int, offset: int) -> int:
        if self.words[word] == 0:
            self.words[0] += 1
        # The offset first: a reader that sees the fingerprint must find a record behind it.
        self.words[word + 1] = offset
        self.words[word] = mark
        return word + 1


class GrowingIndex:
    """The table as its writer uses it: the current generation, and while it is crowded the next one beside it."""

    def __init__(self, directory: Path, header: MappedFile, log: Log, current: Index) -> None:
        self._directory = directory
        self._header = header
        self._log = log
        self._current = current
        self._next: Index | None = None
        self._moved = 0

    def find(self, kind: int, key: bytes) -> int | None:
        """The word of the current generation that holds the key's newest offset, or None."""
        return self._current.find(kind, key)

    def newest(self, word: int) -> int:
        """The offset that a word of the current generation holds."""
        return self._current.words[word]

    def reserve(self, new_keys: int) -> None:
        """Make room for new keys. Words that were found before are void if the header's generation changes by it.

        At half the slots a next generation of twice the size is begun; each call moves some slots to it, four for each
        new key, so that it is done before the current one is three quarters full. Raises `StoreFullError`.
        """
        if self._next is None:
            if self._load(new_keys) < self._current.capacity / 2:
                return
            self._next = self._begin(new_keys)
        self._move(self._next, _MOVED_ALWAYS + _MOVED_PER_NEW_KEY * new_keys)
        if self._load(new_keys) >= self._current.capacity * 3 / 4:
            self._move(self._next, self._current.capacity)
        if self._moved < self._current.capacity:
            return
        self._publish(self._next)
        self.reserve(new_keys)

    def put(self, kind: int, key: bytes, offset: int, word: int | None) -> int:
        """Store the key's newest offset, in the word where it is if the caller knows that; return the word."""
        if word is None:
            word = self._current.put(kind, key, offset)
        else:
            self._current.words[word] = offset
        if self._next is not None:
            self._next.put(kind, key, offset)
        return word

    def close(self) -> None:
        """Unmap the tables."""
        self._current.close()
        if self._next is not None:
            self._next.close()

    def _load(self, new_keys: int) -> int:
        return self._current.used + new_keys

    def _begin(self, new_keys: int) -> Index:
        capacity = self._current.capacity * 2
        while self._load(new_keys) >= capacity / 2:
            capacity *= 2
        self._moved = 0
        return Index.create(self._path(self._header.words[GENERATION] + 1), self._log, capacity)

    def _move(self, following: Index, count: int) -> None:
        for offset in self._current.entries(self._moved, count):
            record = self._log.record(offset)
            following.put(record.kind, record.key, offset)
        self._moved += count

    def _publish(self, following: Index) -> None:
        generation = self._header.words[GENERATION]
        former, self._current, self._next = self._current, following, None
        self._header.words[GENERATION] = generation + 1
        former.close()
        self._path(generation).unlink()

    def _path(self, generation: int) -> Path:
        return path(self._directory, self._header.words[INCARNATION], generation)
