"""The files of the shared store, without its processes: a journal that writes, readers that read, recovery between."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from books import (
    CAP,
    Books,
    commit,
    commit_snapshot,
    events,
    files_of,
    kill_everywhere,
    leave_unpublished,
    no_room_from_call,
    pretend_reboot,
    set_word,
    twin_keys,
    word,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from processes import chosen_lines, killed_at_line

import maestro_shm as ms
from maestro_shm import validation
from maestro_shm.errors import CorruptLogError, InvalidEventError, SequenceConflictError, StoreFullError
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared import recovery
from maestro_shm.shared.frame import EVENT, SNAPSHOT, Frame, Record
from maestro_shm.shared.index import fingerprint
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import SEGMENT_SIZE, START
from maestro_shm.shared.reader import Reader

# Frames and records


def sample_frame() -> tuple[Frame, list[Record], bytes]:
    offset = 4096 + 8
    first = Record(offset + frames.FRAME_HEADER.size, EVENT, b"a", 7, 0, 41, 2**62, b"payload")
    size = len(frames.pack_record(offset, *first))
    second = Record(first.offset + size, SNAPSHOT, "ü".encode(), ms.MAX_SEQUENCE, 0, 0, 0, b"")
    records = [first, second]
    packed = b"".join(frames.pack_record(offset, *record) for record in records)
    frame = Frame(offset, frames.FRAME_HEADER.size + len(packed), b"0123456789abcdef", 41, 3, 2**61, 2, 9)
    return frame, records, frames.pack_frame(*frame, packed)


def test_a_frame_comes_back_from_its_bytes_as_it_was() -> None:
    frame, records, packed = sample_frame()
    assert len(packed) == frame.length
    assert frames.frame_is_whole(packed, frame.offset)
    assert frames.unpack_frame(packed, frame.offset) == frame
    assert list(frames.unpack_records(packed, frame)) == records


def test_a_void_frame_has_its_length_and_no_records() -> None:
    frame, _, packed = sample_frame()
    void = frames.void_start(frame, frame.offset) + packed[8:]
    assert frames.frame_is_whole(void, frame.offset)
    assert not frames.frame_is_whole(void, frame.offset + 8)
    assert frames.unpack_frame(void, frame.offset) == frame._replace(records=0)
    assert list(frames.unpack_records(void, frames.unpack_frame(void, frame.offset))) == []


@pytest.mark.parametrize("offset", [2**32 + 8, 2**40 - 8, 2**63])
def test_a_crc_begins_from_the_low_32_bits_of_an_offset(offset: int) -> None:
    assert crc32(b"bytes", offset) == crc32(b"bytes", offset & 0xFFFFFFFF)


def test_every_flipped_bit_of_a_frame_is_found() -> None:
    frame, _, packed = sample_frame()
    missed = []
    for bit in range(len(packed) * 8):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        if frames.frame_is_whole(bytes(flipped), frame.offset):
            missed.append(bit)
    assert missed == []


def test_a_frame_at_another_offset_is_not_whole() -> None:
    frame, _, packed = sample_frame()
    assert not frames.frame_is_whole(packed, frame.offset + 8)


@pytest.mark.parametrize("is_void", [False, True])
def test_a_frame_that_was_cut_anywhere_is_not_whole(*, is_void: bool) -> None:
    frame, _, packed = sample_frame()
    if is_void:
        packed = frames.void_start(frame, frame.offset) + packed[8 : frames.FRAME_HEADER.size]
    assert frames.frame_is_whole(packed, frame.offset)
    assert not any(frames.frame_is_whole(packed[:length], frame.offset) for length in range(len(packed)))


def test_every_flipped_bit_of_a_record_is_found_when_it_is_read(books: Books) -> None:
    books.commit(("a", 1, "body"))
    segment = books.directory / "log-1-000000"
    start = START + frames.FRAME_HEADER.size
    _, size, *_ = frames.RECORD_HEADER.unpack_from(segment.read_bytes()[start : start + frames.RECORD_HEADER.size])
    with segment.open("r+b", buffering=0) as file:
        # Not the size: a larger one takes in what follows, and the CRC of that is tested by the others.
        for bit in itertools.chain(range(32), range(64, size * 8)):
            with flipped(file, start * 8 + bit), pytest.raises(CorruptLogError, match=r"CRC"):
                books.reader.events("a", 0, 9)
    books.check()


@contextmanager
def flipped(file: FileIO, bit: int) -> Iterator[None]:
    (before,) = os.pread(file.fileno(), 1, bit // 8)
    os.pwrite(file.fileno(), bytes([before ^ 1 << bit % 8]), bit // 8)
    try:
        yield
    finally:
        os.pwrite(file.fileno(), bytes([before]), bit // 8)


# Growth


def test_the_index_grows_by_generations_under_an_open_reader(books: Books) -> None:
    for start in range(0, 10_000, 50):
        books.commit(*((f"key-{number}", 1, number) for number in range(start, start + 50)))
        assert events(books.reader, f"key-{start}") == [(1, start)]
    assert word(books.directory, head.GENERATION) > 4
    books.check()


def test_the_index_grows_for_one_commit_of_many_new_keys(books: Books) -> None:
    books.commit(("before", 1, None))
    books.commit(*((f"key-{number}", 1, number) for number in range(5_000)))
    books.commit(("before", 2, None), ("after", 1, None))
    books.check()


def test_the_index_grows_one_new_key_at_a_time(books: Books) -> None:
    for number in range(3_000):
        books.commit((f"key-{number}", 1, number), ("all", number, number))
    books.check()
    assert books.journal._files.index._current.used == len(books.streams), "a key takes one slot and no more"


def test_generations_that_were_replaced_are_unlinked(books: Books) -> None:
    books.commit(*((f"key-{number}", 1, number) for number in range(5_000)))
    generation = word(books.directory, head.GENERATION)
    assert files_of(books.directory, "index") == [f"index-1-{generation:06d}"]


def test_a_new_journal_goes_on_with_an_index_that_was_about_to_grow(books: Books) -> None:
    books.commit(*((f"key-{number}", 1, number) for number in range(510)))
    books.commit(*((f"more-{number}", 1, number) for number in range(4)))
    assert len(files_of(books.directory, "index")) == 2
    books.reopen()
    books.check()
    books.commit(*((f"key-{number}", 2, number) for number in range(1_000)))
    books.streams = {f"key-{n}": [(1, n)] * (n < 510) + [(2, n)] for n in range(1_000)} | {
        f"more-{n}": [(1, n)] for n in range(4)
    }
    books.check()


def test_keys_whose_fingerprints_collide_are_kept_apart(books: Books) -> None:
    key, twin = twin_keys()
    assert key != twin
    assert fingerprint(EVENT, key.encode()) == fingerprint(EVENT, twin.encode())
    books.commit((key, 1, key))
    books.commit((twin, 1, twin))
    books.commit((key, 2, key), (twin, 2, twin))
    books.check()


def test_events_go_on_in_a_further_segment_of_the_log(tmp_path: Path) -> None:
    with Books(tmp_path) as books:
        big = b"x" * (900 << 10)
        for number in range(1, 76):
            books.commit(("big", number, big))
            books.commit((f"small-{number}", 1, number))
        assert files_of(tmp_path, "log") == ["log-1-000000", "log-1-000001"]
        assert word(tmp_path, head.PUBLISHED) > SEGMENT_SIZE
        books.check()
        books.reopen()
        books.commit(("big", 76, b""))
        books.check()
        books.reboot()
        books.commit(("big", 77, b""))
        books.check()


def test_events_go_on_behind_a_commit_that_fills_its_segment_to_the_end(tmp_path: Path) -> None:
    with Books(tmp_path, cap=32 << 20) as books:
        for number in (1, 2):
            books.commit(("big", number, b"x" * (31 << 20)))
        room = SEGMENT_SIZE - word(tmp_path, head.PUBLISHED)
        around = len(validation.pack_events([ms.Event("big", 3, "type", b"x" * (1 << 20))], CAP * 2)[0][3]) - CAP
        body = b"x" * (room - frames.FRAME_HEADER.size - frames.RECORD_HEADER.size - len("big") - around)
        books.commit(("big", 3, body))
        assert word(tmp_path, head.PUBLISHED) == SEGMENT_SIZE
        books.reopen()
        books.check()
        leave_unpublished(books, ("big", 4, None), ("new", 1, None))
        books.reopen()
        books.commit(("big", 4, None))
        books.check()
        books.reboot()
        books.check()


def test_a_killed_writer_that_began_a_new_segment_leaves_no_trace(tmp_path: Path) -> None:
    with Books(tmp_path, cap=32 << 20) as books:
        for number in (1, 2):
            books.commit(("big", number, b"x" * (31 << 20)))
        leave_unpublished(books, ("big", 3, b"y" * (4 << 20)))
        assert books.reader.last_sequence("big") == 2
        books.reopen()
        books.commit(("small", 1, None))
        books.check()
        leave_unpublished(books, ("big", 3, b"y" * (4 << 20)))
        books.reboot()
        assert books.reader.last_sequence("big") == 3, "after a new boot what the log holds whole is law"
        books.note(("big", 3, b"y" * (4 << 20)))
        books.check()


# One consistent cut


def test_a_reader_with_an_older_cut_sees_nothing_of_a_later_commit(books: Books) -> None:
    books.commit(("a", 1, "old"), ("b", 1, "old"))
    books.snapshot("a", 1, "old")
    view, cut = books.reader._cut()
    books.commit(("a", 2, "new"), ("b", 2, "new"), ("c", 1, "new"))
    books.snapshot("a", 2, "new")
    for key in (b"a", b"b"):
        _, offset = view.index.newest(EVENT, key, cut)
        assert view.log.read(offset)[0] == 1
    assert view.index.newest(EVENT, b"c", cut)[1] == 0
    _, offset = view.index.newest(SNAPSHOT, b"a", cut)
    assert view.log.read(offset)[0] == 1
    books.check()


# Recovery: the writer is killed before each single line that it runs


@pytest.mark.lines
def test_a_commit_whose_writer_was_killed_at_any_line_is_undone(books: Books) -> None:
    books.commit(("a", 1, "first"), ("b", 1, "first"))
    books.snapshot("a", 1, "first")
    rows = [("a", 2, "x"), ("new", 1, "y" * 100), ("a", 3, "z"), ("b", 2, "")]
    steps = 0
    for steps in kill_everywhere(books, lambda: commit(books.journal, *rows), within="_append"):
        seen = books.reader.last_sequence("a"), books.reader.last_sequence("b"), books.reader.last_sequence("new")
        assert seen in {(1, 1, None), (3, 2, 1)}, f"killed at line {steps}, a part of the commit is seen"
        if seen[0] == 3:
            break
        books.check()
    books.note(*rows)
    assert steps > 30
    books.commit(("a", 4, None), ("c", 1, None))
    books.check()


@pytest.mark.lines
def test_what_is_committed_after_a_kill_at_any_line_survives_growth(books: Books) -> None:
    rows = [(f"lost-{i}", 1, i) for i in range(3)]
    for step in kill_everywhere(books, lambda: commit(books.journal, *rows), within="claim"):
        if books.reader.last_sequence("lost-0") is not None:
            break
        for sequence in (1, 2, 3):
            books.commit((f"after-{step}", sequence, step))
    books.note(*rows)
    books.check()
    books.commit(*((f"filler-{number}", 1, None) for number in range(3_000)))
    books.check()


@pytest.mark.lines
def test_a_slot_of_the_index_that_was_half_taken_at_a_kill_leads_nobody_astray(books: Books) -> None:
    def key_in(first: int, end: int, used: set[str]) -> str:
        for number in itertools.count():
            key = f"key-{number}"
            if key not in used and first <= fingerprint(EVENT, key.encode()) & 1023 < end:
                used.add(key)
                return key
        raise AssertionError

    used: set[str] = set()
    for step in chosen_lines():
        # Growth goes from the first slot to the last: the key that was lost comes last, its place in the log first.
        lost, kept = key_in(900, 1000, used), key_in(0, 100, used)
        killed = killed_at_line(step, lambda: commit(books.journal, (lost, 1, "lost")), within="_take")  # noqa: B023 (called at once)
        books.reopen()
        if books.reader.last_sequence(lost) is not None:
            books.note((lost, 1, "lost"))
            break
        assert killed
        books.commit((kept, 1, "first"))
        books.commit((kept, 2, "second"))
    books.check()
    books.commit(*((f"filler-{number}", 1, None) for number in range(3_000)))
    books.check()


def keys_in(slots: range, count: int = 1) -> list[str]:
    """Keys that all want the same slot of a new store's index, one of these."""
    by_slot: dict[int, list[str]] = {}
    for number in itertools.count():
        key = f"key-{number}"
        slot = fingerprint(EVENT, key.encode()) & 1023
        by_slot.setdefault(slot, []).append(key)
        if slot in slots and len(by_slot[slot]) == count:
            return by_slot[slot]
    raise AssertionError


