"""What the files of the shared store do when something of them is missing or damaged, or a client means harm."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from books import CAP, Books, commit, events, files_of, leave_unpublished, pretend_reboot, twin_keys, word
from processes import chosen_lines, killed_at_line

import maestro_shm as ms
from maestro_shm import validation
from maestro_shm.clock import LARGEST_TIMESTAMP, MAX_TIMESTAMP
from maestro_shm.errors import (
    CorruptLogError,
    InvalidEventError,
    SequenceConflictError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared import index as tables
from maestro_shm.shared import recovery
from maestro_shm.shared.frame import EVENT
from maestro_shm.shared.index import Index
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import SEGMENT_SIZE, START, Log
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.reader import Reader


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), content, offset)


def offset_of(books: Books, key: str) -> int:
    found = books.journal._files.index.find(EVENT, key.encode())
    assert found is not None
    return books.journal._files.index.words[found]


# Missing files


@pytest.mark.parametrize("kind", ["index", "positions"])
def test_a_missing_file_beside_the_log_is_built_anew(books: Books, kind: str) -> None:
    for number in range(1, 1_000):
        books.commit((f"key-{number}", 1, number), ("all", number, None))
    books.snapshot("all", 5, "snapshot")
    leave_unpublished(books, ("all", 1_000, "undone"), ("new", 1, None))
    (books.directory / files_of(books.directory, kind)[0]).unlink()
    books.reopen()
    books.check()
    books.commit(("all", 1_000, None), ("new", 1, None))
    books.check()


@pytest.mark.parametrize("size", [0, 8, 16, 12 << 10, (1024 + 1) * 16])
def test_an_index_that_was_cut_is_built_anew(books: Books, size: int) -> None:
    for number in range(700):  # so that it has grown once, to 2,048 slots
        books.commit((f"key-{number}", 1, number))
    (table,) = files_of(books.directory, "index")
    assert (books.directory / table).stat().st_size > size
    os.truncate(books.directory / table, size)
    books.journal.close()
    books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
    books.reader = Reader(books.directory)
    books.check()


def test_the_disk_knows_an_epoch_before_any_frame_carries_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk: list[int] = []
    written: list[int] = []
    write = Log.write

    def note_write(log: Log, *arguments: Any) -> None:
        written.append(on_disk[-1])
        write(log, *arguments)

    def note_flush(file: MappedFile, *_range: int) -> None:
        if file.path.name.startswith(head.NAME):
            on_disk.append(file.words[head.EPOCH])

    monkeypatch.setattr(MappedFile, "flush", note_flush)
    monkeypatch.setattr(Log, "write", note_write)
    for epoch in (1, 2):
        journal = Journal.open(tmp_path, max_commit_bytes=CAP)
        assert journal.epoch == epoch
        commit(journal, ("a", epoch, None))
        journal.close()
    assert written == [1, 2]


@pytest.mark.parametrize("kind", ["index", "positions"])
@pytest.mark.lines
def test_a_recovery_of_missing_files_that_is_killed_at_any_line_is_done_by_the_next(books: Books, kind: str) -> None:
    books.commit(("a", 1, None), ("b", 1, None))
    leave_unpublished(books, ("a", 2, "undone"), ("new", 1, None))
    for step in chosen_lines(7):
        books.journal.close()
        (books.directory / files_of(books.directory, kind)[0]).unlink()
        killed = killed_at_line(step, lambda: Journal.open(books.directory, max_commit_bytes=CAP), within="recover")
        books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
        books.check()
        if not killed:
            break
    assert step > 30


@pytest.mark.parametrize("rebooted", [False, True])
@pytest.mark.parametrize("what", ["missing", "cut"])
def test_a_missing_segment_of_the_log_is_an_error_that_names_it(books: Books, rebooted: bool, what: str) -> None:  # noqa: FBT001 (of pytest)
    books.commit(("a", 1, None))
    books.journal.close()
    path = books.directory / "log-1-000000"
    os.truncate(path, 1 << 20) if what == "cut" else path.unlink()
    if rebooted:
        pretend_reboot(books.directory)
    for _ in range(2):
        with pytest.raises(CorruptLogError, match="log-1-000000"):
            Journal.open(books.directory, max_commit_bytes=CAP)
    path.unlink(missing_ok=True)


def test_a_reader_that_finds_a_segment_empty_says_so(books: Books) -> None:
    books.commit(("a", 1, None))
    os.truncate(books.directory / "log-1-000000", 0)
    with pytest.raises(CorruptLogError, match=r"log-1-000000.*missing or empty"):
        Reader(books.directory).events("a", 0, 9)


def test_a_log_that_is_damaged_below_its_end_is_not_built_upon(books: Books) -> None:
    books.commit(("a", 1, "x" * 100))
    end = word(books.directory, head.PUBLISHED)
    books.commit(("a", 2, "x" * 100))
    books.journal.close()
    overwrite(books.directory / "log-1-000000", end + 60, b"?")
    (books.directory / "index-1-000001").unlink()
    for _ in range(2):
        with pytest.raises(CorruptLogError, match="the log ends here") as caught:
            Journal.open(books.directory, max_commit_bytes=CAP)
        assert (caught.value.path, caught.value.offset) == (str(books.directory / "log-1-000000"), end)


@pytest.mark.parametrize("leftover", [None, b"", b"unfinished" * 410])
def test_a_store_that_was_half_destroyed_begins_anew_under_a_higher_number(
    books: Books, leftover: bytes | None
) -> None:
    books.commit(("a", 1, "old"))
    before = word(books.directory, head.CLOCK)
    books.journal.retire()
    books.journal.close()
    (books.directory / "positions-1-000000").unlink()
    if leftover is not None:
        (books.directory / recovery.UNFINISHED).write_bytes(leftover)
    books.streams = {}
    books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
    assert books.reader.last_sequence("a") is None
    assert files_of(books.directory, "log") == ["log-2-000000"]
    _, (timestamp,) = books.commit(("b", 1, "new"))
    assert timestamp > before
    assert books.journal.epoch == 2
    books.check()


@pytest.mark.lines
def test_a_new_beginning_that_is_killed_at_any_line_is_done_by_the_next(books: Books) -> None:
    for step in chosen_lines(7):
        books.journal.retire()
        books.journal.close()
        killed = killed_at_line(step, lambda: Journal.open(books.directory, max_commit_bytes=CAP), within="recover")
        books.journal = Journal.open(books.directory, max_commit_bytes=CAP)
        books.streams = {}
        books.commit(("a", step, None))
        books.check()
        if not killed:
            break
    assert step > 30
    assert len(files_of(books.directory, "log")) == 1


# Without a boot id


@pytest.fixture
def no_boot_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "boot_id", lambda: (0, 0))


@pytest.mark.usefixtures("no_boot_id")
def test_an_open_reader_follows_where_each_new_server_scans(tmp_path: Path) -> None:
    with Books(tmp_path) as books:
        for number in range(1, 5):
            books.commit(*((f"key-{number}-{i}", 1, i) for i in range(300)), ("all", number, None))
            books.reopen()
            books.check()
        assert files_of(tmp_path, "index")[0] == f"index-1-{word(tmp_path, head.GENERATION):06d}"


@pytest.mark.usefixtures("no_boot_id")
@pytest.mark.lines
def test_an_open_reader_reads_on_while_a_scan_is_under_way_or_was_killed(tmp_path: Path) -> None:
    with Books(tmp_path) as books:
        books.commit(*((f"key-{number}", 1, number) for number in range(3)), ("all", 1, None))
        for step in chosen_lines(8):
            books.journal.close()
            killed = killed_at_line(step, lambda: Journal.open(tmp_path, max_commit_bytes=CAP), within="recover")
            assert events(books.reader, "all") == books.streams["all"]
            assert events(Reader(tmp_path), "all") == books.streams["all"]
            books.journal = Journal.open(tmp_path, max_commit_bytes=CAP)
            books.check()
            if not killed:
                break
        assert step > 30


# Space


@pytest.fixture(params=[AttributeError(), OSError(errno.EOPNOTSUPP, "no"), OSError(errno.EINVAL, "no")], ids=repr)
def no_fallocate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise request.param

    monkeypatch.setattr(os, "posix_fallocate", refuse)


@pytest.mark.usefixtures("no_fallocate")
def test_taking_space_by_writing_zeros_harms_nothing_that_was_written(tmp_path: Path) -> None:
    with Books(tmp_path) as books:
        for number in range(1, 51):
            books.commit(("a", number, "x" * 100))
        leave_unpublished(books, ("a", 51, "undone"))
        for number in range(51, 54):
            books.reopen()
            books.commit(("a", number, "y" * 100))
            books.check()
        books.reboot()
        books.check()


@pytest.mark.parametrize("call", ["open", "ftruncate"])
def test_a_file_system_without_room_for_a_further_file_is_full(
    books: Books, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call)

    def refuse(target: Any, flags: int, *rest: Any) -> Any:
        if call == "ftruncate" or flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(target, flags, *rest)

    before = sorted(books.directory.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StoreFullError):
            MappedFile.create(books.directory / "some", 4096)
        with pytest.raises(StoreFullError):
            books.reset()
        with pytest.raises(StoreFullError):
            books.commit(*((f"key-{number}", 1, None) for number in range(2_000)))
        assert sorted(books.directory.iterdir()) == before
    books.commit(("a", 1, None))
    books.check()


def test_without_room_for_a_larger_index_the_present_one_does_until_it_is_crowded(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise StoreFullError("directory", 1, 0)

    with monkeypatch.context() as patch:
        patch.setattr(Index, "create", refuse)
        for number in itertools.count():
            try:
                books.commit((f"key-{number}", 1, number))
            except StoreFullError:
                break
        assert number == 767
        books.commit(("key-0", 2, "a known stream"), ("key-1", 2, None))
        books.check()
    books.commit(("key-767", 1, 767))
    books.commit(*((f"more-{number}", 1, None) for number in range(100)))
    assert word(books.directory, head.GENERATION) > 1
    books.check()


def test_a_rebuild_makes_no_room_for_keys_that_it_knows(books: Books) -> None:
    for sequence in range(1, 5):
        books.commit(*((f"key-{number}", sequence, None) for number in range(400)))
    books.reboot()
    assert books.journal._files.index._current.capacity == tables.SMALLEST
    books.check()


@pytest.mark.parametrize("content", [b"", bytes(4096), None])
def test_what_a_writer_left_as_it_died_while_it_made_a_segment_is_no_hindrance(
    tmp_path: Path, content: bytes | None
) -> None:
    with Books(tmp_path, cap=32 << 20) as books:
        for kind, size in (("log", SEGMENT_SIZE), ("positions", 1 << 20)):
            path = tmp_path / f"{kind}-1-000001"
            path.write_bytes(content or b"")
            if content is None:
                os.truncate(path, size)
        books.reopen()
        for number in (1, 2, 3):
            books.commit(("big", number, b"x" * (31 << 20)))
        assert (tmp_path / "log-1-000001").stat().st_size == SEGMENT_SIZE
        books.check()
        books.journal._files.positions.reserve(1 << 17)
        assert (tmp_path / "positions-1-000001").stat().st_size == 1 << 20


# Damage


@pytest.mark.parametrize("offset", [5 << 26, (1 << 26) - 8, 8, 1 << 60])
def test_a_damaged_word_of_the_index_is_an_error_that_names_a_file(books: Books, offset: int) -> None:
    books.commit(("a", 1, None))
    index = books.journal._files.index
    found = index.find(EVENT, b"a")
    assert found is not None
    index.words[found] = offset
    with pytest.raises(CorruptLogError, match="log-1-"):
        books.reader.last_sequence("a")


def lead_to_another_stream(books: Books) -> None:
    """Commit to two streams, and let the word of the index for the first lead to the second."""
    books.commit(("a", 1, None), ("b", 1, None))
    index = books.journal._files.index
    found = index.find(EVENT, b"a")
    assert found is not None
    index.words[found] = offset_of(books, "b")


def test_a_word_of_the_index_that_leads_to_another_stream_is_an_error_and_no_missing_stream(books: Books) -> None:
    lead_to_another_stream(books)
    with pytest.raises(CorruptLogError, match="index-1-000001"):
        books.reader.last_sequence("a")


def test_a_server_that_finds_another_stream_s_record_under_a_word_of_the_index_stores_nothing(books: Books) -> None:
    lead_to_another_stream(books)
    books.journal._heads.forget()
    with pytest.raises(CorruptLogError, match="index-1-000001"):
        books.journal.commit_event(bytes(16), b"a", 2, b"payload")
    with pytest.raises(CorruptLogError, match="index-1-000001"):
        commit(books.journal, ("a", 2, None))
    assert (books.journal.last_position, books.journal.is_broken) == (2, False)


@pytest.mark.parametrize(("size", "reason"), [(0, "CRC"), (3, "CRC"), (SEGMENT_SIZE, "beyond"), (2**32 - 1, "beyond")])
def test_a_damaged_size_of_a_record_is_an_error(books: Books, size: int, reason: str) -> None:
    books.commit(("a", 1, None))
    overwrite(books.directory / "log-1-000000", offset_of(books, "a") + 4, size.to_bytes(4, "little"))
    with pytest.raises(CorruptLogError, match=f"log-1-000000.*{reason}"):
        books.reader.events("a", 0, 9)


def test_a_damaged_key_is_an_error_and_no_missing_stream(books: Books) -> None:
    books.commit(("abc", 1, None))
    overwrite(books.directory / "log-1-000000", offset_of(books, "abc") + frames.RECORD_HEADER.size, b"x")
    with pytest.raises(CorruptLogError, match="CRC"):
        books.reader.last_sequence("abc")


def test_a_key_is_found_without_a_look_at_the_payload(books: Books) -> None:
    books.commit(("abc", 1, "x" * 100))
    overwrite(books.directory / "log-1-000000", offset_of(books, "abc") + frames.RECORD_HEADER.size + 50, b"?")
    assert books.reader.view.index.find(EVENT, b"abc") is not None
    with pytest.raises(CorruptLogError, match="CRC"):
        books.reader.events("abc", 0, 9)


def test_a_commit_that_is_sent_again_is_never_answered_from_a_damaged_frame(books: Books) -> None:
    commit_id = bytes(range(16))
    books.commit(("a", 1, None), ("b", 1, None), commit_id=commit_id)
    books.commit(("a", 2, None))
    segment = books.directory / "log-1-000000"
    header = segment.read_bytes()[START : START + frames.FRAME_HEADER.size]
    for bit in range(len(header) * 8):
        overwrite(segment, START + bit // 8, bytes([header[bit // 8] ^ 1 << bit % 8]))
        with pytest.raises(CorruptLogError, match="a frame's CRC"):
            commit(books.journal, ("a", 1, None), ("b", 1, None), commit_id=commit_id, resent=True)
        overwrite(segment, START, header)
    assert commit(books.journal, ("a", 1, None), ("b", 1, None), commit_id=commit_id, resent=True)[0] == 1
    books.check()


def test_a_damaged_record_stops_no_other_stream(books: Books) -> None:
    books.commit(("damaged", 1, "x" * 100), ("fine", 1, None))
    overwrite(books.directory / "log-1-000000", offset_of(books, "damaged") + 80, b"?")
    books.reopen()
    for number in range(1_000):
        books.commit((f"key-{number}", 1, number), ("fine", number + 2, None))
    del books.streams["damaged"]
    with pytest.raises(CorruptLogError, match="CRC"):
        books.reader.events("damaged", 0, 9)
    with pytest.raises(CorruptLogError, match="CRC"):
        Journal.open(books.directory, max_commit_bytes=CAP).commit_events(bytes(16), [("damaged", 2, None, b"")], None)
    assert not books.journal.is_broken


def test_damage_that_a_commit_meets_as_the_index_grows_refuses_all_of_it(books: Books) -> None:
    key, twin = twin_keys()
    books.commit((key, 1, "x" * 100), (twin, 1, None), ("fine", 1, None))
    books.commit(*((f"key-{number}", 1, None) for number in range(505)))
    books.commit(*((f"more-{number}", 1, None) for number in range(5)))
    index = books.journal._files.index
    assert index._next is not None
    index._move(index._next, 1000)
    overwrite(books.directory / "log-1-000000", offset_of(books, key) + 120, b"?")
    with pytest.raises(CorruptLogError, match="CRC"):
        books.commit(("fine", 2, "refused"), (twin, 2, None))
    del books.streams[key]
    assert events(books.reader, "fine") == [(1, None)]
    books.commit(("fine", 2, "of another"), ("new", 1, None))
    assert events(books.reader, "fine") == [(1, None), (2, "of another")]


# A writer that failed half-way


def test_a_journal_that_failed_within_a_commit_writes_no_more(books: Books) -> None:
    books.commit(("a", 1, None), ("b", 1, None))
    leave_unpublished(books, ("a", 2, "undone"), ("new", 1, None))
    assert books.journal.is_broken
    with pytest.raises(StoreUnavailableError, match="leaves"):
        commit(books.journal, ("b", 2, None))
    with pytest.raises(StoreUnavailableError, match="leaves"):
        books.snapshot("b", 1, None)
    with pytest.raises(StoreUnavailableError, match="leaves"):
        books.reset()
    books.reopen()
    assert not books.journal.is_broken
    books.check()
    books.commit(("a", 2, None), ("b", 2, None))
    books.check()


def test_a_reset_that_fails_between_two_incarnations_is_finished_by_the_next(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.commit(("a", 1, None))

    def refuse(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "publish", refuse)
        with pytest.raises(PermissionError):
            books.reset()
    with pytest.raises(StoreUnavailableError, match="leaves"):
        commit(books.journal, ("a", 2, None))
    books.reopen()
    books.streams = {}
    books.commit(("a", 1, "new"))
    books.check()


def test_after_a_reset_whose_sweeping_failed_commits_go_into_the_new_files(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.commit(("a", 1, None))
    sweep = recovery.sweep

    def refuse(directory: Path, *, keep: int) -> None:
        if keep == 2:
            raise PermissionError
        sweep(directory, keep=keep)

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "sweep", refuse)
        with pytest.raises(PermissionError):
            books.reset()
    books.streams = {}
    books.commit(("a", 1, "new"))
    books.check()
    books.reopen()
    books.check()
    assert files_of(books.directory, "log") == ["log-2-000000"]


# Rows that no honest client sends

GOOD = validation.pack_events([ms.Event("x", 1, "type", None)], CAP)[0][3]


@pytest.mark.parametrize(
    "row",
    [
        ("known", 5, None, GOOD),
        ("known", -1, None, GOOD),
        ("new", -1, None, GOOD),
        ("new", True, None, GOOD),
        ("new", 1.5, None, GOOD),
        ("new", "1", None, GOOD),
        ("new", None, None, GOOD),
        ("new", 2**63, None, GOOD),
        ("new", 2**64, None, GOOD),
        ("new", 1, -1, GOOD),
        ("new", 1, True, GOOD),
        ("new", 1, 1.5, GOOD),
        ("new", 1, LARGEST_TIMESTAMP + 1, GOOD),
        ("new", 1, 2**64, GOOD),
        ("new", 1, None, "text"),
        ("new", 1, None, None),
        ("", 1, None, GOOD),
        ("k" * 65_536, 1, None, GOOD),
        ("\udc80", 1, None, GOOD),
        (b"bytes", 1, None, GOOD),
        (None, 1, None, GOOD),
    ],
    ids=lambda row: repr(row[:3])[-40:],
)
def test_a_row_that_breaks_a_rule_is_refused_and_changes_nothing(books: Books, row: Any) -> None:
    books.commit(("known", 5, None))
    before = (books.directory / head.NAME).read_bytes()
    wanted = SequenceConflictError if row[:2] == ("known", 5) else InvalidEventError
    with pytest.raises(wanted):
        books.journal.commit_events(bytes(16), [("fine", 1, None, GOOD), row], resent=False)
    if row[2] is None and row[1] != 5:
        with pytest.raises(InvalidEventError):
            books.journal.commit_snapshot(bytes(16), row[0], row[1], row[3], resent=False)
    assert (books.directory / head.NAME).read_bytes() == before
    books.commit(("known", 6, None), ("new", 1, None), ("k" * 65_535, 2**63 - 1, None))
    books.check()
    books.reopen()
    books.check()


@pytest.mark.parametrize("commit_id", [b"", b"x" * 15, b"x" * 17, "x" * 16, None, 5])
def test_a_commit_id_of_another_length_is_refused(books: Books, commit_id: Any) -> None:
    for resent in (False, True):
        with pytest.raises(StoreError, match="a commit id must be 16 bytes"):
            books.journal.commit_events(commit_id, [("a", 1, None, GOOD)], resent)
        with pytest.raises(StoreError, match="a commit id must be 16 bytes"):
            books.journal.commit_snapshot(commit_id, "a", 1, GOOD, resent)
    books.commit(("a", 1, None))
    books.check()


def test_the_largest_timestamp_leaves_the_clock_room(books: Books) -> None:
    books.journal.commit_events(bytes(16), [("a", 1, MAX_TIMESTAMP, GOOD)], resent=False)
    for sequence in range(2, 5):
        commit(books.journal, ("a", sequence, None))
    books.reopen()
    commit(books.journal, ("a", 5, None))
