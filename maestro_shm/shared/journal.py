"""The single writer: validate, append, index, publish. No sockets, no processes.

A commit is prepared in full before the first shared byte is touched, and space for it is reserved; what follows cannot
fail. Then: the frame into the log, its records into index and positions, and one store of the published offset. A
reader that took the published offset before sees nothing of it, a reader that takes it after sees all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from maestro_shm.clock import HybridClock
from maestro_shm.errors import InvalidEventError, SequenceConflictError, StoreUnavailableError
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared import recovery
from maestro_shm.shared.frame import EVENT, SNAPSHOT, Frame, Record
from maestro_shm.shared.header import RETIRED

Row = tuple[str, int, int | None, bytes]
"""An event as it comes from a client: aggregate id, sequence, timestamp if it has one, payload."""

_CACHED_HEADS: Final = 1 << 16
"""How many streams' heads are remembered; the index knows the others."""


_Head = tuple[int | None, int, int]
"""The newest record of a key: the word of the index that points to it, its offset, its sequence."""
_NO_HEAD: Final[_Head] = (None, 0, -1)


class _Draft:
    """A frame under construction, and the heads that it leaves behind."""

    def __init__(self, commit_id: bytes, offset: int, length: int) -> None:
        self.commit_id = commit_id
        self.offset = offset
        self.length = length
        self.next_offset = offset + frames.FRAME_HEADER.size
        self.packed: list[bytes] = []
        self.heads: dict[tuple[int, bytes], _Head] = {}
        self.event_offsets: list[int] = []
        self.new_keys = 0
        self.new_streams = 0

    def add(self, record: Record, before: _Head) -> None:
        """Append a record that follows on this head."""
        offset, kind, key, sequence, previous, *_ = record
        if not previous:
            self.new_keys += 1
            self.new_streams += kind == EVENT
        if kind == EVENT:
            self.event_offsets.append(offset)
        packed = frames.pack_record(record, self.offset)
        self.packed.append(packed)
        self.heads[kind, key] = (before[0], offset, sequence)
        self.next_offset = offset + len(packed)


