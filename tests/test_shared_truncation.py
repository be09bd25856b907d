"""Floors in the files of the shared store: who is killed, restarted, or repaired leaves all of one or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from books import (
    ALL,
    Books,
    events,
    kill_everywhere,
    leave_unpublished,
    no_room_from_call,
    set_word,
    truncate,
    word,
)
from processes import chosen_lines, kill, killed_at_line
from store_contract import in_threads

import maestro_shm as ms
from maestro_shm.errors import InvalidEventError, StoreFullError, TruncationError
from maestro_shm.shared import directory as directories
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.frame import FLOOR
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import START
from maestro_shm.shared.reader import Reader
from maestro_shm.shared.repair import repair


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """A store that can be repaired, with two streams that can be truncated."""
    path = tmp_path / "store"
    directories.make(path, Settings(1 << 20, 30.0))
    with Books(path) as made:
        fill(made)
        yield made


def fill(books: Books) -> None:
    for number in range(1, 11):
        books.commit(("a", number, number), ("b", number * 2, number))
    books.snapshot("a", 10, None)
    books.snapshot("b", 20, None)


def floor(books: Books, key: str = "a") -> int:
    return books.reader.cut().first_sequence(key)


def test_a_truncation_is_read_at_once_and_after_a_restart_and_a_reboot(books: Books) -> None:
    books.truncate("a", 4)
    books.check()
    books.truncate("b", 7)
    books.truncate("a", 100)
    books.check()
    assert (floor(books), floor(books, "b"), floor(books, "c")) == (11, 7, 0)
    assert word(books.directory, head.TRUNCATED) == 13
    books.reopen()
    books.check()
    books.reboot()
    books.check()
    assert word(books.directory, head.TRUNCATED) == 13
    books.commit(("a", 11, None), ("b", 21, None))
    books.check()


def test_a_cut_that_was_taken_before_has_all_of_it(books: Books) -> None:
    cut = books.reader.cut()
    for before in (3, 6, 100):
        books.truncate("a", before)
        assert [event.sequence for event in cut.get_events("a")] == [*range(1, 11)]
        assert len(cut.get_events("a", complete=True)) == 10
        assert len([event for batch in cut.feed(ALL) for event in batch]) == 20
        assert cut.first_sequence("a") == 0
        assert events(books.reader, "a") == books.left("a")
    cut = books.reader.cut()
    books.commit(("a", 11, None))
    books.snapshot("a", 11, None)
    books.truncate("a", 12)
    assert cut.first_sequence("a") == 11
    assert floor(books) == 12


def test_the_first_truncation_keeps_older_versions_out(books: Books) -> None:
    assert word(books.directory, head.FORMAT) == 1
    books.truncate("a", 4)
    assert word(books.directory, head.FORMAT) == 2
    books.reset()
    assert word(books.directory, head.FORMAT) == 1


@pytest.mark.lines
def test_a_truncation_whose_writer_was_killed_at_any_line_is_done_or_not(books: Books) -> None:
    steps = 0

    def work() -> None:
        truncate(books.journal, books.reader, "a", 6)

    for steps in kill_everywhere(books, work, within="truncate"):
        found = floor(books)
        assert found in (0, 6), steps
        assert word(books.directory, head.TRUNCATED) == (5 if found else 0), steps
        if found:
            break
        books.check()
        books.reboot()
        books.check()
    books.note_truncation("a", 6)
    assert steps > 30
    books.truncate("a", 8)
    books.check()
    books.reboot()
    books.check()


def test_several_truncations_that_waited_for_the_disk_are_undone_together(tmp_path: Path) -> None:
    with Books(tmp_path, waits_for_disk=True) as books:
        fill_settled(books)
        truncate(books.journal, books.reader, "a", 3)
        books.journal.settle()
        books.note_truncation("a", 3)
        assert floor(books) == 3
        for number, key in enumerate("ba", 4):
            truncate(books.journal, books.reader, key, number)
        assert (floor(books), floor(books, "b")) == (3, 0)
        books.reopen()
        books.check()
        assert word(books.directory, head.TRUNCATED) == 2


def fill_settled(books: Books) -> None:
    fill(books)
    books.journal.settle()


def test_an_undone_truncation_leaves_what_was_before_it(books: Books) -> None:
    books.truncate("a", 4)
    leave_unpublished(books, ("a", 11, "undone"))
    books.reopen()
    books.check()
    assert word(books.directory, head.TRUNCATED) == 3


def test_a_truncation_without_room_changes_nothing(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(600):  # so that the index is about to grow
        books.commit((f"key-{number}", 1, None))
    refused = 0
    for number in range(600):
        books.snapshot(f"key-{number}", 1, None)
        with no_room_from_call(1, monkeypatch):
            try:
                truncate(books.journal, books.reader, f"key-{number}", 2)
            except StoreFullError:
                refused += 1
            else:
                books.note_truncation(f"key-{number}", 2)
    assert refused
    books.check()


def test_a_client_that_counted_from_elsewhere_counts_again(books: Books) -> None:
    books.truncate("a", 4)
    journal = books.journal
    published = journal.published
    assert journal.truncate(os.urandom(16), "a", 3, 6, 2, 99, resent=False) is False
    assert journal.truncate(os.urandom(16), "a", 0, 4, 3, 99, resent=True) is True
    assert journal.truncate(os.urandom(16), "a", 0, 2, 1, 99, resent=False) is True
    assert journal.published == published
    books.check()


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 12, 10, 99),  # more than there is
        (0, 5, 6, 99),  # more events than numbers
        (0, 5, 0, 99),
        (0, 5, -1, 99),
        (0, 5, 4, 0),
        (0, 5, 4, 1 << 40),
        (0, 2**63, 10, 99),
        (0, 5, True, 99),
        (0, "5", 4, 99),
        (None, 5, 4, 99),
        (0, 5.0, 4, 99),
    ],
)
def test_what_cannot_be_a_truncation_is_refused(books: Books, numbers: Any) -> None:
    journal: Any = books.journal
    published = books.journal.published
    with pytest.raises(InvalidEventError):
        journal.truncate(os.urandom(16), "a", *numbers, resent=False)
    assert books.journal.published == published
    assert word(books.directory, head.FORMAT) == 1


def test_a_stream_without_a_snapshot_is_not_truncated(books: Books) -> None:
    books.commit(("c", 1, None), ("c", 2, None))
    with pytest.raises(TruncationError) as caught:
        truncate(books.journal, books.reader, "c", 2)
    assert (caught.value.sequence, caught.value.snapshot_sequence) == (1, None)
    assert word(books.directory, head.FORMAT) == 1


def test_many_streams_may_be_truncated(books: Books) -> None:
    for number in range(1_500):
        books.commit((f"key-{number}", 1, None), (f"key-{number}", 2, None))
        books.snapshot(f"key-{number}", 2, None)
        books.truncate(f"key-{number}", 2 + number % 2)
    books.check()
    books.reopen()
    books.reboot()
    books.check()


# Repair


def test_a_repair_keeps_truncations(books: Books) -> None:
    books.truncate("a", 4)
    books.truncate("b", 100)
    books.commit(("lost", 1, "x" * 100))
    offset = books.journal.published
    books.commit(("a", 11, None), ("c", 1, None))
    books.journal.close()
    with (books.directory / "log-1-000000").open("r+b") as file:
        file.seek(offset - 50)
        file.write(b"damage")
    report = repair(books.directory)
    assert (report.lost_events, report.refusals) == (1, [])
    del books.streams["lost"]
    books.reader.close()
    books.reader = Reader(books.directory)
    books.reopen()
    books.check()
    assert word(books.directory, head.FORMAT) == 2
    assert repair_of_closed(books)


def repair_of_closed(books: Books) -> bool:
    books.journal.close()
    try:
        return repair(books.directory).is_whole
    finally:
        books.reopen()


def test_a_truncation_whose_snapshot_is_lost_is_undone_by_a_repair(books: Books) -> None:
    start = books.journal.published
    books.commit(("c", 1, "kept"), ("c", 2, "kept"))
    offset = books.journal.published
    books.snapshot("c", 2, "lost" * 30)
    books.truncate("c", 3)
    books.truncate("a", 5)
    books.journal.close()
    with (books.directory / "log-1-000000").open("r+b") as file:
        file.seek(offset + frames.FRAME_HEADER.size + frames.RECORD_HEADER.size + 10)
        file.write(b"damage")
    report = repair(books.directory)
    assert start < offset
    assert [refusal.reason for refusal in report.refusals] == [str(TruncationError("c", 2, None))]
    books.floors.pop("c")
    books.snapshots.pop("c")
    books.reader.close()
    books.reader = Reader(books.directory)
    books.reopen()
    books.check()


@pytest.mark.parametrize("value", [0, 2, 2**63])
def test_a_wrong_number_of_truncated_events_is_found(books: Books, value: int) -> None:
    books.truncate("a", 4)
    books.journal.close()
    set_word(books.directory, head.TRUNCATED, value)
    (damage,) = repair(books.directory).damages
    assert "figures" in damage.reason
    books.reader.close()
    books.reader = Reader(books.directory)
    books.reopen()
    books.check()


@pytest.mark.lines
def test_a_repair_while_a_truncation_is_not_published_finds_no_damage(books: Books) -> None:
    books.truncate("a", 4)
    for step in chosen_lines():
        killed = killed_at_line(step, lambda: truncate(books.journal, books.reader, "a", 7), within="_append")
        books.journal.close()
        assert repair(books.directory).is_whole, step
        books.journal = Journal.open(books.directory, max_commit_bytes=1 << 20)
        if not killed:
            break
        if floor(books) == 7:
            break
    assert step > 10
    books.note_truncation("a", 7)
    books.check()


def test_a_floor_is_a_record_of_its_own_kind(books: Books) -> None:
    books.truncate("a", 4)
    log = books.journal._files.log
    *_, (frame, records) = log.whole_frames(START)
    (record,) = records
    assert (record.kind, record.key, record.sequence, record.position) == (FLOOR, b"a", 4, 0)
    by_it, of_stream, of_all, size = frames.TRUNCATED.unpack(record.payload)
    assert (by_it, of_stream, of_all) == (3, 3, 3)
    assert 0 < size < books.journal.published
    books.truncate("b", 7)
    books.truncate("a", 6)
    *_, (_, (record,)) = log.whole_frames(START)
    assert frames.TRUNCATED.unpack(record.payload)[:3] == (2, 5, 8)
    assert frame.first_position == 21


# With processes


def test_a_truncation_survives_its_server(path: Path) -> None:
    with ms.connect(path) as store:
        store.commit_events([ms.Event("a", number, "t", None) for number in range(1, 11)])
        store.commit_snapshot(ms.Snapshot("a", 10, None))
        store.truncate("a", before=5)
        kill(store.stats()["server_pid"])
        assert [event.sequence for event in store.get_events("a")] == [*range(5, 11)]
        store.truncate("a", before=7)
        with ms.connect(path) as other:
            assert other.first_sequence("a") == 7
            assert [event.position for event in other.read()] == [7, 8, 9, 10]


def test_those_who_truncate_the_same_stream_at_once_count_once(path: Path) -> None:
    with ms.connect(path) as store:
        store.commit_events([ms.Event("a", number, "t", None) for number in range(1, 101)])
        store.commit_snapshot(ms.Snapshot("a", 100, None))
        in_threads(*(lambda before=before: store.truncate("a", before=before) for before in range(2, 100, 7)))
        assert store.first_sequence("a") == 93
        assert store.stats()["events"] == len(list(store.read())) == 8
