"""Compaction of the shared store: what is live stays as it was for everybody, the rest gives its space back."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import threading
import time
from collections import Counter as Counting
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from books import (
    ALL,
    Books,
    commit,
    events,
    feed,
    files_of,
    no_room_from_call,
    pretend_reboot,
    set_word,
    word,
)
from processes import PATIENCE, chosen_lines, kill, killed_at_line, named_target, wait_until
from store_contract import event

import maestro_shm as ms
from maestro_shm.errors import CorruptLogError, StoreFullError, StoreUnavailableError
from maestro_shm.shared import directory as directories
from maestro_shm.shared import header as head
from maestro_shm.shared import recovery, succession, writer
from maestro_shm.shared.compaction import Compaction
from maestro_shm.shared.compaction_duty import CompactionDuty
from maestro_shm.shared.complaints import Complaints
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.file_leases import FileLeases
from maestro_shm.shared.log import SEGMENT_SIZE, Log
from maestro_shm.shared.mapped import DiskError
from maestro_shm.shared.reader import Reader
from maestro_shm.shared.repair import repair
from maestro_shm.shared.room import Room
from maestro_shm.shared.store import SharedStore, path_of


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A store's directory in shared memory: who is killed at each line would wait for a disk many times."""
    with named_target() as target:
        directories.make(path_of(target), Settings(1 << 20, 30.0))
        yield path_of(target)


@pytest.fixture
def books(in_memory: Path) -> Iterator[Books]:
    """A store with something of each kind that is dead, and something that is live."""
    with Books(in_memory) as made:
        fill(made)
        yield made


def fill(books: Books) -> None:
    for number in range(1, 21):
        books.commit(("a", number, number), ("b", number * 2, "x" * 100), (f"c-{number}", 1, None))
        books.change("t", {"always": b"%d" % number, f"key-{number}": b"x", f"key-{number - 3}": b""})
    for sequence in (5, 10, 20):
        books.snapshot("a", sequence, "s" * 100)
        books.snapshot("b", sequence * 2, "s" * 100)
    books.change("u", {"gone": b"x"})
    books.change("u", {"gone": b""})
    books.truncate("a", 12)
    books.truncate("b", 1000)


def files(books: Books) -> list[str]:
    return sorted(path.name for path in books.directory.iterdir() if path.name not in ("authkey", "settings"))


def files_of_number(number: int) -> list[str]:
    return ["header", f"index-{number}-000001", f"log-{number}-000000", f"positions-{number}-000000"]


# What stays, and what goes


def test_what_is_live_stays_and_the_rest_gives_its_space_back(books: Books) -> None:
    before = books.journal.published
    books.compact()
    books.check()
    assert books.journal.published < before * 0.6
    assert files(books) == files_of_number(2)
    books.commit(("a", 21, None), ("new", 1, None))
    books.change("t", {"always": b"", "another": b"x"})
    books.truncate("a", 15)
    books.check()
    for again in (books.reopen, books.reboot, books.compact, books.reopen, books.reboot):
        again()
        books.check()


def test_a_store_without_anything_is_compacted(tmp_path: Path) -> None:
    with Books(tmp_path) as books:
        books.compact()
        books.check()
        books.commit(("a", 1, None))
        books.compact()
        books.check()


def test_positions_and_timestamps_and_commits_stay(books: Books) -> None:
    before = feed(books.reader)
    stored = [[(one.position, one.commit) for one in batch] for batch in books.reader.cut().stored_events(0)]
    books.compact()
    assert feed(books.reader) == before
    again = [[(one.position, one.commit) for one in batch] for batch in books.reader.cut().stored_events(0)]
    for (one, other), (first, second) in zip(
        itertools.pairwise(itertools.chain(*stored)), itertools.pairwise(itertools.chain(*again)), strict=True
    ):
        assert (one[0], one[1] == other[1]) == (first[0], first[1] == second[1])


def test_the_newest_commits_stay_whole(books: Books) -> None:
    lost = os.urandom(16)
    first, timestamps = books.commit(("d", 1, "x"), commit_id=lost)
    snapshot = os.urandom(16)
    key = ("v", "kept")
    entry = os.urandom(16)
    books.journal.commit(entry, [], [(*key, 0, b"x")], [], resent=False)
    books.journal.commit_snapshot(snapshot, "d", 1, b"\x91\xc0", resent=False)
    for sequence in (2, 3):
        books.commit(("d", sequence, None))
        books.snapshot("d", sequence, None)
        books.journal.commit(os.urandom(16), [], [(*key, sequence - 1, b"y")], [], resent=False)
    books.truncate("d", 3)
    books.compact(whole_commits=12)
    assert commit(books.journal, ("d", 1, "x"), commit_id=lost, resent=True) == (first, timestamps)
    assert books.journal.commit_snapshot(snapshot, "d", 1, b"\x91\xc0", resent=True)
    assert books.journal.commit(entry, [], [(*key, 0, b"x")], [], resent=True)
    books.check()
    books.compact()
    with pytest.raises(ms.SequenceConflictError):
        commit(books.journal, ("d", 1, "x"), commit_id=lost, resent=True)


