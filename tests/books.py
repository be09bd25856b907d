"""A store's files as the tests hold them: a journal, a reader, and books of what ought to be in there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from zlib import crc32

import pytest
from processes import chosen_lines, killed_at_line

import maestro_shm as ms
from maestro_shm import validation
from maestro_shm.selection import Selection
from maestro_shm.shared import header as head
from maestro_shm.shared import mapped
from maestro_shm.shared.compaction import Compaction
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.positions import hole, is_hole
from maestro_shm.shared.reader import Reader

CAP: Final = 1 << 20
ALL: Final = Selection(after=0, limit=None, types=None, aggregate_prefix="")
Outcome = tuple[int, list[int]]
Stream = list[tuple[int, Any]]


class Books:
    """A journal, a reader that is open all the time, and what both ought to hold."""

    def __init__(self, directory: Path, *, cap: int = CAP, waits_for_disk: bool = False) -> None:
        self.directory = directory
        self.cap = cap
        self.waits_for_disk = waits_for_disk
        self.journal = self._open()
        self.reader = Reader(directory)
        self.streams: dict[str, Stream] = {}
        self.snapshots: dict[str, tuple[int, Any]] = {}
        self.floors: dict[str, int] = {}
        self.tables: dict[str, dict[str, bytes]] = {}
        self.versions: dict[tuple[str, str], int] = {}

    def change(self, table: str, entries: dict[str, bytes]) -> None:
        """Put entries, or delete those that get nothing."""
        rows = [(table, key, self.versions.get((table, key), -1) + 1, value) for key, value in entries.items()]
        self.journal.commit(os.urandom(16), [], rows, [], resent=False)
        for _, key, version, value in rows:
            self.versions[table, key] = version
            self.tables.setdefault(table, {}).pop(key, None)
            if value:
                self.tables[table][key] = value

    def check_tables(self, reader: Reader) -> None:
        cut = reader.cut()
        for table, entries in self.tables.items():
            assert list(cut.keys(table).keys) == sorted(entries)
            assert dict(cut.pairs(table)) == entries
        for (table, key), version in self.versions.items():
            assert cut.entry(table, key) == (version, self.tables[table].get(key))

    def left(self, aggregate_id: str) -> Stream:
        """What was not truncated."""
        floor = self.floors.get(aggregate_id, 0)
        return [event for event in self.streams.get(aggregate_id, []) if event[0] >= floor]

    def truncate(self, aggregate_id: str, before: int) -> None:
        """Truncate as a handle does."""
        truncate(self.journal, self.reader, aggregate_id, before)
        self.note_truncation(aggregate_id, before)

    def compact(self, whole_commits: int = 0, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Compact as a server and its helper do."""
        compaction = Compaction(self.directory, whole_commits)
        compaction.run()
        meanwhile()
        self.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
        while self.journal.goes_over():
            meanwhile()
            if (former := self.journal.go_over()) is not None:
                former.close()
        self.sweep()

    def sweep(self) -> None:
        """Remove the files that were replaced, as a server does."""
        for path in self.journal.former_files():
            path.unlink()

    def note_truncation(self, aggregate_id: str, before: int) -> None:
        going = [sequence for sequence, _ in self.left(aggregate_id) if sequence < before]
        if going:
            self.floors[aggregate_id] = going[-1] + 1

    def commit(self, *events: tuple[str, int, Any], commit_id: bytes | None = None, resent: bool = False) -> Outcome:
        outcome = commit(self.journal, *events, commit_id=commit_id, resent=resent)
        self.note(*events)
        return outcome

    def note(self, *events: tuple[str, int, Any]) -> None:
        for aggregate_id, sequence, body in events:
            self.streams.setdefault(aggregate_id, []).append((sequence, body))

    def snapshot(self, aggregate_id: str, sequence: int, body: Any) -> bool:
        stored = commit_snapshot(self.journal, aggregate_id, sequence, body)
        assert stored == (sequence > self.snapshots.get(aggregate_id, (-1, None))[0])
        if stored:
            self.snapshots[aggregate_id] = sequence, body
        return stored

    def reset(self) -> None:
        self.journal.reset()
        self.streams, self.snapshots, self.floors, self.tables, self.versions = {}, {}, {}, {}, {}

    def reopen(self) -> None:
        """A new server, the former one being dead."""
        self.journal.close()
        self.journal = self._open()
        self.sweep()

    def reboot(self) -> None:
        """A new server on a machine that was started anew: nobody has any of the files open."""
        self.reader.close()
        self.journal.close()
        pretend_reboot(self.directory)
        self.journal = self._open()
        self.sweep()
        self.reader = Reader(self.directory)

    def check(self, *readers: Reader) -> None:
        """Everything is there, for the open reader, for others, and for one that opens only now."""
        fresh = Reader(self.directory)
        for reader in (self.reader, fresh, *readers):
            for aggregate_id, stream in self.streams.items():
                assert events(reader, aggregate_id) == self.left(aggregate_id)
                assert reader.last_sequence(aggregate_id) == stream[-1][0]
            by_stream: dict[str, Stream] = {}
            for event in feed(reader):
                by_stream.setdefault(event.aggregate_id, []).append((event.sequence, event.body))
            left = {aggregate_id: self.left(aggregate_id) for aggregate_id in self.streams}
            assert by_stream == {aggregate_id: stream for aggregate_id, stream in left.items() if stream}
            for aggregate_id, (sequence, body) in self.snapshots.items():
                assert reader.snapshot(aggregate_id) == ms.Snapshot(aggregate_id, sequence, body)
            self.check_tables(reader)
        stats = fresh.stats()
        assert stats["events"] == sum(map(len, left.values()))
        assert stats["last_position"] == sum(map(len, self.streams.values()))
        assert stats["aggregates"] == len(self.streams)
        fresh.close()
        self.check_positions(stats["last_position"])

    def check_positions(self, last_position: int) -> None:
        files = self.journal._files
        fresh = Reader(self.directory)
        there = {event.position or 0 for event in feed(fresh)}
        fresh.close()
        for position in range(1, last_position + 1):
            word = files.positions.offset(position)
            if not is_hole(word):
                assert files.log.read(word)[2] == position
            else:
                assert position not in there
                if word != hole(0):
                    led_to = files.log.read(word - 1)[2]
                    frame = files.log.frame_of(word - 1)
                    assert led_to < position or frame.first_position <= position

    def close(self) -> None:
        self.reader.close()
        self.journal.close()

    def _open(self) -> Journal:
        return Journal.open(self.directory, max_commit_bytes=self.cap, waits_for_disk=self.waits_for_disk)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def commit(
    journal: Journal, *rows: tuple[str, int, Any], commit_id: bytes | None = None, resent: bool = False
) -> Outcome:
    packed = validation.pack_events([ms.Event(key, sequence, "type", body) for key, sequence, body in rows], 1 << 25)
    return journal.commit_events(commit_id or os.urandom(16), packed, resent)