def test_the_slot_of_an_undone_key_is_used_again(books: Books) -> None:
    keys = keys_in(range(1024), 5)
    used = []
    for key in keys:
        leave_unpublished(books, (key, 1, "undone"))
        books.reopen()
        used.append(books.journal._files.index._current.used)
        assert books.reader.last_sequence(key) is None
    assert used == [1] * 5
    books.commit(*((key, 1, key) for key in keys[:2]))
    books.check()


@pytest.mark.lines
def test_a_kill_at_any_line_of_taking_a_used_slot_costs_no_other_stream_anything(books: Books) -> None:
    # Growth goes from the first slot to the last: what the used slot leads to comes after the stream's own.
    (old, new, *_), (kept,) = keys_in(range(900, 1000), 3), keys_in(range(100))
    leave_unpublished(books, (old, 1, "undone"))
    books.reopen()
    for step in kill_everywhere(books, lambda: commit(books.journal, (new, 1, "")), within="_take"):
        assert books.reader.last_sequence(old) is None
        if books.reader.last_sequence(new) is not None:
            break
        books.commit((kept, 2 * step, "where the undone record lay"))
        books.commit((kept, 2 * step + 1, None))
    books.note((new, 1, ""))
    books.commit(*((f"filler-{number}", 1, None) for number in range(3_000)))
    books.check()
    assert books.reader.last_sequence(old) is None