def test_of_a_commit_some_of_whose_events_are_gone_the_others_tell_what_became_of_it(books: Books) -> None:
    sent = os.urandom(16)
    first, _ = books.commit(("e", 1, None), ("d", 1, None), ("e", 2, None), commit_id=sent)
    books.snapshot("d", 1, None)
    books.commit(("d", 2, None))
    books.truncate("d", 2)
    books.compact()
    again, timestamps = commit(
        books.journal, ("e", 1, None), ("d", 1, None), ("e", 2, None), commit_id=sent, resent=True
    )
    assert again == first
    assert len(timestamps) == 2
    books.check()


def test_large_tables_and_streams_over_several_segments(in_memory: Path) -> None:
    with Books(in_memory, cap=1 << 25) as books:
        for number in range(1, 6):
            books.commit(("large", number, b"x" * (SEGMENT_SIZE // 3)))
            books.change("t", {f"key-{number}-{other}": b"x" for other in range(300)})
        books.snapshot("large", 5, None)
        books.compact(whole_commits=2)
        books.check()
        books.truncate("large", 5)
        books.compact()
        books.check()
        assert books.journal.published < SEGMENT_SIZE
        books.reboot()
        books.check()


# Those who use the store meanwhile


def test_cuts_that_are_held_go_on_and_the_newest_state_is_the_same_store(books: Books) -> None:
    cut = books.reader.cut()
    before = [one for batch in cut.feed(ALL) for one in batch], cut.keys("t").keys, dict(cut.pairs("t"))
    books.compact(meanwhile=lambda: None)
    fresh = books.reader.cut()
    assert (fresh.incarnation, fresh.mark, fresh.last_position) == (cut.incarnation, cut.mark, cut.last_position)
    assert ([one for batch in cut.feed(ALL) for one in batch], cut.keys("t").keys, dict(cut.pairs("t"))) == before
    books.commit(("a", 21, None))
    assert books.reader.cut().mark > cut.mark
    books.reset()
    assert books.reader.cut().incarnation != cut.incarnation


def test_the_past_has_its_events_and_no_tables(books: Books) -> None:
    marks = [books.reader.cut().until(position) for position in range(61)]
    before = [(cut.get_events("a"), cut.get_events("c-7"), [*itertools.chain(*cut.feed(ALL))]) for cut in marks]
    moments = [one.timestamp or 0 for one in feed(books.reader)]
    places = [books.reader.cut().position_at(moment) for moment in moments]
    books.compact()
    newest = books.reader.cut()
    for position, expected in enumerate(before):
        cut = newest.until(position)
        assert (cut.get_events("a"), cut.get_events("c-7"), [*itertools.chain(*cut.feed(ALL))]) == expected
        if position > 0:
            with pytest.raises(StoreUnavailableError, match="what its tables were"):
                cut.entry("t", "always")
            with pytest.raises(StoreUnavailableError, match="what its tables were"):
                cut.keys("t")
    assert newest.until(0).keys("t").keys == ()
    assert [newest.position_at(moment) for moment in moments] == places
    with pytest.raises(ms.TruncatedError):  # nothing tells any more whether there was any event by then
        newest.until(3).get_events("a", complete=True)
    books.commit(("a", 21, None))
    books.change("t", {"always": b"new"})
    books.commit(("a", 22, None))
    assert books.reader.cut().until(62).entry("t", "always").payload == b"new"
    assert books.reader.cut().until(61).entry("t", "always").payload == b"20"


def test_what_is_committed_meanwhile_is_there(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(succession, "_SLICE", 2)
    monkeypatch.setattr(succession, "_PER_COMMITTED", 0)
    number = 20

    def work() -> None:
        nonlocal number
        if number < 60:
            number += 1
            books.commit(("a", number, None), (f"d-{number}", 1, "x" * 1000))
            books.snapshot("a", number, None)
            books.truncate("a", number - 3)
            books.change("t", {"always": b"%d" % number, f"key-{number}": b"y", f"key-{number - 3}": b""})

    books.compact(meanwhile=work)
    books.check()
    assert number > 30
    books.reopen()
    books.check()


def test_a_reset_meanwhile_ends_it(books: Books) -> None:
    compaction = Compaction(books.directory, 0)
    books.reset()
    books.commit(("a", 1, None))
    with pytest.raises(StoreUnavailableError, match="it was reset"):
        compaction.run()
    compaction = Compaction(books.directory, 0)
    compaction.run()
    books.reset()
    with pytest.raises(StoreUnavailableError, match="since its files were copied"):
        books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    books.commit(("b", 1, None))
    books.check()
    compaction = Compaction(books.directory, 0)
    compaction.run()
    books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    books.reset()
    assert not books.journal.goes_over()
    books.commit(("c", 1, None))
    books.check()
    books.reopen()
    books.check()


def test_another_server_meanwhile_ends_it(books: Books) -> None:
    compaction = Compaction(books.directory, 0)
    compaction.run()
    books.reopen()
    with pytest.raises((StoreUnavailableError, FileNotFoundError)):
        books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    assert files(books) == files_of_number(1)
    books.compact()
    books.check()


@pytest.mark.parametrize("source_end", [0, 2**40, "x", None, True])
def test_what_cannot_be_adopted_is_refused(books: Books, source_end: Any) -> None:
    compaction = Compaction(books.directory, 0)
    compaction.run()
    with pytest.raises(ms.InvalidEventError):
        books.journal.adopt(compaction.number, compaction.epoch, source_end, resent=False)
    books.compact()
    books.check()


@pytest.mark.parametrize("commits", [20, 64])
def test_a_server_gets_there_however_much_is_committed_meanwhile(books: Books, commits: int) -> None:
    compaction = Compaction(books.directory, 0)
    compaction.run()
    for sequence in range(1, 301):
        books.commit((f"beside-{sequence}", 1, None))
    books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    for round_number in range(200):
        for number in range(commits):
            books.commit((f"round-{round_number}-{number}", 1, None))
        if (former := books.journal.go_over()) is not None:
            former.close()
            break
    assert not books.journal.goes_over()
    books.check()


def test_a_copy_reads_what_came_to_a_truncated_stream_meanwhile_once_and_not_for_each_record(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sequence in range(21, 201):
        books.commit(("a", sequence, None))
        books.snapshot("a", sequence, None)
        books.truncate("a", sequence)
    compaction = Compaction(books.directory, 0)
    for sequence in range(201, 401):
        books.commit(("a", sequence, None))
        books.snapshot("a", sequence, None)
        books.truncate("a", sequence)
    reads = 0
    read = Log.read

    def counted(log: Log, offset: int) -> Any:
        nonlocal reads
        reads += 1
        return read(log, offset)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "read", counted)
        compaction.run()
    assert reads < 2_000  # some 600 commits came, and 600 records were not live
    books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    while books.journal.goes_over():
        books.journal.go_over()
    books.check()


def test_a_commit_that_is_damaged_before_it_was_brought_over_ends_the_compaction(books: Books) -> None:
    compaction = Compaction(books.directory, 0)
    compaction.run()
    end = books.journal.published
    books.commit(("late", 1, "body"))
    books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    books.journal._files.log.write(end + 30, end + 30, b"damage")
    with pytest.raises(CorruptLogError, match="no whole commit"):
        books.journal.go_over()
    assert not books.journal.goes_over()


def test_an_adoption_that_is_sent_again_has_been_heard(books: Books) -> None:
    compaction = Compaction(books.directory, 0)
    compaction.run()
    books.commit(("late", 1, None))
    for resent in (False, True):
        books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=resent)
    with pytest.raises(StoreUnavailableError):
        books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)


def test_files_that_do_not_fit_are_not_adopted(books: Books) -> None:
    compaction = Compaction(books.directory, 0)
    compaction.run()
    set_header(books.directory / recovery.SUCCESSOR, head.LAST_POSITION, 3)
    books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    with pytest.raises(CorruptLogError):
        books.journal.go_over()
    assert not books.journal.goes_over()
    assert not books.journal.is_broken
    books.commit(("a", 21, None))
    books.check()
    books.compact()
    books.check()


def set_header(directory: Path, number: int, value: int) -> None:
    (directory / recovery.UNFINISHED).rename(directory / head.NAME)
    set_word(directory, number, value)
    (directory / head.NAME).rename(directory / recovery.UNFINISHED)


# Kills, damage, and a full disk


def test_a_compaction_that_is_killed_at_any_line_leaves_the_store_as_it_is(books: Books) -> None:
    for step in (int(1.3**number) for number in itertools.count()):
        killed = killed_at_line(step, lambda: Compaction(books.directory, 0).run(), within="run")
        books.check()
        if step % 3 == 0:
            books.reopen()
            assert files(books) == files_of_number(1)
        if not killed:
            break
    assert step > 5_000
    assert killed_at_line(5_000, lambda: Compaction(books.directory, 0).run(), within="run")
    books.commit(("a", 21, None))
    books.compact()
    books.check()


@pytest.mark.parametrize(("within", "every"), [("adopt", 11), ("go_over", 7)])
@pytest.mark.lines
def test_a_server_that_is_killed_while_it_goes_over_leaves_either_set_of_files(
    books: Books, within: str, every: int
) -> None:
    numbers = set[int]()
    sequence = 20

    def work() -> None:
        books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
        while books.journal.goes_over():
            books.journal.go_over()

    for step in chosen_lines(every):
        number = word(books.directory, head.INCARNATION)
        compaction = Compaction(books.directory, 0)
        compaction.run()
        sequence += 1
        books.commit(("a", sequence, None))
        books.snapshot("a", sequence, None)
        killed = killed_at_line(step, work, within=within)
        before = books.reader.last_sequence("a")
        books.reopen()
        assert before == books.reader.last_sequence("a") == sequence
        now = word(books.directory, head.INCARNATION)
        assert now - number in (0, 1)
        assert files(books) == files_of_number(now)
        numbers.add(now - number)
        books.check()
        if not killed:
            break
    assert step > 60
    assert numbers == {0, 1}
    books.reboot()
    books.check()


@pytest.mark.parametrize("other_boot", [True, False])
def test_files_that_were_replaced_go_before_a_rebuild_needs_their_room(books: Books, other_boot: bool) -> None:  # noqa: FBT001
    compaction = Compaction(books.directory, 0)
    compaction.run()
    books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    finish(books)
    books.reader.close()
    books.journal.close()
    assert len(files_of(books.directory, "log")) == 2
    if other_boot:
        pretend_reboot(books.directory)
    else:
        (books.directory / "positions-2-000000").unlink()
    books.journal = books._open()
    books.reader = Reader(books.directory)
    assert files_of(books.directory, "log") == ["log-2-000000"]
    books.check()


@pytest.mark.lines
def test_a_recovery_that_is_killed_at_any_line_tells_readers_of_files_that_were_replaced(books: Books) -> None:
    sequence = 20
    for step in chosen_lines(5):
        compaction = Compaction(books.directory, 0)
        compaction.run()
        books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
        # Behind the new name of the header, and before the mark in the old one.
        assert killed_at_line(1, books.journal.go_over, within="flush_names")
        assert (books.directory / recovery.REPLACED_HEADER).exists()
        killed = killed_at_line(step, books._open, within="recover")
        books.reopen()
        assert not (books.directory / recovery.REPLACED_HEADER).exists()
        sequence += 1
        books.commit(("a", sequence, None))
        assert books.reader.last_sequence("a") == sequence
        books.check()
        if not killed:
            break
    assert step > 30


def test_without_room_the_store_goes_on_as_it_is(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in itertools.count(1):
        with no_room_from_call(number, monkeypatch):
            try:
                Compaction(books.directory, 0).run()
            except StoreFullError:
                pass
            else:
                break
        books.commit((f"after-{number}", 1, None))
        books.check()
    assert number > 4
    books.compact()
    books.check()


def test_a_server_without_room_stays_with_the_present_files(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0
    for number in itertools.count(1):
        compaction = Compaction(books.directory, 0)
        compaction.run()
        books.commit((f"large-{number}", 1, "x" * 800_000), *((f"key-{number}-{other}", 1, "") for other in range(400)))
        books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
        with no_room_from_call(number, monkeypatch):
            try:
                finish(books)
            except StoreFullError:
                refused += 1
                assert not books.journal.is_broken
                assert files(books)[:1] == files_of_number(1)[:1]
            else:
                break
        books.check()
    assert refused
    books.check()
    books.reopen()
    books.check()


def test_what_is_dead_is_counted_alike_by_the_writer_and_after_a_loss_of_power(books: Books) -> None:
    counted = word(books.directory, head.DEAD)
    assert 0.2 < counted / books.journal.published < 0.6
    books.reboot()
    assert word(books.directory, head.DEAD) == counted
    books.compact()
    assert word(books.directory, head.DEAD) == 0
    assert word(books.directory, head.FORMAT) == 2


def test_damage_ends_it(books: Books) -> None:
    with (books.directory / "log-1-000000").open("r+b") as file:
        file.seek(3000)
        file.write(b"damage")
    with pytest.raises(CorruptLogError):
        Compaction(books.directory, 0).run()
    assert word(books.directory, head.INCARNATION) == 1


def test_a_compacted_store_is_whole_to_a_repair(books: Books) -> None:
    books.compact()
    books.commit(("a", 21, None))
    books.journal.close()
    assert repair(books.directory).is_whole
    set_word(books.directory, head.BOOT_LOW, 12345)
    assert repair(books.directory).is_whole
    books.journal = books._open()
    books.check()


def test_a_repair_of_a_compacted_store_keeps_what_was_truncated_as_it_is(books: Books) -> None:
    books.compact()
    books.commit(("lost", 1, "x" * 100))
    offset = books.journal.published
    books.commit(("a", 21, None), ("b", 41, None))
    before = [one.position for one in feed(Reader(books.directory)) if one.aggregate_id != "lost"]
    books.journal.close()
    with (books.directory / "log-2-000000").open("r+b") as file:
        file.seek(offset - 50)
        file.write(b"damage")
    report = repair(books.directory)
    assert (report.lost_events, report.refusals, report.holes) == (1, [], {})
    del books.streams["lost"]
    books.reader.close()
    books.reader = Reader(books.directory)
    books.journal = books._open()
    for key in ("a", "b", "c-3"):
        assert events(books.reader, key) == books.left(key)
    assert books.reader.last_sequence("b") == 41
    books.check_tables(books.reader)
    with pytest.raises(ms.TruncatedError):
        books.reader.events("a", 3, 99, complete=True)
    positions = [one.position for one in feed(books.reader)]
    assert len(positions) == len(before)
    stats = books.reader.stats()
    assert stats["events"] == len(positions)


def test_a_truncation_whose_snapshot_is_lost_stays_where_events_were_given_back(books: Books) -> None:
    books.compact()
    offset = books.journal.published
    books.snapshot("a", 30, "lost" * 30)
    books.commit(("z", 1, None))
    books.compact()
    log = books.directory / "log-3-000000"
    content = log.read_bytes()
    assert offset > 0
    with log.open("r+b") as file:
        file.seek(content.index(b"lostlost"))
        file.write(b"damage")
    books.journal.close()
    report = repair(books.directory)
    assert report.refusals == []
    reader = Reader(books.directory)
    with pytest.raises(ms.TruncatedError):
        reader.events("a", 0, 99, complete=True)
    assert events(reader, "a") == books.left("a")
    reader.close()
    books.journal = books._open()


def test_a_disk_that_fails_at_the_last_step_leaves_the_new_files_to_the_next_server(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    compaction = Compaction(books.directory, 0)
    compaction.run()
    books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "flush_names", refuse)
        with pytest.raises(DiskError):
            finish(books)
    assert books.journal.is_broken
    assert books.reader.last_sequence("a") == 20
    books.reopen()
    assert files(books) == files_of_number(2)
    books.check()
    books.reboot()
    books.check()


def test_a_server_that_fails_behind_the_last_step_leaves_the_new_files_to_the_next(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    compaction = Compaction(books.directory, 0)
    compaction.run()
    books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    monkeypatch.setattr(books.journal, "_use", lambda _: refuse(books.directory))
    with pytest.raises(DiskError):
        finish(books)
    assert books.journal.is_broken
    books.reopen()
    assert files(books) == files_of_number(2)
    books.commit(("a", 21, None))
    books.check()


@pytest.mark.parametrize("step", ["flush_directory", "publish"])
def test_a_disk_that_fails_before_the_last_step_leaves_the_present_files(
    books: Books, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    compaction = Compaction(books.directory, 0)
    compaction.run()
    books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, step, refuse)
        with pytest.raises(DiskError):
            finish(books)
    assert not books.journal.goes_over()
    assert not books.journal.is_broken
    books.check()
    books.reopen()
    assert files(books) == files_of_number(1)
    books.check()


def finish(books: Books) -> None:
    while books.journal.goes_over():
        books.journal.go_over()


def refuse(path: Path) -> None:
    raise DiskError(str(path), "the disk does not take it")


def test_files_that_are_not_there_are_not_adopted(books: Books) -> None:
    compaction = Compaction(books.directory, 0)
    with pytest.raises(StoreUnavailableError, match="not there"):
        books.journal.adopt(compaction.number, compaction.epoch, 16, resent=False)
    compaction.run()
    (books.directory / recovery.SUCCESSOR / "log-2-000000").unlink()
    with pytest.raises(CorruptLogError):
        books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
    assert files(books)[:4] == files_of_number(1)
    books.commit(("a", 21, None))
    books.check()
    books.compact()
    books.check()


# With processes


class Counter(ms.Aggregate):
    initial_state = 0

    @ms.on_command("count")
    def count(self, _command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("counted")]

    @ms.on_event("counted")
    def counted(state: Any, _event: ms.Event) -> Any:  # noqa: N805 (handlers of events take no self)
        return state + 1


def test_everybody_goes_on_while_a_store_is_compacted() -> None:
    with ms.connect() as store, store.subscribe() as subscription:
        root = Counter(store, "a")
        stop = threading.Event()
        counted = threading.Thread(target=lambda: count_until(Counter(store, "b"), stop))
        counted.start()
        for _ in range(3):
            root.evaluate(ms.Command("count"))
            root.snapshot()
            store.truncate("a", before=root.sequence)
            held = store._cut()  # type: ignore[attr-defined]
            position = store.last_position
            store.compact()
            assert len(held.get_events("a")) == 1
            assert store.at(position=position).last_sequence("a") == root.sequence
        stop.set()
        counted.join()
        assert root.fetch() == 3
        found = [one.sequence for one in iter(lambda: subscription.get(timeout=0), None) if one.aggregate_id == "b"]
        assert found == [*range(1, (store.last_sequence("b") or 0) + 1)]
        assert Counter(store, "b").fetch() == len(found)


def count_until(root: Counter, stop: threading.Event) -> None:
    while not stop.is_set():
        root.evaluate(ms.Command("count"))


def test_who_waits_goes_on_waiting_while_a_store_is_compacted() -> None:
    with ms.connect() as store:
        store.commit_events([event("a", number) for number in range(1, 10)])
        done: list[bool] = []
        waiting = threading.Thread(target=lambda: done.append(store.wait(10, timeout=20)))
        waiting.start()
        store.compact()
        time.sleep(0.1)
        assert not done
        store.commit_events([event("a", 10)])
        waiting.join()
        assert done == [True]


def test_a_store_that_nobody_serves_gets_a_server_to_be_compacted() -> None:
    with named_target() as target:
        with ms.connect(target, idle_timeout=0) as store:
            store.commit_events([event("a", 1)])
            pid = store.stats()["server_pid"]
        kill(pid)
        with ms.connect(target) as store:
            store.compact()
            assert store.last_sequence("a") == 1


def test_a_server_removes_soon_what_the_former_one_would_have_removed_later() -> None:
    with named_target() as target, ms.connect(target) as store:
        store.commit_events([event("a", 1)])
        store.compact()
        directory = Path(store.stats()["directory"])
        assert len(files_of(directory, "log")) == 2
        kill(store.stats()["server_pid"])
        store.commit_events([event("a", 2)])
        wait_until(lambda: files_of(directory, "log") == ["log-2-000000"], "the former files are gone")
        assert [one.sequence for one in store.get_events("a")] == [1, 2]


def test_a_store_is_compacted_by_one_at_a_time() -> None:
    with ms.connect() as store:
        assert isinstance(store, SharedStore)
        held = FileLeases(store.directory / "leases-compaction")
        assert held.take(0)
        with pytest.raises(StoreUnavailableError, match="compacted already"):
            store.compact()
        held.close()
        store.compact()


def test_a_large_log_that_is_mostly_dead_is_compacted_by_itself() -> None:
    with ms.connect() as store:
        for sequence in range(1, 90):
            store.commit_snapshot(ms.Snapshot("a", sequence, b"x" * 1_000_000))
        assert isinstance(store, SharedStore)
        wait_until(lambda: word(store.directory, head.INCARNATION) == 2, "it is compacted")
        assert store.get_snapshot("a") == ms.Snapshot("a", 89, b"x" * 1_000_000)
        # It begins at 64 MiB; the newest 8 MiB stay as they are, and what is committed meanwhile is copied.
        assert word(store.directory, head.PUBLISHED) < 89_000_000 - (64 << 20) + (8 << 20) + 2_000_000
        store.commit_events([event("a", 1)])


@pytest.mark.parametrize("live", [0, 12])
def test_what_is_dead_never_fills_a_containers_memory_for_good(containers_memory: Path, live: int) -> None:
    body = b"x" * 100_000
    refused = 0
    with ms.connect(containers_memory / "store") as store:
        for sequence in range(1, 10 * live + 1):
            store.commit_events([event("live", sequence, body)])

        def is_stored(sequence: int) -> bool:
            nonlocal refused
            try:
                return store.commit_snapshot(ms.Snapshot("a", sequence, body))
            except StoreFullError:
                refused += 1
                return False

        for sequence in range(1, 1_200):
            wait_until(partial(is_stored, sequence), "there is room again")
        assert store.get_snapshot("a") == ms.Snapshot("a", 1_199, body)
        store.commit_events([event("a", 1)])
    assert refused
    ms.destroy(containers_memory / "store")


@pytest.mark.parametrize(
    ("available", "is_dead", "is_being_compacted", "is_refused"),
    [
        (50, True, False, False),
        (20, True, False, True),
        (20, False, False, False),
        (5, True, False, False),  # what it needs is not there
        (5, True, True, True),
    ],
)
def test_a_log_that_is_mostly_dead_leaves_the_room_that_its_compaction_needs(
    in_memory: Path,
    monkeypatch: pytest.MonkeyPatch,
    available: int,
    *,
    is_dead: bool,
    is_being_compacted: bool,
    is_refused: bool,
) -> None:
    monkeypatch.setattr(writer, "room_of", lambda _: Room(64 << 20, available << 20))
    with Books(in_memory) as books:
        books.journal.leaves_room = True
        books.journal.is_being_compacted = is_being_compacted

        def commit_much(number: int) -> None:
            if is_dead:
                books.snapshot("a", number, "x" * 900_000)
            else:
                books.commit(("a", number, "x" * 900_000))

        for number in range(1, 40):
            try:
                commit_much(number)
            except StoreFullError as error:
                assert is_refused
                assert (error.directory, error.available) == (str(in_memory), available << 20)
                assert (40 << 20) < error.needed < (43 << 20)
                break
        assert books.journal.lacks_room == is_refused
        assert is_refused or books.journal.is_mostly_dead == is_dead
        books.compact()
        assert not books.journal.lacks_room
        commit_much(100)
        books.check()


def test_what_was_replaced_among_the_newest_commits_counts_as_dead_in_the_copy(books: Books) -> None:
    for number in range(21, 26):
        books.snapshot("a", number, "s" * 10_000)
        books.change("t", {"always": b"x" * 1_000})
    dead = word(books.directory, head.DEAD)
    books.compact(whole_commits=1_000)
    assert 0 < word(books.directory, head.DEAD) <= dead
    books.compact(whole_commits=0)
    assert word(books.directory, head.DEAD) == 0


def test_after_a_compaction_that_came_to_nothing_no_commit_is_refused_for_the_next(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "room_of", lambda _: Room(64 << 20, 20 << 20))
    with Books(in_memory) as books:
        duty = CompactionDuty(books.journal, Complaints())
        for number in itertools.count(1):
            try:
                books.snapshot("a", number, "x" * 900_000)
            except StoreFullError:
                break
        (in_memory / directories.SETTINGS).unlink()  # so that who compacts it cannot begin
        duty.look_after(time.monotonic())
        assert books.journal.is_being_compacted

        def has_ended() -> bool:
            duty.look_after(time.monotonic())
            return not books.journal.is_being_compacted

        wait_until(has_ended, "it has come to nothing")
        for sequence in range(number, number + 20):
            books.snapshot("a", sequence, "x" * 900_000)
        books.check()


def test_replaced_files_go_at_once_where_room_is_short(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    available = 1 << 40
    monkeypatch.setattr(writer, "room_of", lambda _: Room(1 << 40, available))
    with Books(in_memory) as books:
        books.commit(("a", 1, "x" * 1000))
        duty = CompactionDuty(books.journal, Complaints())
        duty.look_after(time.monotonic())
        compaction = Compaction(books.directory, 0)
        compaction.run()
        books.journal.adopt(compaction.number, compaction.epoch, compaction.source_end, resent=False)
        while books.journal.goes_over():
            duty.go_over()
        duty.look_after(time.monotonic())
        time.sleep(0.1)  # it would be done by a thread
        assert files_of(books.directory, "log") == ["log-1-000000", "log-2-000000"]
        available = books.journal.published
        duty.look_after(time.monotonic())
        wait_until(lambda: files_of(books.directory, "log") == ["log-2-000000"], "they are removed")
        books.check()


def test_a_server_that_is_killed_while_a_store_is_compacted_loses_nothing(path: Path) -> None:
    with ms.connect(path) as store:
        for round_ in range(6):
            for number in range(round_ * 300 + 1, round_ * 300 + 301):
                store.commit_events([event("a", number)])
            store.commit_snapshot(ms.Snapshot("a", round_ * 300 + 300, None))
            store.truncate("a", before=round_ * 300 + 100)
            killer = threading.Timer(0.2 + round_ * 0.15, lambda: kill(store.stats()["server_pid"]))
            killer.start()
            with contextlib.suppress(StoreUnavailableError):
                store.compact()
            killer.join()
            assert store.last_sequence("a") == round_ * 300 + 300
            assert [one.sequence for one in store.get_events("a")] == [*range(round_ * 300 + 100, round_ * 300 + 301)]


def test_a_feed_that_is_read_for_longer_than_the_former_files_are_there_goes_on(in_memory: Path) -> None:
    with Books(in_memory, cap=1 << 25) as books:
        for number in range(1, 13):
            books.commit(("large", number, b"x" * (SEGMENT_SIZE // 5)), ("a", number, None))
        books.snapshot("a", 12, None)
        slow = Reader(books.directory)
        cut = slow.cut()
        batches = cut.feed(ALL)
        found = next(batches)
        books.truncate("a", 10)
        books.compact()
        slow.last_sequence("a")
        found += itertools.chain(*batches)
        assert [one.position for one in found if one.aggregate_id == "large"] == [*range(1, 25, 2)]
        positions = [one.position or 0 for one in found]
        assert positions == sorted(set(positions))
        with pytest.raises(StoreUnavailableError, match="compacted some time before"):
            cut.get_events("large")
        batches = Reader(books.directory).cut().feed(ALL)
        next(batches)
        books.reset()
        with pytest.raises(StoreUnavailableError):
            list(batches)


SECONDS = 6.0


def work(target: str, seed: int) -> dict[str, int]:
    """Count, truncate, and change a table, at random; what was done how often."""
    random = Random(seed)
    done: Counting[str] = Counting()
    with ms.connect(target, timeout=60) as store:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            root = Counter(store, f"counter-{random.randrange(5)}")
            root.evaluate(ms.Command("count"))
            done[root.id] += 1
            if random.random() < 0.05:
                root.snapshot()
                store.truncate(root.id, before=max(0, root.sequence - random.randrange(5)))
            if random.random() < 0.1:
                store.transact(put, f"key-{random.randrange(30)}", f"key-{random.randrange(30)}")
                done["puts"] += 1
    return dict(done)


def put(tx: ms.Transaction, key: str, other: str) -> None:
    table = tx.table("t")
    table["puts"] = table.get("puts", 0) + 1
    table[key] = None
    table.delete(other)


def follow(target: str) -> int:
    """Follow the feed; how many events there were, none twice."""
    last = count = 0
    with ms.connect(target, timeout=60) as store, store.subscribe() as subscription:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if (one := subscription.get(timeout=0.2)) is not None:
                assert (one.position or 0) > last
                last, count = one.position or 0, count + 1
    return count


@pytest.mark.parametrize("durability", ["process", "power"])
def test_nothing_is_lost_where_servers_and_compactions_are_killed(path: Path, durability: str) -> None:
    random = Random(durability)
    with (
        ms.connect(path, durability=durability) as store,
        multiprocessing.get_context("spawn").Pool(3) as pool,
    ):
        working = [pool.apply_async(work, (str(path), seed)) for seed in range(2)]
        following = pool.apply_async(follow, (str(path),))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            killer = threading.Timer(random.random() * 1.5, kill_one, (store, random))
            killer.start()
            with contextlib.suppress(StoreUnavailableError):
                store.compact()
            killer.join()
        done = sum((Counting(each.get(PATIENCE)) for each in working), Counting[str]())
        assert following.get(PATIENCE)
        puts = done.pop("puts", 0)
        assert store.table("t").get("puts", 0) == puts
        for name, times in done.items():
            assert Counter(store, name).fetch() == times == store.last_sequence(name)
        assert store.last_position == done.total()


def kill_one(store: ms.Store, random: Random) -> None:
    """The server, or what compacts its store."""
    directory = os.fsencode(store.stats()["directory"])
    pids = [store.stats()["server_pid"]]
    if random.random() < 0.5:
        pids = [pid for pid, command in commands() if directory in command and b"compactor" in command]
    for pid in pids:
        kill(pid)


def commands() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(entry.parent.name), entry.read_bytes()