def commit_snapshot(
    journal: Journal,
    aggregate_id: str,
    sequence: int,
    body: Any,
    *,
    commit_id: bytes | None = None,
    resent: bool = False,
) -> bool:
    packed = validation.pack_snapshot(ms.Snapshot(aggregate_id, sequence, body), 1 << 25)
    return journal.commit_snapshot(commit_id or os.urandom(16), aggregate_id, sequence, packed, resent)


def truncate(journal: Journal, reader: Reader, aggregate_id: str, before: int) -> None:
    if (found := reader.truncation(aggregate_id, before)) is not None:
        assert journal.truncate(os.urandom(16), aggregate_id, *found, resent=False)


def events(reader: Reader, aggregate_id: str) -> Stream:
    return [(event.sequence, event.body) for event in reader.events(aggregate_id, 0, ms.MAX_SEQUENCE)]


def feed(reader: Reader) -> list[ms.Event]:
    """All events of a store, which have to have all positions but those of truncated ones."""
    cut = reader.cut()
    found = [event for batch in cut.feed(ALL) for event in batch]
    positions = [event.position or 0 for event in found]
    assert positions == sorted(set(positions))
    if not cut.is_truncated:
        assert positions == list(range(1, cut.last_position + 1))
    return found


def pretend_reboot(directory: Path) -> None:
    """Make the header say that it was written before the machine's last start."""
    set_word(directory, head.BOOT_LOW, 12345)


def set_word(directory: Path, word: int, value: int) -> None:
    header = MappedFile.open(directory / head.NAME, writable=True)
    header.words[word] = value
    header.close()


def word(directory: Path, number: int) -> int:
    header = MappedFile.open(directory / head.NAME)
    value = header.words[number]
    header.close()
    return value


def files_of(directory: Path, kind: str) -> list[str]:
    return sorted(path.name for path in directory.glob(f"{kind}-*"))


def kill_everywhere(books: Books, work: Callable[[], object], *, within: str, every: int = 1) -> Iterator[int]:
    """Kill the work before its `chosen_lines`, and yield with the store open anew; ends when the work got through."""
    for step in chosen_lines(every):
        killed = killed_at_line(step, work, within=within)
        books.reopen()
        if not killed:
            return
        yield step


class _Trap:
    """A header's words that let nobody publish."""

    def __init__(self, words: Any) -> None:
        self._words = words

    def __getitem__(self, number: int) -> int:
        value: int = self._words[number]
        return value

    def __setitem__(self, number: int, value: int) -> None:
        if number == head.PUBLISHED:
            raise ZeroDivisionError
        self._words[number] = value


def leave_unpublished(books: Books, *rows: tuple[str, int, Any]) -> None:
    """Write a commit but for its last step, and let go of the journal like a killed server."""
    words = books.journal._words
    books.journal._words = _Trap(words)  # type: ignore[assignment] # raises where it is to stop
    with pytest.raises(ZeroDivisionError):
        commit(books.journal, *rows)
    books.journal._words = words


class _Room:
    """Says from the n-th allocation on that there is no room, until it is told that there is."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0
        self.again = False
        self._allocate = mapped._fallocate

    def __call__(self, descriptor: int, start: int, length: int) -> None:
        self.calls += 1
        if self.calls >= self.number and not self.again:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._allocate(descriptor, start, length)


@contextmanager
def no_room_from_call(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Room]:
    with monkeypatch.context() as patch:
        room = _Room(number)
        patch.setattr(mapped, "_fallocate", room)
        yield room


def twin_keys() -> tuple[str, str]:
    """Two keys of the same fingerprint."""
    # The CRC is linear: what makes no difference to it within one key makes none within another of its length.
    difference = _no_difference_to_the_crc()
    key = "a" * len(difference)
    return key, bytes(a ^ b for a, b in zip(key.encode(), difference, strict=True)).decode()


def _no_difference_to_the_crc() -> bytes:
    """40 bytes, each 0 or 1, that change no CRC by being XORed in: found by elimination over single bits."""
    zero = crc32(bytes(40))
    rows: list[tuple[int, int]] = []
    for position in range(40):
        probe = bytearray(40)
        probe[position] = 1
        value, mask = crc32(bytes(probe)) ^ zero, 1 << position
        for pivot, with_mask in rows:
            if value ^ pivot < value:
                value, mask = value ^ pivot, mask ^ with_mask
        if value == 0:
            return bytes(mask >> position & 1 for position in range(40))
        rows.append((value, mask))
        rows.sort(reverse=True)
    raise AssertionError("40 vectors of 32 bits are dependent")
