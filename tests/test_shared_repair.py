"""Repair: exactly the whole commits are kept, in order, and what is lost is told."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from books import (
    CAP,
    Books,
    commit,
    commit_snapshot,
    events,
    files_of,
    leave_unpublished,
    no_room_from_call,
    pretend_reboot,
    set_word,
    word,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import chosen_lines, kill, killed_at_line, named_target

import maestro_shm as ms
from maestro_shm import __main__ as command_line
from maestro_shm import validation
from maestro_shm.clock import MAX_TIMESTAMP
from maestro_shm.errors import CorruptLogError, StoreFullError, StoreUnavailableError
from maestro_shm.shared import directory as directories
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared import recovery
from maestro_shm.shared.damage import Damage, Hole, Report, Shift
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.frame import EVENT, Frame, Record
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import SEGMENT_SIZE, START, Log
from maestro_shm.shared.mapped import DiskError
from maestro_shm.shared.reader import Reader
from maestro_shm.shared.repair import repair
from maestro_shm.shared.salvage import Salvage
from maestro_shm.shared.store import path_of
from maestro_shm.shared.survey import Ends, survey

NO_COMMIT: Final = "no whole commit is found there"
Kept = list[tuple[bytes, list[tuple[int, bytes, int, int, bytes]]]]
"""Commit ids, and kinds, keys, sequences, timestamps (0 for a snapshot's) and payloads."""


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """The files of a store that can be repaired, without its processes."""
    with make_books(tmp_path / "store") as made:
        yield made


@pytest.fixture
def books_in_memory() -> Iterator[Books]:
    """The same where nobody waits for a disk, for those who repair many times."""
    with named_target() as target, make_books(path_of(target)) as made:
        yield made


def make_books(path: Path, cap: int = CAP) -> Books:
    directories.make(path, Settings(cap, 30.0))
    return Books(path, cap=cap)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), content, offset)


def flip(path: Path, offset: int) -> None:
    """Flip the lowest bit of a byte."""
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, offset)[0] ^ 1]), offset)


def log_of(books: Books, number: int = 0) -> Path:
    return books.directory / f"log-{word(books.directory, head.INCARNATION)}-{number:06d}"


def end(books: Books) -> int:
    """Where the next commit will go."""
    return word(books.directory, head.PUBLISHED)


def content_of(path: Path) -> bytes:
    """What has its space in a sparse file, which is where anything may have been written to."""
    with path.open("rb") as file:
        return file.read(path.stat().st_blocks * 512)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): content_of(path) for path in directory.rglob("*") if path.is_file()}


def kept(directory: Path, incarnation: int, bound: int | None = None) -> Kept:
    """What the log holds, by the way that recovery goes."""
    log = Log(directory, incarnation, writable=False)
    return [
        as_kept(frame, records)
        for frame, records in log.whole_frames(START)
        if records and (bound is None or frame.offset < bound)
    ]


def as_kept(frame: Frame, records: list[Record]) -> tuple[bytes, list[tuple[int, bytes, int, int, bytes]]]:
    return frame.commit_id, [
        (kind, key, sequence, timestamp if kind == EVENT else 0, payload)
        for _, kind, key, sequence, _, _, timestamp, payload in records
    ]


def repaired(books: Books) -> Report:
    """Repair and serve anew. The reader stays open."""
    books.journal.close()
    try:
        report = repair(books.directory)
    finally:
        books.journal = Journal.open(books.directory, max_commit_bytes=books.cap)
    return report