@pytest.mark.lines
def test_a_snapshot_whose_writer_was_killed_at_any_line_is_undone(books: Books) -> None:
    books.commit(("a", 1, None))
    books.snapshot("a", 1, "old")
    for _ in kill_everywhere(books, lambda: commit_snapshot(books.journal, "a", 2, "new"), within="_append"):
        if books.reader.snapshot("a") == ms.Snapshot("a", 2, "new"):
            break
        books.check()
    books.snapshots["a"] = 2, "new"
    books.check()


@pytest.mark.lines
def test_an_index_whose_writer_was_killed_at_any_line_of_its_publication_holds_everything(tmp_path: Path) -> None:
    outcomes = set()
    for step in chosen_lines(2):
        (tmp_path / str(step)).mkdir()
        with Books(tmp_path / str(step)) as books:
            books.commit(*((f"key-{number}", 1, number) for number in range(508)))
            books.commit(*((f"more-{number}", 1, number) for number in range(5)))
            index = books.journal._files.index
            assert index._next is not None, "the next generation ought to be under way"
            index._move(index._next, 1010)
            killed = killed_at_line(step, lambda: commit(books.journal, ("last", 1, None)), within="_publish")
            books.reopen()
            if stored := books.reader.last_sequence("last") is not None:
                books.note(("last", 1, None))
            books.check()
            outcomes.add(stored)
        if not killed:
            break
    assert outcomes == {False, True}