class Journal:
    """The writing side of a store's files. One process at a time has one; the caller sees to that."""

    def __init__(self, directory: Path, files: recovery.WriterFiles) -> None:
        self.directory = directory
        self._use(files)
        words = self._words
        words[head.EPOCH] += 1
        words[head.SERVER_PID] = os.getpid()
        words[head.CLIENTS] = 0
        self.epoch: Final = words[head.EPOCH]
        self._clock = HybridClock(words[head.CLOCK])

    @classmethod
    def open(cls, directory: Path, *, max_commit_bytes: int) -> Journal:
        """Recover the store in the directory, or begin one. Raises `StoreFullError` and `CorruptLogError`."""
        try:
            files = recovery.recover(directory)
        except FileNotFoundError:
            files = recovery.create(directory, incarnation=1, epoch=0, clock=0, max_commit_bytes=max_commit_bytes)
            recovery.publish(directory)
        return cls(directory, files)

    @property
    def max_commit_bytes(self) -> int:
        """The size cap of a commit."""
        return self._words[head.MAX_COMMIT_BYTES]

    def commit_events(self, commit_id: bytes, rows: Sequence[Row], resent: object) -> tuple[int, list[int]]:
        """Store the events of one commit, and return the position of the first and the timestamps of all.

        A commit that is sent again, since its reply was lost, is answered with what became of it the first time.
        Raises `SequenceConflictError`, `InvalidEventError`, `StoreFullError`.
        """
        self._check_epoch()
        if not rows:
            raise InvalidEventError("a commit needs at least one event")
        if resent and (frame := self._frame_of(EVENT, rows[0][0].encode(), rows[0][1], commit_id)):
            return frame.first_position, [record.timestamp for record in self._files.log.records(frame)]
        first_position = self._words[head.LAST_POSITION] + 1
        keys = [row[0].encode() for row in rows]
        draft = self._draft(commit_id, sum(map(frames.record_size, keys, [row[3] for row in rows])))
        timestamps = []
        for position, (key, (aggregate_id, sequence, given, payload)) in enumerate(
            zip(keys, rows, strict=True), first_position
        ):
            before = draft.heads.get((EVENT, key)) or self._head(EVENT, key)
            if sequence <= before[2]:
                raise SequenceConflictError(aggregate_id, sequence, before[2])
            timestamp = self._timestamp(given)
            timestamps.append(timestamp)
            draft.add(Record(draft.next_offset, EVENT, key, sequence, before[1], position, timestamp, payload), before)
        self._append(draft, first_position)
        return first_position, timestamps

    def commit_snapshot(
        self, commit_id: bytes, aggregate_id: str, sequence: int, payload: bytes, resent: object
    ) -> bool:
        """Store the snapshot iff it is newer than the stored one, and say whether it was. Raises `StoreFullError`."""
        self._check_epoch()
        key = aggregate_id.encode()
        before = self._head(SNAPSHOT, key)
        _, offset, last_sequence = before
        if sequence <= last_sequence:
            return bool(resent) and self._frame_of(SNAPSHOT, key, sequence, commit_id) is not None
        draft = self._draft(commit_id, frames.record_size(key, payload))
        timestamp = self._clock.tick()
        draft.add(Record(draft.next_offset, SNAPSHOT, key, sequence, offset, 0, timestamp, payload), before)
        self._append(draft, self._words[head.LAST_POSITION] + 1)
        return True

    def reset(self) -> None:
        """Forget everything. Readers go over to the new incarnation by themselves. Raises `StoreFullError`."""
        self._check_epoch()
        words = self._words
        incarnation = words[head.INCARNATION]
        fresh = recovery.create(
            self.directory,
            incarnation=incarnation + 1,
            epoch=self.epoch,
            clock=words[head.CLOCK],
            max_commit_bytes=self.max_commit_bytes,
        )
        for word in (head.SERVER_PID, head.CLIENTS):
            fresh.header.words[word] = words[word]
        words[head.GENERATION] = RETIRED
        recovery.publish(self.directory)
        recovery.sweep(self.directory, keep=incarnation + 1)
        self._files.close()
        self._use(fresh)

    def retire(self) -> None:
        """Tell every reader that the store is no more."""
        self._words[head.GENERATION] = RETIRED

    def count_clients(self, clients: int) -> None:
        """Publish how many clients are connected."""
        self._words[head.CLIENTS] = clients

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()

    def _use(self, files: recovery.WriterFiles) -> None:
        self._files = files
        self._words = files.header.words
        self._heads: dict[tuple[int, bytes], _Head] = {}

    def _check_epoch(self) -> None:
        if self._words[head.EPOCH] != self.epoch:
            raise StoreUnavailableError(str(self.directory), "another server has taken over; this one must not write")

    def _frame_of(self, kind: int, key: bytes, sequence: int, commit_id: bytes) -> Frame | None:
        """The frame of the commit, if it is in the log: the first of its records tells."""
        log = self._files.log
        _, offset, found = self._head(kind, key)
        while offset and found > sequence:
            offset = log.read(offset)[1]
            found = log.read(offset)[0] if offset else -1
        if not offset or found != sequence:
            return None
        frame = log.frame_of(offset)
        return frame if frame.commit_id == commit_id else None

    def _head(self, kind: int, key: bytes) -> _Head:
        known = self._heads.get((kind, key))
        if known is not None:
            return known
        word = self._files.index.find(kind, key)
        if word is None:
            return _NO_HEAD
        offset = self._files.index.newest(word)
        return word, offset, self._files.log.read(offset)[0]

    def _timestamp(self, given: int | None) -> int:
        if given is None:
            return self._clock.tick()
        self._clock.observe(given)
        return given

    def _draft(self, commit_id: bytes, size: int) -> _Draft:
        self._clock.last = self._words[head.CLOCK]  # a draft that was refused leaves no trace
        if size > self.max_commit_bytes:
            raise InvalidEventError(f"the commit has {size:,} bytes, over the cap of {self.max_commit_bytes:,}")
        length = frames.FRAME_HEADER.size + size
        return _Draft(commit_id, self._files.log.place(self._words[head.PUBLISHED], length), length)

    def _reserve(self, draft: _Draft, last_position: int) -> None:
        """Whatever can fail for want of room."""
        generation = self._words[head.GENERATION]
        try:
            self._files.log.reserve(draft.offset + draft.length)
            self._files.positions.reserve(last_position)
            self._files.index.reserve(draft.new_keys)
        finally:
            if self._words[head.GENERATION] != generation or len(self._heads) > _CACHED_HEADS:
                self._heads.clear()

    def _append(self, draft: _Draft, first_position: int) -> None:
        words = self._words
        log, positions, index = self._files.log, self._files.positions, self._files.index
        events = len(draft.event_offsets)
        aggregates = words[head.AGGREGATES] + draft.new_streams
        facts = (draft.commit_id, first_position, aggregates, len(draft.packed), self.epoch)
        packed = frames.pack_frame(Frame(draft.offset, draft.length, *facts), b"".join(draft.packed))
        generation = words[head.GENERATION]
        self._reserve(draft, first_position + events - 1)
        words_are_void = words[head.GENERATION] != generation

        log.write(words[head.PUBLISHED], draft.offset, packed)
        for (kind, key), (known_word, offset, sequence) in draft.heads.items():
            word = index.put(kind, key, offset, None if words_are_void else known_word)
            self._heads[kind, key] = (word, offset, sequence)
        for position, offset in enumerate(draft.event_offsets, first_position):
            positions.put(position, offset)
        words[head.CLOCK] = self._clock.last
        words[head.AGGREGATES] = aggregates
        words[head.LAST_POSITION] = first_position + events - 1
        words[head.PUBLISHED] = draft.offset + draft.length