def two_streams(books: Books, count: int) -> list[int]:
    """Commits of one event each, in turns for "a" and "b"; where each begins, and where the last one ends."""
    offsets = []
    for number in range(count):
        offsets.append(end(books))
        books.commit(("ab"[number % 2], number // 2 + 1, f"body {number}"))
    return [*offsets, end(books)]


# Nothing is damaged


def leave_as_it_is(books: Books) -> None:
    del books


def leave_a_commit_unpublished(books: Books) -> None:
    leave_unpublished(books, ("a", 9, "x"), ("new", 1, "y"))


def leave_a_void_frame(books: Books) -> None:
    leave_unpublished(books, ("a", 9, "x"))
    books.reopen()
    books.commit(("a", 9, "y"))


def leave_a_torn_end_before_a_boot(books: Books) -> None:
    overwrite(log_of(books), end(books), b"torn" * 100)
    pretend_reboot(books.directory)


def leave_more_than_the_header_tells_before_a_boot(books: Books) -> None:
    published = end(books)
    books.commit(("a", 9, None))
    set_word(books.directory, head.PUBLISHED, published)
    pretend_reboot(books.directory)


def leave_it_half_reset(books: Books) -> None:
    books.journal.retire()


def leave_many_keys(books: Books) -> None:
    books.commit(*((f"key-{number}", 1, None) for number in range(600)))
    books.commit(("one more", 1, None))


def leave_no_index(books: Books) -> None:
    (books.directory / files_of(books.directory, "index")[0]).unlink()


LEFT_WHOLE = [
    leave_as_it_is,
    leave_a_commit_unpublished,
    leave_a_void_frame,
    leave_a_torn_end_before_a_boot,
    leave_more_than_the_header_tells_before_a_boot,
    leave_it_half_reset,
    leave_many_keys,
    leave_no_index,
]


@pytest.mark.parametrize("leave", LEFT_WHOLE)
def test_what_is_not_damaged_is_not_changed(books: Books, leave: Callable[[Books], None]) -> None:
    two_streams(books, 6)
    books.snapshot("a", 2, "snapshot")
    leave(books)
    books.journal.close()
    before = contents(books.directory)
    report = repair(books.directory)
    assert (report.is_whole, report.may_have_lost, report.replaced) == (True, False, None)
    assert contents(books.directory) == before


def test_a_log_of_several_segments_is_whole(tmp_path: Path) -> None:
    with make_books(tmp_path / "store", 32 << 20) as books:
        for number in (1, 2, 3):
            books.commit(("big", number, b"x" * (31 << 20)))
        assert len(files_of(books.directory, "log")) == 2
        assert repaired(books).is_whole


def test_an_empty_store_is_whole(tmp_path: Path) -> None:
    directories.make(tmp_path / "store", Settings(CAP, 30.0))
    assert repair(tmp_path / "store").is_whole
    with make_books(tmp_path / "store") as books:
        assert repaired(books).is_whole


# Damage to the log


@pytest.mark.parametrize("damaged", range(7))
def test_a_flipped_bit_costs_its_commit_and_no_other(books: Books, damaged: int) -> None:
    offsets = two_streams(books, 7)
    before = kept(books.directory, 1)
    flip(log_of(books), offsets[damaged] + 60)
    report = repaired(books)
    start, following = offsets[damaged : damaged + 2]
    assert report.damages == [Damage(str(books.directory / "log-1-000000"), start, following, NO_COMMIT, may_lose=True)]
    assert (report.commits, report.events, report.lost_events, report.lost_places) == (6, 6, 1, 1)
    assert report.refusals == []
    assert report.shifts == ([Shift(damaged + 2, 1)] if damaged < 6 else [])
    sequence = damaged // 2 + 1
    # The next event of the stream tells that one is missing; behind the last ones there is none.
    hole = Hole(sequence - 1 or None, sequence + 1)
    assert report.holes == ({"ab"[damaged % 2]: [hole]} if damaged < 5 else {})
    assert report.replaced == books.directory / "damaged-1"
    assert kept(books.directory, 2) == before[:damaged] + before[damaged + 1 :]
    books.streams["ab"[damaged % 2]].pop(damaged // 2)
    books.check()
    books.commit(("a", 9, "goes on"), ("c", 1, "new"))
    books.check()
    assert repaired(books).is_whole


@pytest.mark.parametrize("place", [0, 4, 8, 24, 32, 40, 48, 52, 56, 60])
@pytest.mark.parametrize("content", [b"\xff" * 8, b"\xff" * 4096, bytes(8), b"\1" + bytes(7), b"\xf0" + bytes(7)])
def test_whatever_a_field_is_overwritten_with_the_frames_beside_are_kept(
    books: Books, place: int, content: bytes
) -> None:
    offsets = two_streams(books, 100)
    before = kept(books.directory, 1)
    as_it_was = content_of(log_of(books))[: offsets[-1]]
    overwrite(log_of(books), offsets[30] + place, content[: offsets[-1] - offsets[30] - place])
    as_it_is = content_of(log_of(books))[: offsets[-1]]
    whole = [as_it_was[start:end] == as_it_is[start:end] for start, end in itertools.pairwise(offsets)]
    assert not all(whole)
    report = repaired(books)
    assert report.lost_events == whole.count(False)
    assert kept(books.directory, 2) == list(itertools.compress(before, whole))


def test_each_bit_that_is_flipped_is_found_with_its_frame_and_no_other(books: Books) -> None:
    offsets = two_streams(books, 4)
    books.journal.close()
    as_it_was = content_of(log_of(books))[: offsets[-1]]
    with closing(Salvage(books.directory, 1)) as salvage:
        for bit in range(8 * (offsets[2] - offsets[1])):
            place = offsets[1] + bit // 8
            byte = as_it_was[place]
            overwrite(log_of(books), place, bytes([byte ^ 1 << bit % 8]))
            assert survey(salvage, Ends(offsets[-1])).gaps == [(offsets[1], offsets[2])]
            overwrite(log_of(books), place, bytes([byte]))
        assert survey(salvage, Ends(offsets[-1])).gaps == []


def test_a_page_of_zeros_costs_the_commits_that_lie_in_it(books: Books) -> None:
    offsets = two_streams(books, 200)
    before = kept(books.directory, 1)
    overwrite(log_of(books), 8192, bytes(4096))
    first = max(number for number, offset in enumerate(offsets) if offset <= 8192)
    behind = min(number for number, offset in enumerate(offsets) if offset >= 8192 + 4096)
    report = repaired(books)
    damage = Damage(str(books.directory / "log-1-000000"), offsets[first], offsets[behind], NO_COMMIT, may_lose=True)
    assert report.damages == [damage]
    assert (report.lost_events, report.lost_places, report.events) == (behind - first, 1, 200 - behind + first)
    assert report.shifts == [Shift(behind + 1, behind - first)]
    holes = {
        "ab"[number % 2]: [Hole(number // 2 - (behind - first + 1) // 2 + 1, number // 2 + 1)]
        for number in (behind, behind + 1)
    }
    assert report.holes.keys() == {"a", "b"}
    assert {key: [hole.below for hole in found] for key, found in holes.items()} == {
        key: [hole.below for hole in found] for key, found in report.holes.items()
    }
    assert kept(books.directory, 2) == before[:first] + before[behind:]


def test_several_places_are_told_one_by_one(books: Books) -> None:
    offsets = two_streams(books, 12)
    for damaged in (2, 3, 7):
        flip(log_of(books), offsets[damaged] + 60)
    report = repaired(books)
    assert [(damage.start, damage.end) for damage in report.damages] == [
        (offsets[2], offsets[4]),
        (offsets[7], offsets[8]),
    ]
    assert (report.lost_events, report.lost_places) == (3, 2)
    assert report.shifts == [Shift(5, 2), Shift(9, 3)]
    assert report.holes == {"a": [Hole(1, 3)], "b": [Hole(1, 3), Hole(3, 5)]}


def test_a_commit_of_many_aggregates_is_lost_as_a_whole(books: Books) -> None:
    books.commit(("a", 1, None), ("b", 1, None))
    start = end(books)
    books.commit(("a", 2, None), ("b", 2, None), ("c", 1, "x" * 1000))
    flip(log_of(books), end(books) - 100)
    books.commit(("b", 3, None), ("a", 3, None), ("d", 1, None), ("c", 2, None))
    report = repaired(books)
    assert report.damages[0].start == start
    assert (report.lost_events, report.lost_places) == (3, 1)
    assert report.holes == {"b": [Hole(1, 3)], "a": [Hole(1, 3)], "c": [Hole(None, 2)]}
    assert events(books.reader, "a") == [(1, None), (3, None)]
    assert events(books.reader, "c") == [(2, None)]


def test_a_lost_snapshot_leaves_no_gap_in_the_order_but_may_be_a_loss(books: Books) -> None:
    books.commit(("a", 1, None))
    books.snapshot("a", 1, "kept")
    start = end(books)
    books.snapshot("a", 5, "lost")
    books.commit(("a", 6, None))
    flip(log_of(books), start + 100)
    report = repaired(books)
    assert report.may_have_lost
    assert (report.commits, report.events, report.lost_events, report.shifts) == (3, 2, 0, [])
    assert books.reader.snapshot("a") == ms.Snapshot("a", 1, "kept")


@pytest.fixture
def three_segments(tmp_path: Path) -> Iterator[Books]:
    with make_books(tmp_path / "store", 32 << 20) as made:
        made.commit(("small", 1, None))
        for number in range(1, 7):
            made.commit(("big", number, bytes([number]) * (24 << 20)))
            made.commit((f"small-{number}", 1, number))
        assert len(files_of(made.directory, "log")) == 3
        yield made


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_segment_that_is_missing_or_cut_costs_what_was_in_it(three_segments: Books, number: int, how: str) -> None:
    books = three_segments
    before = kept(books.directory, 1)
    with closing(Salvage(books.directory, 1)) as salvage:
        segments = [piece.start // SEGMENT_SIZE for piece in salvage.pieces() if piece.records]
        first = next(piece for piece in salvage.pieces() if piece.start // SEGMENT_SIZE == number)
    books.journal.close()
    path = books.directory / f"log-1-{number:06d}"
    path.unlink() if how == "missing" else os.truncate(path, first.end % SEGMENT_SIZE)
    expected = [
        commit
        for place, (segment, commit) in enumerate(zip(segments, before, strict=True))
        if segment != number or (how == "cut" and place == segments.index(number))
    ]
    report = repair(books.directory)
    assert kept(books.directory, 2) == expected
    assert report.lost_events == len(before) - len(expected)
    # Whether a mark that leads to a last segment is one cannot be told without that.
    beside = {str(log_of_number(books, 1))[:-1] + "1"} if (number, how) == (2, "missing") else set()
    assert {damage.path for damage in report.damages} == {str(path)} | beside
    books.journal = Journal.open(books.directory, max_commit_bytes=books.cap)
    books.journal.commit_events(bytes(16), [("big", 9, None, b"")], resent=False)


def test_a_segment_that_is_cut_behind_its_end_loses_nothing(books: Books) -> None:
    two_streams(books, 5)
    books.journal.close()
    os.truncate(log_of(books), 1 << 20)
    with pytest.raises(CorruptLogError, match="python -m maestro_shm repair"):
        Journal.open(books.directory, max_commit_bytes=CAP)
    report = repaired(books)
    assert [damage.may_lose for damage in report.damages] == [False]
    assert (report.may_have_lost, report.events, report.lost_events) == (False, 5, 0)
    books.check()


def test_a_mark_at_a_segments_end_that_is_damaged_hides_nothing_behind_it(three_segments: Books) -> None:
    books = three_segments
    before = kept(books.directory, 1)
    with closing(Salvage(books.directory, 1)) as salvage:
        mark = next(piece.start for piece in salvage.pieces() if piece.frame is None)
    flip(log_of(books), mark)
    report = repaired(books)
    assert [(damage.start, damage.end) for damage in report.damages] == [(mark, SEGMENT_SIZE)]
    assert (report.lost_events, report.shifts, report.holes) == (0, [], {})
    assert kept(books.directory, 2) == before


def test_what_looks_like_a_mark_costs_only_the_frame_that_it_lies_on(three_segments: Books) -> None:
    books = three_segments
    before = kept(books.directory, 1)
    with closing(Salvage(books.directory, 1)) as salvage:
        damaged = next(salvage.pieces())
    overwrite(log_of(books), damaged.start, frames.SKIP_MARK)
    report = repaired(books)
    assert [(damage.start, damage.end) for damage in report.damages] == [(damaged.start, damaged.end)]
    assert kept(books.directory, 2) == before[1:]


def test_a_page_that_the_disk_cannot_read_costs_what_lies_in_it(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = two_streams(books, 200)
    before = kept(books.directory, 1)
    read = os.pread

    def pread(descriptor: int, size: int, start: int) -> bytes:
        if (
            start < 8192 + 4096
            and start + size > 8192
            and "log-1" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        ):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, size, start)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        report = repaired(books)
    pairs = list(itertools.pairwise(offsets))
    assert kept(books.directory, 2) == [
        commit for commit, (start, stop) in zip(before, pairs, strict=True) if stop <= 8192 or start >= 8192 + 4096
    ]
    assert report.lost_events == 200 - report.events > 0


# Epochs


@pytest.fixture
def cut_off(books: Books) -> tuple[Books, list[int]]:
    """A log that a recovery has cut in its midst, with whole frames of an older epoch behind its end."""
    offsets = two_streams(books, 10)
    flip(log_of(books), offsets[3] + 60)
    books.reboot()
    assert end(books) == offsets[3]
    for key in "ab":
        del books.streams[key][3 - (key == "a") :]
    books.streams["b"] = books.streams["b"][:1]
    books.streams["a"] = books.streams["a"][:2]
    places = [end(books)]
    for number in range(10, 13):
        books.commit(("b", number, "x" * number))
        places.append(end(books))
    return books, places


def test_what_a_recovery_cut_off_stays_away(cut_off: tuple[Books, list[int]]) -> None:
    books, places = cut_off
    books.check()
    before = kept(books.directory, 1, places[-1])
    assert repaired(books).is_whole
    flip(log_of(books), places[1] + 60)
    books.journal.close()
    (books.directory / head.NAME).unlink()  # so that only the epochs tell
    report = repair(books.directory)
    assert [(damage.start, damage.end) for damage in report.damages if damage.may_lose] == [(places[1], places[2])]
    assert kept(books.directory, 2) == before[:4] + before[5:]
    books.journal = Journal.open(books.directory, max_commit_bytes=CAP)


def test_the_epoch_rises_above_every_one_that_there_was(cut_off: tuple[Books, list[int]]) -> None:
    books, places = cut_off
    for _ in range(3):
        books.reopen()
    epoch = books.journal.epoch
    flip(log_of(books), places[1] + 60)
    books.journal.close()
    repair(books.directory)
    assert word(books.directory, head.EPOCH) == epoch + 1
    books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
    assert books.journal.epoch == epoch + 2


def test_what_was_not_acknowledged_is_not_saved(books: Books) -> None:
    offsets = two_streams(books, 4)
    before = kept(books.directory, 1)
    leave_unpublished(books, ("a", 9, "undone"), ("new", 1, None))
    flip(log_of(books), offsets[1] + 60)
    report = repaired(books)
    assert (report.commits, report.lost_events) == (3, 1)
    assert kept(books.directory, 2) == before[:1] + before[2:]


def test_after_a_boot_what_lies_behind_a_hole_is_saved_too(books: Books) -> None:
    offsets = two_streams(books, 8)
    before = kept(books.directory, 1)
    books.journal.close()
    overwrite(log_of(books), offsets[2], bytes(offsets[4] - offsets[2]))
    pretend_reboot(books.directory)
    report = repaired(books)
    assert (report.lost_events, report.lost_places) == (2, 1)
    assert kept(books.directory, 2) == before[:2] + before[4:]


def test_a_void_frame_stands_for_nothing(books: Books) -> None:
    two_streams(books, 3)
    leave_a_void_frame(books)
    start = end(books)
    books.commit(("b", 9, None))
    books.commit(("b", 10, None))
    before = kept(books.directory, 1)
    flip(log_of(books), start + 60)
    report = repaired(books)
    assert (report.lost_events, report.lost_places) == (1, 1)
    assert kept(books.directory, 2) == before[:4] + before[5:]


@pytest.mark.parametrize("content", [bytes(4), b"\xff" * 4])
def test_a_damaged_epoch_of_a_void_frame_costs_no_other(books: Books, content: bytes) -> None:
    two_streams(books, 3)
    start = end(books)
    leave_a_void_frame(books)
    before = kept(books.directory, 1)
    overwrite(log_of(books), start + frames.FRAME_HEADER.size - 4, content)
    report = repaired(books)
    assert [(damage.start, damage.may_lose) for damage in report.damages] == [(start, True)]
    assert report.lost_events == 0
    assert kept(books.directory, 2) == before
    books.check()


def test_what_a_server_cut_off_is_not_saved_in_place_of_what_was_lost_since(books: Books) -> None:
    offsets = two_streams(books, 3)
    overwrite(log_of(books), offsets[1], bytes(offsets[2] - offsets[1]))  # lost with the power, unlike the third
    books.reboot()
    before = kept(books.directory, 1)
    commit(books.journal, ("newer", 1, None))
    overwrite(log_of(books), offsets[1], bytes(offsets[2] - offsets[1]))  # the same once more
    books.journal.close()
    pretend_reboot(books.directory)
    repaired(books)
    assert kept(books.directory, 2) == before


def test_other_settings_are_no_damage_to_a_store(books: Books) -> None:
    two_streams(books, 3)
    books.journal.close()
    before = contents(books.directory)
    (books.directory / "settings").write_text('{"max_commit_bytes": 4096, "idle_timeout": 30}')
    assert repair(books.directory).is_whole
    assert contents(books.directory).keys() == before.keys()


@pytest.mark.parametrize("header", [True, False])
def test_a_commit_that_is_larger_than_the_settings_let_it_be_is_saved(tmp_path: Path, *, header: bool) -> None:
    tmp_path.chmod(0o700)
    with make_books(tmp_path, cap=4 << 20) as books:
        books.commit(("large", 1, b"x" * (2 << 20)))
        start = end(books)
        books.commit(("a", 1, None))
        books.commit(("a", 2, None))
        before = kept(tmp_path, 1)
        books.journal.close()
        (tmp_path / "settings").write_text('{"max_commit_bytes": 1048576, "idle_timeout": 30}')
        flip(log_of(books), start + 60)
        if not header:
            (tmp_path / head.NAME).unlink()
        report = repair(tmp_path)
        assert (report.lost_events, report.refusals) == (1, [])
        assert kept(tmp_path, 2) == before[:1] + before[2:]
        assert word(tmp_path, head.MAX_COMMIT_BYTES) >= 2 << 20
        books.journal = Journal.open(tmp_path, max_commit_bytes=CAP)


def test_a_repaired_store_goes_on_waiting_for_the_disk(books: Books) -> None:
    offsets = two_streams(books, 3)
    set_word(books.directory, head.WAITS_FOR_DISK, 1)
    flip(log_of(books), offsets[1] + 60)
    repaired(books)
    assert word(books.directory, head.WAITS_FOR_DISK) == 1
    commit(books.journal, ("new", 1, None))
    assert books.journal.is_unsettled


def test_a_server_that_was_killed_as_it_took_a_slot_of_the_index_has_damaged_nothing(books: Books) -> None:
    two_streams(books, 3)
    for _ in range(2):
        books.journal._files.index.words[0] += 1
        books.reopen()
    books.journal.close()
    assert repair(books.directory).is_whole
    books.journal = Journal.open(books.directory, max_commit_bytes=CAP)


@pytest.mark.parametrize("failing", ["flush_directory", "flush_file"])
def test_a_repair_that_the_disk_does_not_take_changes_nothing(
    books: Books, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    offsets = two_streams(books, 3)
    flip(log_of(books), offsets[1] + 60)
    books.journal.close()
    before = contents(books.directory)
    with monkeypatch.context() as patch:
        if failing == "flush_directory":
            patch.setattr("maestro_shm.shared.mapped.flush_directory", _refuse_the_store)
        else:
            patch.setattr(recovery, "flush_file", _refuse)
        with pytest.raises(DiskError):
            repair(books.directory)
    assert contents(books.directory) == before
    repaired(books)


def test_a_repair_whose_last_step_the_disk_does_not_take_is_done_all_the_same(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets = two_streams(books, 3)
    before = kept(books.directory, 1)
    flip(log_of(books), offsets[1] + 60)
    books.journal.close()
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "flush_names", _refuse)
        with pytest.raises(DiskError, match=r"it is repaired all the same, see .*damaged-1/report"):
            repair(books.directory)
    assert kept(books.directory, 2) == before[:1] + before[2:]
    assert recovery.logs(books.directory) == {2}
    books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
    with pytest.raises(StoreUnavailableError, match="its disk did not take"):
        commit(books.journal, ("a", 9, None))


def _refuse(path: Path) -> None:
    raise DiskError(str(path), "the disk did not take it")


def _refuse_the_store(path: Path) -> None:
    if (path / head.NAME).exists():  # and not the directory of what it replaces
        _refuse(path)


# Damage beside the log


def remove_header(books: Books) -> None:
    (books.directory / head.NAME).unlink()


def empty_header(books: Books) -> None:
    (books.directory / head.NAME).write_bytes(b"")


def zero_header(books: Books) -> None:
    (books.directory / head.NAME).write_bytes(bytes(4096))


def damage_word(number: int, value: int) -> Callable[[Books], None]:
    return lambda books: set_word(books.directory, number, value)


DAMAGED_HEADERS = {
    "missing": remove_header,
    "empty": empty_header,
    "zeros": zero_header,
    "magic": damage_word(head.MAGIC_WORD, head.MAGIC ^ 1),
    "another incarnation": damage_word(head.INCARNATION, 3),
    "no epoch": damage_word(head.EPOCH, 0),
    "a huge epoch": damage_word(head.EPOCH, 1 << 60),
    "no clock": damage_word(head.CLOCK, 0),
    "a huge clock": damage_word(head.CLOCK, 2**64 - 1),
    "no size": damage_word(head.MAX_COMMIT_BYTES, 0),
    "a huge size": damage_word(head.MAX_COMMIT_BYTES, 1 << 60),
    "no position": damage_word(head.LAST_POSITION, 0),
    "a huge position": damage_word(head.LAST_POSITION, 1 << 60),
    "aggregates": damage_word(head.AGGREGATES, 99),
    "published nowhere": damage_word(head.PUBLISHED, 0),
    "published too early": damage_word(head.PUBLISHED, START),
    "published within a frame": damage_word(head.PUBLISHED, START + 8),
    "published beyond everything": damage_word(head.PUBLISHED, 1 << 60),
    "published beyond the file": damage_word(head.PUBLISHED, SEGMENT_SIZE + 64),
}


@pytest.mark.parametrize("kind", DAMAGED_HEADERS)
def test_a_damaged_header_costs_nothing(books: Books, kind: str) -> None:
    two_streams(books, 7)
    books.snapshot("a", 2, "snapshot")
    books.reopen()
    before = kept(books.directory, 1)
    clock = word(books.directory, head.CLOCK)
    books.journal.close()
    DAMAGED_HEADERS[kind](books)
    report = repair(books.directory)
    assert [damage.path for damage in report.damages] == [str(books.directory / head.NAME)]
    assert not report.may_have_lost
    assert (report.commits, report.events, report.lost_events, report.shifts) == (8, 7, 0, [])
    assert kept(books.directory, 2) == before
    assert word(books.directory, head.EPOCH) > 1
    assert clock <= word(books.directory, head.CLOCK) < 2**62
    books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
    books.reader = Reader(books.directory)
    books.check()
    books.commit(("a", 9, "goes on"))
    books.check()


@pytest.mark.parametrize("kind", ["missing", "magic", "another incarnation"])
def test_a_store_whose_header_is_damaged_is_not_written_over(books: Books, kind: str) -> None:
    two_streams(books, 7)
    before = kept(books.directory, 1)
    books.journal.close()
    DAMAGED_HEADERS[kind](books)
    for _ in range(2):
        with pytest.raises((CorruptLogError, StoreUnavailableError)):
            Journal.open(books.directory, max_commit_bytes=CAP)
    assert kept(books.directory, 1) == before
    if kind == "missing":
        with pytest.raises(CorruptLogError, match=r"it is missing, though there is a log.*maestro_shm repair"):
            Journal.open(books.directory, max_commit_bytes=CAP)


def test_damage_to_header_and_log_at_once_costs_what_is_damaged_in_the_log(books: Books) -> None:
    offsets = two_streams(books, 7)
    before = kept(books.directory, 1)
    flip(log_of(books), offsets[3] + 60)
    set_word(books.directory, head.PUBLISHED, offsets[5] + 8)
    report = repaired(books)
    assert [Path(damage.path).name for damage in report.damages] == ["header", "log-1-000000"]
    assert kept(books.directory, 2) == before[:3] + before[4:]


def test_what_is_missing_at_the_end_is_counted_by_the_header(books: Books) -> None:
    offsets = two_streams(books, 7)
    overwrite(log_of(books), offsets[4] + 60, b"?" * (offsets[7] - offsets[4] - 60))
    report = repaired(books)
    assert [(damage.start, damage.end) for damage in report.damages] == [(offsets[4], offsets[7])]
    assert (report.lost_events, report.lost_places, report.shifts) == (3, 1, [])


@pytest.mark.parametrize("kind", ["index", "positions"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_index_and_positions_that_do_not_fit_are_built_anew(books: Books, kind: str, place: int) -> None:
    two_streams(books, 7)
    table = books.journal._files.index.words
    found = books.journal._files.index.find(EVENT, b"a")
    assert found is not None
    if kind == "positions":
        overwrite(books.directory / "positions-1-000000", 8 * (place + 1), bytes(8))
    elif place == 0:
        table[0] += 2  # one server may have been killed once
    elif place == 1:
        table[found] = START + 8
    elif place == 2:
        table[found - 1] ^= 1
    else:
        free = next(word for word in range(2, len(table), 2) if not table[word])
        table[free : free + 2] = memoryview(bytes([1, *bytes(7), 64, *bytes(7)])).cast("B").cast("Q")
    report = repaired(books)
    assert [Path(damage.path).name.partition("-")[0] for damage in report.damages] == [kind]
    assert not report.may_have_lost
    books.check()


def test_the_mark_of_a_log_is_written_anew(books: Books) -> None:
    two_streams(books, 2)
    flip(log_of(books), 3)
    report = repaired(books)
    assert [(damage.start, damage.end, damage.may_lose) for damage in report.damages] == [(0, START, False)]
    books.check()


# Refusals


def append_frame(books: Books, commit_id: bytes, records: list[Record]) -> None:
    """A whole frame that no journal would write, behind the last one."""
    offset = end(books)
    packed = b""
    for record in records:
        place = offset + frames.FRAME_HEADER.size + len(packed)
        packed += frames.pack_record(offset, *record._replace(offset=place))
    length = frames.FRAME_HEADER.size + len(packed)
    position = word(books.directory, head.LAST_POSITION) + 1
    aggregates = word(books.directory, head.AGGREGATES)
    facts = commit_id, position, aggregates, 0, len(records), books.journal.epoch
    frame = frames.pack_frame(offset, length, *facts, packed)
    overwrite(log_of(books), offset, frame)
    added = sum(record.kind == EVENT for record in records)
    set_word(books.directory, head.LAST_POSITION, position - 1 + added)
    set_word(books.directory, head.PUBLISHED, offset + length)


REFUSED = {
    "the same event again": ([(EVENT, b"a", 1)], "already at sequence 4"),
    "no key": ([(EVENT, b"", 1)], "must have 1 to"),
    "a key that is no text": ([(EVENT, b"\xff", 1)], "valid Unicode"),
    "an older snapshot": ([(frames.SNAPSHOT, b"a", 1)], "not older"),
    "two snapshots": ([(frames.SNAPSHOT, b"a", 8), (frames.SNAPSHOT, b"b", 8)], "one snapshot"),
    "another kind": ([(7, b"a", 9)], "events and changes of tables, or one snapshot"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_whole_commit_that_breaks_a_rule_is_refused_and_told(books: Books, kind: str) -> None:
    facts, reason = REFUSED[kind]
    offsets = two_streams(books, 7)
    books.snapshot("a", 3, None)
    place = end(books)
    position = word(books.directory, head.LAST_POSITION) + 1
    records = [Record(0, *fact, 0, position, 0, b"payload") for fact in facts]
    append_frame(books, b"0123456789abcdef", records)
    books.reopen()
    commit(books.journal, ("new", 1, None))
    flip(log_of(books), offsets[0] + 60)  # so that there is something to repair
    report = repaired(books)
    (refusal,) = report.refusals
    assert (refusal.path, refusal.offset) == (str(books.directory / "log-1-000000"), place)
    assert reason in refusal.reason
    assert report.may_have_lost
    assert (report.commits, report.events) == (8, 7)
    assert events(books.reader, "new") == [(1, None)]


# What stays as it was


def test_times_and_ids_stay_and_positions_close_up(books: Books) -> None:
    books.commit(("a", 1, None))
    start = end(books)
    books.commit(("lost", 1, None))
    rows = validation.pack_events([ms.Event("a", 2, "t", {"x": (1, 2)}, timestamp=77, metadata={"by": "me"})], CAP)
    books.journal.commit_events(b"i" * 16, rows, resent=False)
    before = books.reader.events("a", 0, 9)
    flip(log_of(books), start + 60)
    repaired(books)
    after = books.reader.events("a", 0, 9)
    assert [(event.sequence, event.type, event.body, event.timestamp, event.metadata) for event in after] == [
        (event.sequence, event.type, event.body, event.timestamp, event.metadata) for event in before
    ]
    assert [event.position for event in before] == [1, 3]
    assert [event.position for event in after] == [1, 2]
    assert books.journal.commit_events(b"i" * 16, rows, resent=True) == (2, [77])
    assert books.reader.stats()["events"] == 2


def test_times_that_only_the_clock_may_give_stay_too(books: Books) -> None:
    books.journal.commit_events(bytes(16), [("a", 1, MAX_TIMESTAMP, b"\xc0")], resent=False)
    places = []
    for sequence in (2, 3, 4):
        places.append(end(books))
        rows = [("a", sequence * 3, None, b"\xc0"), ("b", sequence, 5, b"\xc0"), ("a", sequence * 3 + 1, None, b"\xc0")]
        books.journal.commit_events(bytes(16), rows, resent=False)
        commit_snapshot(books.journal, "a", sequence, None)
    before = kept(books.directory, 1)
    clock = word(books.directory, head.CLOCK)
    flip(log_of(books), places[1] + 60)
    assert repaired(books).refusals == []
    assert kept(books.directory, 2) == before[:3] + before[4:]
    assert word(books.directory, head.CLOCK) >= clock
    commit(books.journal, ("a", 20, None))


def test_the_clock_goes_on_from_where_it_was(books: Books) -> None:
    two_streams(books, 3)
    ahead = word(books.directory, head.CLOCK) + (1 << 40)
    books.journal.commit_events(bytes(16), [("a", 9, ahead, b"\xc0")], resent=False)
    flip(log_of(books), end(books) - 20)
    repaired(books)
    _, (timestamp,) = commit(books.journal, ("a", 10, None))
    assert timestamp > ahead


# Killed, full, in the way


def damage_next(books: Books, step: int) -> Kept:
    """Begin anew, and damage what lies between two commits; what has to be there after a repair."""
    books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
    books.journal.reset()
    commit(books.journal, ("a", step + 10, None), ("b", step + 10, None))
    start = end(books)
    commit(books.journal, ("a", step + 11, "lost"))
    commit_snapshot(books.journal, "a", step, None)
    number = word(books.directory, head.INCARNATION)
    before = kept(books.directory, number)
    books.journal.close()
    flip(log_of(books), start + 60)
    return [found for found in before if not any(key == b"a" and seq == step + 11 for _, key, seq, _, _ in found[1])]


@pytest.mark.parametrize(("within", "every"), [("_repair", 97), ("publish", 1)])
@pytest.mark.parametrize("header", ["there", "missing"])
@pytest.mark.lines
def test_a_repair_that_is_killed_at_any_line_has_changed_nothing_or_all(
    books_in_memory: Books, within: str, every: int, header: str
) -> None:
    books = books_in_memory
    books.journal.close()
    for step in chosen_lines(every):
        expected = damage_next(books, step * 10)
        number = word(books.directory, head.INCARNATION)
        if header == "missing":
            (books.directory / head.NAME).unlink()
        before = content_of(log_of_number(books, number))
        killed = killed_at_line(step, lambda: repair(books.directory), within=within)
        is_repaired = (books.directory / head.NAME).exists() and word(books.directory, head.INCARNATION) != number
        if not is_repaired:
            assert killed
            assert content_of(log_of_number(books, number)) == before
            # A server may come before the next try, and goes on as before.
            with pytest.raises(CorruptLogError) if header == "missing" else contextlib.nullcontext():
                Journal.open(books.directory, max_commit_bytes=CAP).close()
            assert repair(books.directory).lost_events == 1
        else:
            assert repair(books.directory).is_whole
        assert kept(books.directory, number + 1) == expected
        if not killed:
            break
        shutil.rmtree(books.directory / f"damaged-{number}")
    assert step > 10


def log_of_number(books: Books, number: int) -> Path:
    return books.directory / f"log-{number}-000000"


def test_a_repair_that_is_killed_as_it_removes_what_a_killed_one_left_leaves_enough(books_in_memory: Books) -> None:
    books = books_in_memory
    books.journal.close()
    for step in range(1, 42, 2):
        expected = damage_next(books, step * 10)
        number = word(books.directory, head.INCARNATION)
        (books.directory / head.NAME).unlink()
        assert killed_at_line(1, lambda: repair(books.directory), within="_keep")
        assert recovery.newest_log(books.directory) == number
        killed = killed_at_line(step, lambda: repair(books.directory), within="sweep")
        if killed and not (books.directory / head.NAME).exists():
            assert repair(books.directory).lost_events == 1
        assert kept(books.directory, number + 1) == expected
        shutil.rmtree(books.directory / f"damaged-{number}")


@pytest.mark.lines
def test_a_reader_follows_a_repair_that_was_killed_as_soon_as_there_is_a_server_again(books_in_memory: Books) -> None:
    books = books_in_memory
    for step in chosen_lines():
        damage_next(books, step * 10)
        assert books.reader.last_sequence("b") == step * 10 + 10
        number = word(books.directory, head.INCARNATION)
        killed = killed_at_line(step, lambda: repair(books.directory), within="publish")
        if word(books.directory, head.INCARNATION) == number:
            repair(books.directory)
        books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
        books.sweep()
        commit(books.journal, ("a", step * 10 + 12, "seen"))
        assert books.reader.last_sequence("a") == step * 10 + 12
        assert events(books.reader, "a")[-2:] == [(step * 10 + 10, None), (step * 10 + 12, "seen")]
        assert files_of(books.directory, "log") == [f"log-{number + 1}-000000"]
        books.journal.close()
        shutil.rmtree(books.directory / f"damaged-{number}")  # or there would be a few lines more to run each time
        if not killed:
            break
    assert step > 5


def test_a_reader_reads_on_until_the_repair_and_then_what_was_saved(books: Books) -> None:
    offsets = two_streams(books, 6)
    flip(log_of(books), offsets[2] + 60)
    for _ in range(2):
        assert books.reader.last_sequence("b") == 3
        with pytest.raises(CorruptLogError, match="python -m maestro_shm repair"):
            books.reader.events("a", 0, 9)
        books.reopen()
    repaired(books)
    assert events(books.reader, "a") == [(1, "body 0"), (3, "body 4")]


def test_without_room_nothing_is_changed_and_nothing_left(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = two_streams(books, 6)
    books.commit(*((f"key-{number}", 1, None) for number in range(3_000)))
    flip(log_of(books), offsets[2] + 60)
    books.journal.close()
    before = contents(books.directory)
    for number in itertools.count(1):
        with no_room_from_call(number, monkeypatch):
            try:
                report = repair(books.directory)
                break
            except StoreFullError:
                assert contents(books.directory) == before
    assert number > 4
    assert report.lost_events == 1


@pytest.mark.parametrize(("call", "error"), [("link", errno.ENOSPC), ("link", errno.EPERM), ("mkdir", errno.ENOSPC)])
def test_files_that_cannot_be_kept_are_not_replaced(
    books: Books, call: str, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets = two_streams(books, 6)
    flip(log_of(books), offsets[2] + 60)
    books.journal.close()
    before = contents(books.directory)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StoreFullError if error == errno.ENOSPC else StoreUnavailableError):
            repair(books.directory)
    assert contents(books.directory) == before
    assert not (books.directory / "damaged-1").exists()
    assert repair(books.directory).lost_events == 1


def test_files_of_another_repair_are_not_written_over(books: Books) -> None:
    offsets = two_streams(books, 6)
    flip(log_of(books), offsets[2] + 60)
    books.journal.close()
    (books.directory / "damaged-1").mkdir()
    (books.directory / "damaged-1" / "log-1-000000").write_bytes(b"other")
    before = contents(books.directory)
    with pytest.raises(StoreUnavailableError, match="in the way"):
        repair(books.directory)
    assert contents(books.directory) == before


def test_what_was_replaced_stays_until_it_is_removed_or_the_store_destroyed(books: Books) -> None:
    offsets = two_streams(books, 6)
    damaged = log_of(books)
    flip(damaged, offsets[2] + 60)
    content = content_of(damaged)
    assert repaired(books).replaced == books.directory / "damaged-1"
    books.reset()
    books.reopen()
    commit(books.journal, ("a", 1, None), ("a", 2, None))
    flip(log_of(books), end(books) - 20)
    assert repaired(books).replaced == books.directory / "damaged-3"
    for number in (1, 3):
        assert oct((books.directory / f"damaged-{number}").stat().st_mode)[-3:] == "700"
    assert content_of(books.directory / "damaged-1" / "log-1-000000") == content
    books.close()
    ms.destroy(books.directory)
    assert not books.directory.exists()


def test_files_that_are_put_back_are_repaired_again(books: Books) -> None:
    offsets = two_streams(books, 6)
    flip(log_of(books), offsets[2] + 60)
    repaired(books)
    expected = kept(books.directory, 2)
    books.journal.close()
    for path in books.directory.glob("[hlip]*-*"):
        path.unlink()
    (books.directory / head.NAME).unlink()
    for path in (books.directory / "damaged-1").iterdir():
        path.rename(books.directory / path.name)
    assert repair(books.directory).lost_events == 1
    assert kept(books.directory, 2) == expected


# What cannot be repaired


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: (path / "settings").write_text("{"), "its file 'settings' cannot be read"),
        (lambda path: (path / "settings").unlink(), "not a store"),
        (lambda path: path.chmod(0o777), "others may enter it"),
        (lambda path: (path / "log-1-000000").unlink(), "no file of its log is left"),
        (lambda path: set_word(path, head.FORMAT, head.FORMAT_VERSION + 1), "rm .*header"),
        (shutil.rmtree, "no such store"),
    ],
    ids=["settings", "no settings", "open", "no log", "format", "gone"],
)
def test_what_cannot_be_repaired_is_an_error_and_left_as_it_is(
    books: Books, spoil: Callable[[Path], None], reason: str
) -> None:
    two_streams(books, 3)
    flip(log_of(books), START + 60)
    books.journal.close()
    spoil(books.directory)
    before = contents(books.directory)
    with pytest.raises(StoreUnavailableError, match=reason):
        repair(books.directory)
    assert contents(books.directory) == before


def test_what_a_server_has_cut_off_after_a_loss_of_power_stays_cut_off(books: Books) -> None:
    books.commit(("a", 1, "kept"))
    start = end(books)
    commit(books.journal, ("b", 1, "lost with the power"))
    stop = end(books)
    commit(books.journal, ("c", 1, "cut off"))
    books.journal.close()
    pretend_reboot(books.directory)
    overwrite(log_of(books), start, bytes(stop - start))
    for _ in range(2):
        Journal.open(books.directory, max_commit_bytes=CAP).close()
        pretend_reboot(books.directory)
        assert repair(books.directory).is_whole
    books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
    books.reader = Reader(books.directory)
    books.check()


def test_logs_of_two_incarnations_are_told_apart_by_nobody_but_a_header(books: Books) -> None:
    books.commit(("a", 1, None))
    books.journal.close()
    shutil.copy(log_of(books), books.directory / "log-2-000000")
    (books.directory / head.NAME).unlink()
    before = contents(books.directory)
    with pytest.raises(StoreUnavailableError, match=r"which of log-1-\* and log-2-\* is its log"):
        repair(books.directory)
    assert contents(books.directory) == before


def test_the_disk_forgets_unfinished_files_before_what_tells_that_they_are(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    (books.directory / "log-7-000000").touch()
    (books.directory / recovery.UNFINISHED).touch()
    flushed: list[bool] = []

    def note(directory: Path) -> None:
        flushed.append((directory / recovery.UNFINISHED).exists() and not (directory / "log-7-000000").exists())

    monkeypatch.setattr(recovery, "flush_directory", note)
    recovery.sweep(books.directory, keep=1)
    assert flushed == [True]
    assert not (books.directory / recovery.UNFINISHED).exists()


# The command


def test_what_a_repair_told_stays_beside_what_it_replaced(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ms.connect(path) as store:
        for sequence in (1, 2, 3):
            store.commit_events([ms.Event("a", sequence, "t", None)])
        kill(store.stats()["server_pid"])
    flip(path / "log-1-000000", 200)
    assert command_line.main(["repair", str(path)]) == 3
    told = capsys.readouterr().out
    assert (path / "damaged-1" / "report").read_text() == told
    assert "lost: 1 events" in told
    assert command_line.main(["repair", str(path)]) == 0
    assert f"an earlier repair: {path}/damaged-1/report" in capsys.readouterr().out


def test_a_served_store_is_not_repaired(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ms.connect(path) as store:
        server = store.stats()["server_pid"]
        assert command_line.main(["repair", str(path)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"its server (process {server}) still runs" in error
        assert f"kill {server}" in error


def test_the_command_repairs_a_store_under_its_clients(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ms.connect(path) as store:
        for number in range(1, 31):
            store.commit_events([ms.Event(f"key-{number:02}", sequence, "t", None) for sequence in (1, 2)])
        places = [len(store.get_events(f"key-{number:02}")) for number in range(1, 31)]
        assert places == [2] * 30
        store.commit_events([ms.Event(f"key-{number:02}", 3, "t", None) for number in range(1, 31)])
        store.commit_events([ms.Event(f"key-{number:02}", 4, "t", None) for number in range(1, 31)])
        kill(store.stats()["server_pid"])
        assert command_line.main(["repair", str(path)]) == 0
        assert capsys.readouterr().out == f"{path}: nothing is damaged, nothing was changed\n"
        with closing(Salvage(path, 1)) as salvage:
            *_, damaged, _ = salvage.pieces()
        flip(path / "log-1-000000", damaged.start + 100)
        assert command_line.main(["repair", str(path)]) == 3
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == f"{path}: repaired"
        assert f"{path}/log-1-000000, bytes {damaged.start:,} to {damaged.end:,}" in printed[1]
        assert "saved: 31 commits with 90 events" in printed
        assert "lost: 30 events of at least 1 commits" in printed
        assert "incomplete: aggregate 'key-20' lacks events between sequences 2 and 4" in printed
        assert "incomplete: 10 more" in printed
        assert "moved: events from position 91 on, now 30 lower" in printed or "91" not in printed
        assert str(path / "damaged-1") in printed[-1]
        assert [event.sequence for event in store.get_events("key-07")] == [1, 2, 4]
        store.commit_events([ms.Event("key-07", 5, "t", None)])
        assert store.last_sequence("key-07") == 5
        assert store.stats()["events"] == 91


def test_a_named_store_is_repaired_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with named_target() as target:
        with ms.connect(target) as store:
            store.commit_events([ms.Event("a", 1, "t", None)])
            kill(store.stats()["server_pid"])
        (path_of(target) / head.NAME).unlink()
        with pytest.raises(CorruptLogError, match="it is missing"):
            ms.connect(target)
        assert command_line.main(["repair", target]) == 0
        assert "lost: nothing" in capsys.readouterr().out
        with ms.connect(target) as store:
            assert store.last_sequence("a") == 1


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("memory:", "no directory to repair"),
        ("shm:../x", "a name has 1 to 64"),
        ("postgresql://host/x", "a database has no directory to repair"),
        ("", "unknown target"),
        ("/nowhere/at/all", "no such store"),
        ("/proc", "belongs to|you may not|not a store"),
    ],
)
def test_a_wrong_target_is_one_line(target: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["repair", target]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert re.search(reason, printed.err)


# Anything at all


SPANS = st.tuples(st.floats(0, 1), st.integers(1, 600), st.sampled_from(["zero", "one", "flip", "noise"]))
ROWS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(1, 3), st.binary(max_size=120)), min_size=1, max_size=4
)
STEPS = st.one_of(
    ROWS.map(lambda rows: ("commit", rows)),
    st.tuples(st.just("snapshot"), st.sampled_from("abc")),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("undone"), st.none()),
)


class History:
    """Commits as hypothesis wants them, and the place of each in the log."""

    def __init__(self, books: Books, steps: list[tuple[str, Any]]) -> None:
        self.books = books
        self.sequences: dict[str, int] = {}
        self.snapshots = 0
        for kind, argument in steps:
            getattr(self, kind)(argument)

    def commit(self, rows: list[tuple[str, int, bytes]]) -> None:
        commit(self.books.journal, *(self.row(*row) for row in rows))

    def row(self, key: str, step: int, body: bytes) -> tuple[str, int, bytes]:
        self.sequences[key] = self.sequences.get(key, 0) + step
        return key, self.sequences[key], body

    def snapshot(self, key: str) -> None:
        self.snapshots += 1
        commit_snapshot(self.books.journal, key, self.snapshots, b"s")

    def reopen(self, _: None) -> None:
        self.books.reopen()

    def undone(self, _: None) -> None:
        leave_unpublished(self.books, ("undone", 1, None), ("a", 10**6, None))
        self.books.reopen()


def spoiled(kind: str, content: bytes) -> bytes:
    if kind == "flip":
        return bytes([content[0] ^ 16]) + content[1:]
    filler = {"zero": b"\0", "one": b"\xff", "noise": b"\x60\0\0\0\x07"}[kind]
    return (filler * len(content))[: len(content)]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(STEPS, min_size=1, max_size=25),
    spans=st.lists(SPANS, max_size=4),
    header=st.sampled_from(["there", "missing", "zeros", "another boot"]),
)
def test_exactly_what_lies_outside_of_the_damage_is_kept(
    steps: list[tuple[str, Any]],
    spans: list[tuple[float, int, str]],
    header: str,
) -> None:
    with named_target() as target, make_books(path_of(target)) as books:
        directory = books.directory
        history = History(books, steps)
        log, last = log_of(books), end(books)
        as_it_was = content_of(log)[:last]
        with closing(Salvage(directory, 1)) as salvage:
            pieces = list(salvage.pieces(last))
        for share, length, kind in spans:
            start = START + int(share * (last - START - 1)) if last > START else 0
            content = content_of(log)[start : min(start + length, last)]
            if last > START:
                overwrite(log, start, spoiled(kind, content))
        as_it_is = content_of(log)[:last]
        expected = [
            as_kept(piece.frame, piece.records)
            for piece in pieces
            if piece.frame and piece.records and as_it_was[piece.start : piece.end] == as_it_is[piece.start : piece.end]
        ]
        books.journal.close()
        if header == "another boot":
            pretend_reboot(directory)
        elif header != "there":
            DAMAGED_HEADERS[header](books)
        report = repair(directory)
        number = word(directory, head.INCARNATION)
        assert number == 1 + (not report.is_whole)
        assert kept(directory, number, None if number > 1 else last) == expected
        commits = [piece for piece in pieces if piece.records and piece.frame]
        if not report.is_whole:
            assert report.commits == len(expected)
            assert bool(report.lost_events) <= (len(expected) < len(commits))
            # What is wiped out at the end along with the header leaves no trace.
            while not report.end_is_known and commits and not any(as_it_is[commits[-1].start :]):
                commits.pop()
            assert report.may_have_lost or len(expected) == len(commits)
            assert report.refusals == []
        books.journal = Journal.open(directory, max_commit_bytes=CAP)
        for commit_id, records in expected:
            if records[0][0] == EVENT:
                rows = [(key.decode(), sequence, None, payload) for _, key, sequence, _, payload in records]
                _, timestamps = books.journal.commit_events(commit_id, rows, resent=True)
                assert timestamps == [timestamp for _, _, _, timestamp, _ in records]
        total = word(directory, head.LAST_POSITION)
        assert total == sum(kind == EVENT for _, records in expected for kind, *_ in records)
        books.check_positions(total)
        for key in history.sequences:
            commit(books.journal, (key, 10**7, "goes on"))
            assert Reader(directory).last_sequence(key) == 10**7