@pytest.mark.lines
def test_a_recovery_that_is_killed_at_any_line_is_done_by_the_next(books: Books) -> None:
    books.commit(("a", 1, None))
    for step in chosen_lines(3):
        end = word(books.directory, head.PUBLISHED)
        leave_unpublished(books, ("a", 2, "undone"), ("new", 1, None))
        books.journal.close()
        killed = killed_at_line(step, lambda: Journal.open(books.directory, max_commit_bytes=CAP), within="recover")
        books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
        books.check()
        books.commit(("other", step, "x" * 100))
        undone = end + frames.FRAME_HEADER.size
        sequence, previous, *_ = books.reader.view.log.read(undone)
        assert sequence == 2, "a reader that was on its way to the undone record must find it there"
        assert books.reader.view.log.read(previous)[0] == 1
        if not killed:
            break
    assert step > 30
    books.check()
    books.reboot()
    books.check()


def test_a_reader_that_was_stopped_on_its_way_to_an_undone_record_finds_the_one_before(books: Books) -> None:
    books.commit(("alice", 1, "alice's"), ("bob", 1, "bob's"))
    leave_unpublished(books, ("alice", 2, "undone"))
    view, cut = books.reader._cut()
    held = view.index.find(EVENT, b"alice")
    assert held is not None
    offset = view.index.words[held]
    assert offset >= cut
    books.reopen()
    books.commit(("bob", 2, "of the same length"))
    while offset >= cut:
        offset = view.log.read(offset)[1]
    assert offset == view.index.newest(EVENT, b"alice", cut)[1]
    books.check()


@pytest.mark.lines
def test_a_rebuild_that_is_killed_at_any_line_is_done_by_the_next(books: Books) -> None:
    books.commit(("a", 1, None), ("b", 1, None))
    books.commit(("a", 2, None))
    for step in chosen_lines(5):
        books.close()
        pretend_reboot(books.directory)
        killed = killed_at_line(step, lambda: Journal.open(books.directory, max_commit_bytes=CAP), within="recover")
        books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
        books.reader = Reader(books.directory)
        books.check()
        if not killed:
            break
    assert step > 30


@pytest.mark.lines
def test_a_creation_that_is_killed_at_any_line_is_done_by_the_next(tmp_path: Path) -> None:
    for step in chosen_lines(5):
        directory = tmp_path / str(step)
        directory.mkdir()
        killed = killed_at_line(
            step,
            lambda: Journal.open(directory, max_commit_bytes=CAP),  # noqa: B023 (called at once)
            within="create",
        )
        with Books(directory) as books:
            books.commit(("a", 1, None))
            books.check()
        if not killed:
            break
    assert step > 30


@pytest.mark.lines
def test_a_reset_that_is_killed_at_any_line_is_undone_or_finished(books: Books) -> None:
    books.commit(("a", 1, None), ("b", 1, None))
    outcomes = set()
    for _ in kill_everywhere(books, books.reset, within="reset", every=4):
        fresh = Reader(books.directory)
        outcome = (fresh.last_sequence("a"), books.reader.last_sequence("a"), fresh.stats()["events"])
        fresh.close()
        assert outcome in {(1, 1, 2), (None, None, 0)}
        outcomes.add(outcome)
        if outcome[0] is None:
            commit(books.journal, ("a", 1, None), ("b", 1, None))
    assert len(outcomes) == 2
    assert len({name.split("-")[1] for kind in ("log", "index") for name in files_of(books.directory, kind)}) == 1


def test_an_unpublished_commit_is_not_resurrected_by_a_scan(books: Books) -> None:
    books.commit(("a", 1, None))
    leave_unpublished(books, ("a", 2, "undone"), ("b", 1, "undone"))
    books.reopen()
    books.check()
    books.reboot()
    books.check()


def test_after_an_undone_commit_its_own_repetition_is_stored(books: Books) -> None:
    books.commit(("a", 1, None))
    leave_unpublished(books, ("a", 2, "again"))
    books.reopen()
    books.commit(("a", 2, "again"), commit_id=b"x" * 16, resent=True)
    books.check()


def test_a_long_commit_over_a_short_undone_one_and_the_other_way_round(books: Books) -> None:
    for number, (undone, stored) in enumerate([(10, 5_000), (5_000, 10), (300, 300)], 1):
        leave_unpublished(books, ("a", number, "u" * undone), (f"undone-{number}", 1, None))
        books.reopen()
        books.commit(("a", number, "s" * stored))
        books.check()
    books.reboot()
    books.check()


# After a restart of the machine


def test_a_new_boot_finds_everything_again(books: Books) -> None:
    for number in range(1, 300):
        books.commit((f"key-{number % 7}", number, [number, "ü"]), (f"only-{number}", 1, None))
        books.snapshot(f"key-{number % 7}", number, number)
    books.reboot()
    books.check()
    books.commit(("key-1", 1_000, None))
    books.check()


def test_after_a_new_boot_timestamps_go_on_rising(books: Books) -> None:
    ahead = 2**61
    packed = validation.pack_events([ms.Event("a", 1, "type", None, timestamp=ahead)], CAP)
    books.journal.commit_events(bytes(16), packed, resent=False)
    books.note(("a", 1, None))
    set_word(books.directory, head.CLOCK, 0)
    books.reboot()
    _, (timestamp,) = books.commit(("a", 2, None))
    assert timestamp > ahead
    books.check()


def test_whole_frames_of_an_older_epoch_behind_the_end_are_not_resurrected(books: Books) -> None:
    rows = [("a", sequence, "x" * 50) for sequence in (1, 2, 3)]
    ends = []
    for row in rows:
        books.commit(row)
        ends.append(word(books.directory, head.PUBLISHED))
    # The disk lost the second frame and kept the third.
    with (books.directory / "log-1-000000").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes(ends[1] - ends[0]), ends[0])
    books.streams = {"a": [(1, "x" * 50)]}
    books.reboot()
    books.check()
    books.commit(("a", 2, "y" * 50))
    assert word(books.directory, head.PUBLISHED) == ends[1]
    books.reboot()
    books.check()


def test_an_older_frame_behind_the_end_of_a_scan_is_no_commit_to_undo(books: Books) -> None:
    ends = []
    for sequence in (1, 2, 3):
        books.commit(("a", sequence, "x" * 50))
        ends.append(word(books.directory, head.PUBLISHED))
    with (books.directory / "log-1-000000").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes(ends[1] - ends[0]), ends[0])
    books.streams = {"a": [(1, "x" * 50)]}
    books.reboot()
    # A snapshot of the length of the lost event: the third one's frame now lies right behind the end.
    size = len(validation.pack_events([ms.Event("a", 2, "type", "x" * 50)], CAP)[0][3])
    body = next("y" * n for n in range(100) if len(validation.pack_snapshot(ms.Snapshot("a", 1, "y" * n), CAP)) == size)
    books.snapshot("a", 1, body)
    assert word(books.directory, head.PUBLISHED) == ends[1]
    books.reopen()
    books.check()
    assert word(books.directory, head.PUBLISHED) == ends[1]


def test_a_header_that_is_older_on_disk_than_the_log_costs_no_later_commit(books: Books) -> None:
    # After a loss of power the page of the header may be of an earlier server than what the log holds.
    for sequence in (1, 2, 3):
        books.commit(("a", sequence, None))
        books.reopen()
    set_word(books.directory, head.EPOCH, 1)
    books.reboot()
    books.check()
    books.commit(("a", 4, "acknowledged"))
    books.reboot()
    books.check()


@pytest.mark.parametrize("garbage", [b"\0" * 64, b"\xff" * 64, os.urandom(300), b"\x40\0\0\0" * 40])
def test_garbage_behind_the_end_is_cut(books: Books, garbage: bytes) -> None:
    books.commit(("a", 1, None))
    with (books.directory / "log-1-000000").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), garbage, word(books.directory, head.PUBLISHED))
    books.reopen()
    books.check()
    books.reboot()
    books.check()
    books.commit(("a", 2, None))
    books.check()


def test_a_torn_frame_at_the_end_is_cut_after_a_new_boot(books: Books) -> None:
    books.commit(("a", 1, None))
    end = word(books.directory, head.PUBLISHED)
    books.commit(("a", 2, "x" * 9_000))
    with (books.directory / "log-1-000000").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes(4096), end + 4096)
    books.streams = {"a": [(1, None)]}
    books.reboot()
    books.check()
    books.commit(("a", 2, None))
    books.check()


def test_a_log_that_lost_what_had_reached_the_disk_is_refused(books: Books) -> None:
    books.commit(("a", 1, "x" * 100))
    set_word(books.directory, head.DURABLE, word(books.directory, head.PUBLISHED))
    with (books.directory / "log-1-000000").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"?", START + 100)
    pretend_reboot(books.directory)
    with pytest.raises(CorruptLogError, match="the log ends here"):
        Journal.open(books.directory, max_commit_bytes=CAP)


# Reset


def test_a_reset_empties_the_store_under_open_readers(books: Books) -> None:
    late = Reader(books.directory)
    for round_ in range(3):
        books.commit(*((f"key-{number}", 1, round_) for number in range(600)))
        books.snapshot("key-1", 1, round_)
        books.check(late)
        before = word(books.directory, head.CLOCK)
        books.reset()
        books.streams, books.snapshots = {}, {}
        assert late.last_sequence("key-1") is None
        assert books.reader.snapshot("key-1") is None
        position, (timestamp,) = books.commit(("a", 1, round_))
        assert (position, timestamp > before) == (1, True)
        books.check(late)
        books.reset()
        books.streams = {}
    late.close()
    assert len(files_of(books.directory, "log")) == 1


@pytest.mark.parametrize("read", ["events", "last_sequence", "snapshot"])
def test_a_read_that_a_reset_overtakes_gives_the_old_or_the_new(
    books: Books, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.commit(("a", 1, "old"))
    books.snapshot("a", 1, "old")
    cut = books.reader._cut
    resets = iter([books.reset])

    def slow_cut() -> Any:
        taken = cut()
        for reset in resets:
            reset()
        return taken

    monkeypatch.setattr(books.reader, "_cut", slow_cut)
    reads: dict[str, tuple[Callable[[], Any], tuple[Any, Any]]] = {
        "events": (lambda: events(books.reader, "a"), ([(1, "old")], [])),
        "last_sequence": (lambda: books.reader.last_sequence("a"), (1, None)),
        "snapshot": (lambda: books.reader.snapshot("a"), (ms.Snapshot("a", 1, "old"), None)),
    }
    work, right = reads[read]
    assert work() in right
    assert work() == right[1]


# Commits that are sent again


def test_a_commit_sent_again_gets_its_first_outcome_and_is_not_doubled(books: Books) -> None:
    rows = [("a", 1, None), ("b", 5, None), ("a", 2, None)]
    first = books.commit(*rows, commit_id=b"1" * 16)
    assert commit(books.journal, *rows, commit_id=b"1" * 16, resent=True) == first
    books.commit(("a", 3, None), ("b", 6, None))
    assert commit(books.journal, *rows, commit_id=b"1" * 16, resent=True) == first
    books.reopen()
    assert commit(books.journal, *rows, commit_id=b"1" * 16, resent=True) == first
    books.check()


def test_a_commit_sent_again_is_recognized_where_it_is_the_first_in_its_segment(tmp_path: Path) -> None:
    with Books(tmp_path, cap=32 << 20) as books:
        large = "x" * (25 << 20)
        for sequence in (1, 2):
            books.commit(("a", sequence, large))
        commit_id = os.urandom(16)
        first = books.commit(("a", 3, large), ("b", 1, None), commit_id=commit_id)
        assert books.journal._files.log.frame_of(books.journal._heads.get(EVENT, b"b")[1]).offset == SEGMENT_SIZE
        assert commit(books.journal, ("a", 3, large), ("b", 1, None), commit_id=commit_id, resent=True) == first
        books.check()


def test_a_commit_sent_again_whose_frame_is_damaged_is_never_answered_wrongly(books: Books) -> None:
    rows = [("a", 1, "body"), ("b", 1, None)]
    first = books.commit(*rows, commit_id=b"1" * 16)
    wrong = []
    with (books.directory / "log-1-000000").open("r+b", buffering=0) as file:
        for bit in range(frames.FRAME_HEADER.size * 8):
            with flipped(file, START * 8 + bit), suppress(CorruptLogError):
                if commit(books.journal, *rows, commit_id=b"1" * 16, resent=True) != first:
                    wrong.append(bit)
    assert wrong == []


def test_a_commit_sent_again_that_was_never_stored_is_judged_anew(books: Books) -> None:
    books.commit(("a", 1, None))
    with pytest.raises(SequenceConflictError):
        commit(books.journal, ("a", 1, None), commit_id=b"2" * 16, resent=True)
    books.commit(("a", 2, None), commit_id=b"2" * 16, resent=True)
    books.check()


def test_the_same_events_of_another_commit_are_a_conflict(books: Books) -> None:
    books.commit(("a", 1, None), commit_id=b"1" * 16)
    with pytest.raises(SequenceConflictError):
        commit(books.journal, ("a", 1, None), commit_id=b"2" * 16, resent=True)


def test_a_snapshot_sent_again_is_said_to_be_stored(books: Books) -> None:
    assert commit_snapshot(books.journal, "a", 1, None, commit_id=b"1" * 16)
    assert commit_snapshot(books.journal, "a", 1, None, commit_id=b"1" * 16, resent=True)
    assert not commit_snapshot(books.journal, "a", 1, None, commit_id=b"1" * 16)
    assert not commit_snapshot(books.journal, "a", 1, None, commit_id=b"2" * 16, resent=True)


def test_a_snapshot_sent_again_is_said_to_be_stored_though_a_newer_one_came_between(books: Books) -> None:
    assert commit_snapshot(books.journal, "a", 1, None, commit_id=b"1" * 16)
    assert commit_snapshot(books.journal, "a", 2, None, commit_id=b"2" * 16)
    assert commit_snapshot(books.journal, "a", 1, None, commit_id=b"1" * 16, resent=True)


# Limits


def test_a_commit_over_the_cap_is_refused_and_changes_nothing(books: Books) -> None:
    books.commit(("a", 1, None))
    with pytest.raises(InvalidEventError, match="over the cap"):
        commit(books.journal, ("a", 2, b"x" * CAP))
    with pytest.raises(InvalidEventError, match="over the cap"):
        commit_snapshot(books.journal, "a", 2, b"x" * CAP)
    books.commit(("a", 2, None))
    books.check()


def test_a_commit_that_is_refused_does_not_move_the_clock(books: Books) -> None:
    ahead = 2**61
    packed = validation.pack_events([ms.Event("a", 1, "type", None, timestamp=ahead), ms.Event("b", 1, "t", None)], CAP)
    books.commit(("b", 1, None))
    with pytest.raises(SequenceConflictError):
        books.journal.commit_events(bytes(16), packed, resent=False)
    _, (timestamp,) = books.commit(("b", 2, None))
    assert timestamp < ahead


def test_a_conflict_in_the_last_event_leaves_nothing_of_the_first(books: Books) -> None:
    books.commit(("a", 1, None), ("b", 1, None))
    with pytest.raises(SequenceConflictError):
        commit(books.journal, ("a", 2, None), ("new", 1, None), ("b", 1, None))
    books.check()
    assert books.reader.last_sequence("new") is None


# No room


def test_a_commit_without_room_is_refused_whole_whichever_allocation_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in itertools.count(1):
        directory = tmp_path / str(number)
        directory.mkdir()
        with Books(directory) as books:
            refused = _write_with_failure(books, number, monkeypatch)
            books.commit(*((f"later-{i}", 1, i) for i in range(3_000)))
            books.check()
            books.reopen()
            books.check()
        if not refused:
            break
    assert number > 5


def _write_with_failure(books: Books, number: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Commits that make everything grow; one of them meets the failure and is repeated. Says whether one did."""
    refused = False
    commits: list[list[tuple[str, int, Any]]] = [[("big", 1, b"x" * (900 << 10))], [("big", 2, b"x" * (900 << 10))]]
    commits += [[(f"key-{start}-{i}", 1, i) for i in range(100)] for start in range(6)]
    commits += [[("big", sequence, None), (f"one-{sequence}", 1, None)] for sequence in range(3, 30)]
    commits += [[(f"many-{i}", 1, i) for i in range(9_000)], [("big", 30, None)]]
    with no_room_from_call(number, monkeypatch) as room:
        for sequence, rows in enumerate(commits, 1):
            try:
                books.commit(*rows)
            except StoreFullError as error:
                refused = room.again = True
                assert error.directory == str(books.directory)
                assert error.needed > 0
                books.commit(("known", sequence * 2, "right after the refusal"))
                books.commit(*rows)
            if not refused:
                books.commit(("known", sequence * 2 + 1, None))
    return refused


def test_a_store_that_finds_no_room_at_its_creation_leaves_nothing_and_can_be_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in itertools.count(1):
        with no_room_from_call(number, monkeypatch) as room:
            try:
                Journal.open(tmp_path, max_commit_bytes=CAP).close()
            except StoreFullError:
                assert list(tmp_path.iterdir()) == []
                continue
        break
    assert room.calls >= 4
    with Books(tmp_path) as books:
        books.commit(("a", 1, None))
        books.check()


def test_a_reset_without_room_changes_nothing(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    books.commit(("a", 1, None))
    for number in itertools.count(1):
        with no_room_from_call(number, monkeypatch):
            try:
                books.reset()
            except StoreFullError:
                books.check()
            else:
                break
        books.commit((f"after-{number}", 1, None))
    assert number > 3
    books.streams = {}
    books.check()


def test_on_a_full_file_system_reads_go_on_and_commits_return_with_the_room(small_file_system: Path) -> None:
    filler = small_file_system / "filler"
    filler.write_bytes(bytes(1500 << 10))
    directory = small_file_system / "store"
    directory.mkdir()
    with Books(directory) as books:
        sequence = 0
        with pytest.raises(StoreFullError, match="no room") as caught:  # noqa: PT012 (which commit it is cannot be known)
            for sequence in range(1, 100):
                books.commit(("a", sequence, b"x" * 50_000), (f"key-{sequence}", 1, None))
        assert 0 <= caught.value.available < caught.value.needed
        books.check()
        with pytest.raises(StoreFullError):
            books.commit(("a", sequence, b"x" * 50_000))
        books.reopen()
        books.check()
        filler.unlink()
        for sequence in range(sequence, sequence + 3):  # noqa: B020 (goes on where it was)
            books.commit(("a", sequence, b"x" * 50_000))
        books.check()


def test_a_small_commit_finds_the_room_that_there_is_though_the_log_would_grow_by_more(
    small_file_system: Path,
) -> None:
    filler = small_file_system / "filler"
    filler.write_bytes(bytes(1200 << 10))
    directory = small_file_system / "store"
    directory.mkdir()
    with Books(directory) as books:
        for sequence in range(1, 26):
            books.commit(("a", sequence, b"x" * 50_000))
        books.check()


# Anything in any order, against a dict


class JournalMachine(RuleBasedStateMachine):
    """Commits, conflicts, snapshots, kills, restarts and resets in any order."""

    directories: Iterator[Path]
    keys = st.sampled_from([*"abcdefgh", "ü" * 20])

    @initialize()
    def begin(self) -> None:
        self.books = Books(next(self.directories))

    @rule(keys=st.lists(keys, min_size=1, max_size=6), size=st.sampled_from([0, 1, 7, 100, 70_000]))
    def commit(self, keys: list[str], size: int) -> None:
        self.books.commit(*self._next_of(keys, size))

    @rule(count=st.sampled_from([1, 30, 600]))
    def commit_new_keys(self, count: int) -> None:
        start = len(self.books.streams)
        self.books.commit(*((f"new-{number}", 1, None) for number in range(start, start + count)))

    @precondition(lambda self: bool(self.books.streams))
    @rule(data=st.data())
    def conflict(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.books.streams)))
        with pytest.raises(SequenceConflictError):
            commit(self.books.journal, ("unheard of", 1, None), (key, self.books.streams[key][-1][0], None))

    @rule(key=keys, sequence=st.integers(0, 50), body=st.integers())
    def snapshot(self, key: str, sequence: int, body: int) -> None:
        self.books.snapshot(key, sequence, body)

    @precondition(lambda self: bool(self.books.snapshots))
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.books.snapshots)))
        self.books.truncate(key, data.draw(st.integers(0, self.books.snapshots[key][0] + 1)))

    @rule(
        entries=st.dictionaries(keys, st.sampled_from([b"", b"x", b"y" * 100]), min_size=1), table=st.sampled_from("tu")
    )
    def change(self, entries: dict[str, bytes], table: str) -> None:
        self.books.change(table, entries)

    @rule(whole_commits=st.sampled_from([0, 0, 1, 5]), size=st.sampled_from([0, 100]))
    def compact(self, whole_commits: int, size: int) -> None:
        left = 3

        def meanwhile() -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                self.commit(["a", "b"], size)
                self.change({"a": b"z"}, "t")

        self.books.compact(whole_commits, meanwhile)

    @rule(keys=st.lists(keys, min_size=1, max_size=6), size=st.sampled_from([0, 100, 70_000]))
    def die_before_publishing(self, keys: list[str], size: int) -> None:
        leave_unpublished(self.books, *self._next_of(keys, size), ("unheard of", 1, None))
        self.books.reopen()

    @rule()
    def restart(self) -> None:
        self.books.reopen()

    @rule()
    def reboot(self) -> None:
        self.books.reboot()

    @rule()
    def reset(self) -> None:
        self.books.reset()

    @invariant()
    def what_was_last_written_is_there(self) -> None:
        if hasattr(self, "books"):
            for key in list(self.books.streams)[-8:]:
                assert events(self.books.reader, key) == self.books.left(key)

    def teardown(self) -> None:
        if hasattr(self, "books"):
            self.books.check()
            self.books.close()

    def _next_of(self, keys: list[str], size: int) -> list[tuple[str, int, Any]]:
        last = {key: stream[-1][0] for key, stream in self.books.streams.items()}
        rows = []
        for key in keys:
            last[key] = last.get(key, 0) + 1
            rows.append((key, last[key], "x" * size))
        return rows


def test_a_journal_and_its_readers_keep_what_a_dict_keeps(tmp_path: Path) -> None:
    def directories() -> Iterator[Path]:
        for number in itertools.count():
            path = tmp_path / str(number)
            path.mkdir()
            yield path

    machine: Any = type("Machine", (JournalMachine,), {"directories": directories()})
    case = machine.TestCase
    case.settings = settings(
        max_examples=25,
        stateful_step_count=20,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    case().runTest()


def test_files_that_only_look_like_ours_are_left_alone(books: Books) -> None:
    (books.directory / "log-backup").mkdir()
    (books.directory / "log-9-000000").mkdir()
    (books.directory / "index-notes.txt").write_text("of the user", encoding="utf-8")
    books.commit(("a", 1, None))
    books.reopen()
    books.check()
    books.reset()
    assert {"log-backup", "log-9-000000", "index-notes.txt"} <= {path.name for path in books.directory.iterdir()}


def test_recovery_keeps_only_the_files_of_the_present_incarnation(books: Books) -> None:
    for name in ("log-9-000000", "index-9-000001", "positions-9-000000", recovery.UNFINISHED):
        (books.directory / name).write_bytes(b"left over")
    books.commit(("a", 1, None))
    books.reopen()
    assert not list(books.directory.glob("*-9-*"))
    assert not (books.directory / recovery.UNFINISHED).exists()
    books.check()
