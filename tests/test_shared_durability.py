"""What a loss of power may take: nothing that was acknowledged, where a store waits for the disk."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from books import CAP, Books, commit, events, leave_unpublished, pretend_reboot, set_word, word
from processes import chosen_lines, kill, killed_at_line, named_target, other_package, output_of, servers_of

import maestro_shm as ms
from maestro_shm.errors import CorruptLogError, StoreUnavailableError
from maestro_shm.shared import header as head
from maestro_shm.shared import mapped, places, recovery
from maestro_shm.shared.frame import FRAME_HEADER
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import SEGMENT_SIZE
from maestro_shm.shared.mapped import DiskError, MappedFile
from maestro_shm.shared.reader import Reader


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Books]:
    """The files of a store that waits for the disk."""
    with Books(tmp_path, waits_for_disk=True) as books:
        yield books


def flushes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The flushes from now on: file, and the bytes from where to where."""
    noted: list[tuple[str, int, int]] = []
    flush = MappedFile.flush

    def note(file: MappedFile, start: int = 0, end: int | None = None) -> None:
        flush(file, start, end)
        noted.append((file.path.name, start, file.size if end is None else end))

    monkeypatch.setattr(MappedFile, "flush", note)
    return noted


def break_the_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every flush fail from now on, and note what was to be flushed."""
    asked: list[str] = []

    def fail(file: MappedFile, *_range: int) -> None:
        asked.append(file.path.name)
        raise DiskError(str(file.path.parent), f"the disk did not take {file.path.name!r}: {os.strerror(errno.EIO)}")

    monkeypatch.setattr(MappedFile, "flush", fail)
    return asked


def damage_log(directory: Path, offset: int) -> None:
    with (directory / "log-1-000000").open("r+b", buffering=0) as file:
        before = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([before[0] ^ 1]), offset)


def bytes_at(directory: Path, offset: int, length: int) -> bytes:
    with (directory / "log-1-000000").open("rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def put_bytes(directory: Path, offset: int, data: bytes) -> None:
    with (directory / "log-1-000000").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, offset)


# The files


def test_nobody_sees_a_commit_before_the_disk_has_it(waiting: Books) -> None:
    waiting.commit(("a", 1, "first"))
    waiting.snapshot("a", 1, "state")
    fresh = Reader(waiting.directory)
    for reader in (waiting.reader, fresh):
        assert events(reader, "a") == []
        assert reader.last_sequence("a") is None
        assert reader.snapshot("a") is None
        assert reader.stats()["events"] == 0
    waiting.journal.settle()
    waiting.check(fresh)
    fresh.close()


def test_one_flush_does_for_all_the_commits_since_the_last(waiting: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting.commit(("a", 1, None))
    waiting.journal.settle()
    before = word(waiting.directory, head.PUBLISHED)
    noted = flushes(monkeypatch)
    for sequence in range(2, 6):
        waiting.commit(("a", sequence, None), ("b", sequence, None))
    assert noted == []
    waiting.journal.settle()
    end = word(waiting.directory, head.PUBLISHED)
    assert noted == [("log-1-000000", before, end)]
    assert word(waiting.directory, head.DURABLE) == end > before
    waiting.journal.settle()
    assert len(noted) == 1
    waiting.check()


def test_a_flush_reaches_over_the_end_of_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = "x" * (25 << 20)
    with Books(tmp_path, cap=32 << 20, waits_for_disk=True) as books:
        books.commit(("a", 1, large))
        books.journal.settle()
        noted = flushes(monkeypatch)
        books.commit(("a", 2, large), ("b", 1, None))
        books.commit(("a", 3, large))
        books.journal.settle()
        assert [name for name, *_ in noted] == ["log-1-000000", "log-1-000001"]
        assert noted[0][2] == SEGMENT_SIZE
        books.check()
        books.reboot()
        books.check()


def test_commits_that_waited_for_the_disk_are_undone_together(waiting: Books) -> None:
    waiting.commit(("a", 1, None), ("b", 1, None))
    waiting.snapshot("a", 1, "kept")
    waiting.journal.settle()
    lost = [("a", 2, "lost"), ("new", 1, "lost")], [("a", 3, "lost"), ("b", 2, "lost")], [("new", 2, "lost")]
    for rows in lost:
        commit(waiting.journal, *rows)
    waiting.reopen()
    waiting.check()
    assert waiting.reader.last_sequence("new") is None
    waiting.commit(("a", 2, "again"), ("new", 1, "again"))
    waiting.journal.settle()
    waiting.check()
    waiting.reboot()
    waiting.check()


@pytest.mark.lines
def test_an_undoing_of_several_commits_that_is_killed_at_any_line_is_done_by_the_next(tmp_path: Path) -> None:
    for step in chosen_lines(5):
        with Books(_empty(tmp_path / str(step)), waits_for_disk=True) as books:
            books.commit(("a", 1, None), ("b", 1, None))
            books.journal.settle()
            for sequence in (2, 3, 4):
                commit(books.journal, ("a", sequence, "lost"), (f"new-{sequence}", 1, "lost"))
            books.journal.close()
            killed = killed_at_line(step, lambda books=books: books._open(), within="_undo_unpublished")  # type: ignore[misc] # mypy cannot infer a lambda with a default
            books.journal = books._open()
            books.check()
            books.commit(("a", 2, "new"), ("new-3", 1, "new"))
            books.journal.settle()
            books.check()
        if not killed:
            break
    assert step > 20


def _empty(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_commit_sent_again_before_it_was_settled_has_its_first_outcome(waiting: Books) -> None:
    commit_id = os.urandom(16)
    first = waiting.commit(("a", 1, None), commit_id=commit_id)
    assert commit(waiting.journal, ("a", 1, None), commit_id=commit_id, resent=True) == first
    waiting.journal.settle()
    waiting.check()


def test_a_skip_mark_left_over_from_before_a_loss_of_power_leads_nowhere(tmp_path: Path) -> None:
    with Books(tmp_path, cap=32 << 20) as books:
        for sequence in (1, 2):
            books.commit(("big", sequence, b"x" * (25 << 20)))
        tail = word(tmp_path, head.PUBLISHED)
        commit(books.journal, ("big", 3, b"x" * (25 << 20)))
        (tmp_path / "log-1-000001").write_bytes(bytes(SEGMENT_SIZE))  # its mark has reached the disk, itself has not
        books.reboot()
        books.check()
        mark = bytes_at(tmp_path, tail, 8)
        commit(books.journal, ("lost", 1, None))
        commit(books.journal, ("big", 3, b"x" * (25 << 20)))
        put_bytes(tmp_path, tail, mark)  # this time the disk has the second of two, and of the first nothing
        books.reboot()
        books.check()
        assert books.reader.last_sequence("lost") is None
        books.commit(("big", 3, None))
        books.check()


@pytest.mark.parametrize("waits_for_disk", [False, True])
def test_a_void_mark_left_over_from_before_a_loss_of_power_leads_past_nothing(
    tmp_path: Path, *, waits_for_disk: bool
) -> None:
    with Books(tmp_path, waits_for_disk=waits_for_disk) as books:
        books.commit(("a", 1, None))
        books.journal.settle()
        lost, undone = word(tmp_path, head.PUBLISHED), books.journal._written[3]
        assert lost == undone
        if waits_for_disk:
            commit(books.journal, ("b", 1, "lost"))
            undone = books.journal._written[3]
            commit(books.journal, ("c", 1, "undone"))
        else:
            commit(books.journal, ("b", 1, "lost"))
            undone = word(tmp_path, head.PUBLISHED)
            leave_unpublished(books, ("c", 1, "undone"))
        books.reopen()
        mark = bytes_at(tmp_path, undone, FRAME_HEADER.size)
        put_bytes(tmp_path, lost, bytes(undone - lost))  # the disk has the mark, and not what lies before it
        books.reboot()
        books.check()
        commit(books.journal, ("b", 1, "next"))
        books.note(("b", 1, "next"))
        books.journal.settle()
        assert word(tmp_path, head.PUBLISHED) == undone
        commit(books.journal, ("d", 1, "length"))
        commit(books.journal, ("d", 2, None))
        put_bytes(tmp_path, undone, mark)  # of the first one's page the disk has what was there before
        books.reboot()
        books.check()


def test_of_an_undone_commit_the_disk_needs_no_more_than_its_frames_header(books: Books) -> None:
    books.commit(("a", 1, None))
    tail = word(books.directory, head.PUBLISHED)
    leave_unpublished(books, ("a", 2, "lost"))
    books.reopen()
    books.commit(("a", 2, None))
    put_bytes(books.directory, tail + FRAME_HEADER.size, bytes(56))
    books.reboot()
    books.check()


def test_names_that_a_killed_server_gave_are_on_the_disk_before_the_next_relies_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _empty(tmp_path / "store")
    noted: list[Path] = []
    monkeypatch.setattr(recovery, "flush_directory", noted.append)
    for _ in range(2):
        with Books(store):
            assert noted[-2:] == [store, tmp_path]
        noted.clear()


def test_a_log_lies_nowhere_on_the_disk_without_the_header_that_tells_it_to_be_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _empty(tmp_path / "store")
    noted: list[list[str]] = []
    monkeypatch.setattr(
        recovery, "flush_directory", lambda path: noted.append([entry.name for entry in path.iterdir()])
    )
    recovery.create(store, incarnation=1, epoch=0, clock=0, max_commit_bytes=CAP, waits_for_disk=False).close()
    assert noted == [[recovery.UNFINISHED]]  # its name is there before the log's
    noted.clear()
    with Books(store):  # and once more: the log goes before it, and the next one comes after its own
        assert noted[:2] == [[recovery.UNFINISHED]] * 2


def test_damage_to_what_reached_the_disk_is_refused_and_behind_it_cut(waiting: Books) -> None:
    waiting.commit(("a", 1, None))
    waiting.journal.settle()
    durable = word(waiting.directory, head.DURABLE)
    commit(waiting.journal, ("a", 2, "never acknowledged"))
    waiting.reader.close()
    waiting.journal.close()
    pretend_reboot(waiting.directory)
    damage_log(waiting.directory, durable + 60)
    waiting.reopen()
    waiting.reader = Reader(waiting.directory)
    waiting.check()
    waiting.reader.close()
    waiting.journal.close()
    pretend_reboot(waiting.directory)
    damage_log(waiting.directory, durable - 60)
    with pytest.raises(CorruptLogError, match="the log ends here"):
        Journal.open(waiting.directory, max_commit_bytes=CAP)
    damage_log(waiting.directory, durable - 60)
    waiting.reopen()


def test_what_was_found_after_a_boot_counts_as_on_the_disk(books: Books) -> None:
    books.commit(("a", 1, None))
    assert word(books.directory, head.DURABLE) == 0
    books.reboot()
    assert word(books.directory, head.DURABLE) == word(books.directory, head.PUBLISHED)


def test_a_disk_that_fails_is_asked_no_second_time(waiting: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting.commit(("a", 1, None))
    waiting.journal.settle()
    with monkeypatch.context() as patch:
        asked = break_the_disk(patch)
        commit(waiting.journal, ("a", 2, "not on the disk"))
        with pytest.raises(StoreUnavailableError, match=r"did not take 'log-1-000000'.*whether the commit is kept"):
            waiting.journal.settle()
        waiting.journal.give_up()
        for refused in (
            waiting.journal.reset,
            lambda: commit(waiting.journal, ("b", 1, None)),
            lambda: waiting.snapshot("a", 1, None),
        ):
            with pytest.raises(StoreUnavailableError, match="its disk did not take what was written"):
                refused()
        assert len(asked) == 1
    waiting.check()
    waiting.reopen()  # the same boot: the system may say that all is well, and it is not
    with pytest.raises(StoreUnavailableError, match="python -m maestro_shm repair"):
        commit(waiting.journal, ("a", 2, None))
    waiting.check()
    waiting.reboot()
    waiting.commit(("a", 2, None))
    waiting.journal.settle()
    waiting.check()


def test_a_segment_that_the_disk_does_not_take_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Books(tmp_path, cap=32 << 20) as books:
        large = "x" * (25 << 20)
        for sequence in (1, 2):
            books.commit(("a", sequence, large))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _fail)
            with pytest.raises(DiskError, match="log-1-000001"):
                commit(books.journal, ("a", 3, large))
        with pytest.raises(StoreUnavailableError, match="its disk did not take"):
            commit(books.journal, ("b", 1, None))
        books.check()
        books.reboot()
        books.commit(("a", 3, large))
        books.check()


def _fail(*_: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_void_mark_that_was_not_flushed_is_flushed_by_the_next_recovery(
    waiting: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting.commit(("a", 1, None))
    waiting.journal.settle()
    for key in ("b", "c"):
        commit(waiting.journal, (key, 1, "undone"))
    waiting.journal.close()
    with monkeypatch.context() as patch:
        break_the_disk(patch)
        with pytest.raises(DiskError):
            waiting._open()
    noted = flushes(monkeypatch)
    waiting.journal = waiting._open()
    published = word(waiting.directory, head.PUBLISHED)
    marks = [start for name, start, end in noted if name.startswith("log") and end - start == FRAME_HEADER.size]
    assert len(marks) == 2
    assert all(word(waiting.directory, head.DURABLE) <= start < published for start in marks)
    assert word(waiting.directory, head.DISK_FAILED) == 1
    waiting.check()


def test_the_way_to_a_void_frame_in_the_next_segment_is_flushed_with_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Books(tmp_path, cap=32 << 20, waits_for_disk=True) as books:
        for sequence in (1, 2):
            books.commit(("big", sequence, b"x" * (25 << 20)))
        books.journal.settle()
        tail = word(tmp_path, head.PUBLISHED)
        commit(books.journal, ("big", 3, b"x" * (25 << 20)))
        noted = flushes(monkeypatch)
        others: list[str] = []
        monkeypatch.setattr("maestro_shm.shared.segments.flush_file", lambda path: others.append(path.name))
        books.reopen()
        assert ("log-1-000000", tail, tail + 8) in noted or others == ["log-1-000000"]  # which need not be mapped
        assert ("log-1-000001", 0, FRAME_HEADER.size) in noted
        assert word(tmp_path, head.PUBLISHED) > SEGMENT_SIZE
        books.check()


@pytest.mark.parametrize("call", ["secure", "open"])
def test_a_disk_that_fails_at_the_end_or_the_beginning_is_not_believed_afterwards(
    books: Books, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    books.commit(("a", 1, None))
    with monkeypatch.context() as patch:
        break_the_disk(patch)
        with pytest.raises(DiskError):
            books.journal.secure() if call == "secure" else books.reopen()
    books.reopen()
    books.journal.secure()
    assert word(books.directory, head.DURABLE) == 0
    with pytest.raises(StoreUnavailableError, match="its disk did not take"):
        commit(books.journal, ("a", 2, None))
    books.check()
    books.reboot()
    books.commit(("a", 2, None))
    books.check()


def test_a_commit_sent_again_is_answered_though_the_disk_has_failed_since(
    waiting: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_id = os.urandom(16)
    first = waiting.commit(("a", 1, None), commit_id=commit_id)
    waiting.journal.settle()
    lost_id = os.urandom(16)
    with monkeypatch.context() as patch:
        break_the_disk(patch)
        commit(waiting.journal, ("a", 2, None), commit_id=lost_id)
        with pytest.raises(DiskError):
            waiting.journal.settle()
    waiting.journal.give_up()
    assert commit(waiting.journal, ("a", 1, None), commit_id=commit_id, resent=True) == first
    with pytest.raises(StoreUnavailableError, match="its disk did not take"):
        commit(waiting.journal, ("a", 2, None), commit_id=lost_id, resent=True)


def test_a_reset_whose_disk_fails_tells_those_too_who_wait(waiting: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        break_the_disk(patch)
        commit(waiting.journal, ("a", 1, None))
        for told in (waiting.journal.reset, waiting.journal.settle):
            with pytest.raises(DiskError, match="whether the commit is kept"):
                told()
    waiting.journal.give_up()
    waiting.journal.settle()


def test_a_snapshot_sent_again_is_answered_though_the_disk_has_failed_since(
    waiting: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = os.urandom(16), "a", 1, b""
    assert waiting.journal.commit_snapshot(*sent, resent=False)
    waiting.journal.settle()
    lost = os.urandom(16), "a", 2, b""
    with monkeypatch.context() as patch:
        break_the_disk(patch)
        waiting.journal.commit_snapshot(*lost, resent=False)
        with pytest.raises(DiskError):
            waiting.journal.settle()
    waiting.journal.give_up()
    assert waiting.journal.commit_snapshot(*sent, resent=True)
    with pytest.raises(StoreUnavailableError, match="its disk did not take"):
        waiting.journal.commit_snapshot(*lost, resent=True)


def test_a_disk_that_goes_on_failing_lets_servers_start_for_those_who_read(
    waiting: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting.commit(("a", 1, None))
    waiting.journal.settle()
    commit(waiting.journal, ("b", 1, "undone"))
    break_the_disk(monkeypatch)
    with pytest.raises(DiskError):
        waiting.reopen()
    for _ in range(2):
        waiting.reopen()
        waiting.check()
        with pytest.raises(StoreUnavailableError, match="its disk did not take"):
            commit(waiting.journal, ("a", 2, None))


@pytest.mark.parametrize("begun", [False, True])
def test_a_disk_that_did_not_take_the_names_is_not_believed_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, begun: bool
) -> None:
    store = _empty(tmp_path / "store")
    if begun:
        Books(store).close()
    with monkeypatch.context() as patch:
        flush = mapped.flush_directory

        def fail(path: Path) -> None:
            if path == tmp_path:
                raise DiskError(str(path), "the disk did not take it")
            flush(path)

        patch.setattr(recovery, "flush_directory", fail)
        with pytest.raises(DiskError):
            Books(store)
    with Books(store) as books, pytest.raises(StoreUnavailableError, match="its disk did not take"):
        books.commit(("a", 1, None))


def test_a_reset_that_the_disk_did_not_take_begins_a_store_that_is_not_believed(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "flush_file", _refuse)
        with pytest.raises(DiskError):
            books.reset()
    books.reopen()
    with pytest.raises(StoreUnavailableError, match="its disk did not take"):
        books.commit(("a", 1, None))


def _refuse(path: Path) -> None:
    raise DiskError(str(path), "the disk did not take it")


def test_those_who_wait_for_a_disk_that_fails_elsewhere_hear_that_their_commit_may_be_kept(
    waiting: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(waiting.journal, ("a", 1, None))
    monkeypatch.setattr(waiting.journal._files.log, "reserve", lambda _end: _refuse(waiting.directory))
    with pytest.raises(DiskError):
        commit(waiting.journal, ("b", 1, None))
    with pytest.raises(DiskError, match="whether the commit is kept shows after a restart"):
        waiting.journal.settle()


def test_a_store_goes_on_waiting_for_the_disk_whatever_becomes_of_its_settings(path: Path) -> None:
    with ms.connect(path, durability="power", max_commit_bytes=2 << 20) as store:
        kill(store.stats()["server_pid"])
    (path / "settings").write_text('{"max_commit_bytes": 1048576, "idle_timeout": 30}')
    with ms.connect(path) as store:
        store.commit_events([ms.Event("a", 1, "large", b"x" * (3 << 19))])
        assert word(path, head.DURABLE) == word(path, head.PUBLISHED)
        with pytest.raises(StoreUnavailableError, match="durability='process'"):
            ms.connect(path, durability="power")


def test_a_kill_between_the_scan_and_its_end_costs_a_further_one(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    books.commit(("a", 1, None))
    books.journal.close()
    pretend_reboot(books.directory)
    set_word(books.directory, head.DISK_FAILED, 1)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "_note_boot", _fail)
        with pytest.raises(OSError, match="Input/output"):
            books._open()
    books.journal = books._open()
    books.commit(("a", 2, None))
    books.check()


def test_a_store_may_lie_behind_a_link_to_the_directory_it_is_in(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with ms.connect(tmp_path / "link" / "store") as store:
        store.commit_events([ms.Event("a", 1, "made", None)])
    ms.destroy(tmp_path / "link" / "store")


def test_a_file_system_that_cannot_flush_a_directory_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with Books(tmp_path, waits_for_disk=True) as books:
        books.commit(("a", 1, None))
        books.journal.settle()
        books.check()


# The server

SLOW_DISK = """
import os
import time

from maestro_shm.shared.mapped import MappedFile

flush = MappedFile.flush

def wait(self, *range):
    if self.path.name.startswith("log") and range[1] > 16:
        open({directory!r} + "/flushes", "a").write("x")
        while not os.path.exists({directory!r} + "/go"):
            time.sleep(0.001)
    flush(self, *range)

MappedFile.flush = wait
"""

WORKERS = """
import sys, threading, time, os
sys.path.insert(0, sys.argv[1])
import maestro_shm as ms

def commit(number):
    stores[number].commit_events([ms.Event(f"key-{number}", 1, "made", None)])
    done.append(f"key-{number}")

def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)

def flushes():
    return len(open(sys.argv[3] + "/flushes").read())

done = []
stores = [ms.connect(sys.argv[2], durability="power", timeout=30 + number) for number in range(9)]  # each has its line
store = stores[0]
threads = [threading.Thread(target=commit, args=[number]) for number in range(9)]
threads[0].start()
until(lambda: os.path.exists(sys.argv[3] + "/flushes"))
for thread in threads[1:]:
    thread.start()
time.sleep(0.2)  # all have sent
print(done, store.last_sequence("key-0"), store.stats()["events"])
"""


def test_a_reply_waits_for_the_disk_and_one_flush_does_for_all_who_wait(path: Path, tmp_path: Path) -> None:
    package = other_package(tmp_path, SLOW_DISK.format(directory=str(tmp_path)))
    said = output_of(
        WORKERS
        + """
open(sys.argv[3] + "/go", "w").close()
for thread in threads:
    thread.join()
print(len(done), store.last_sequence("key-0"), flushes())
""",
        package.parent,
        path,
        tmp_path,
    )
    assert said.splitlines() == ["[] None 0", "9 1 2"]


def test_a_server_that_is_told_to_end_while_it_waits_for_the_disk_answers_first(path: Path, tmp_path: Path) -> None:
    package = other_package(tmp_path, SLOW_DISK.format(directory=str(tmp_path)))
    said = output_of(
        WORKERS
        + """
import signal
server = store.stats()["server_pid"]
os.kill(server, signal.SIGTERM)
open(sys.argv[3] + "/go", "w").close()
for thread in threads:
    thread.join()
print(sorted(event.position for key in done for event in store.get_events(key)))
""",
        package.parent,
        path,
        tmp_path,
    )
    assert said.splitlines() == ["[] None 0", str(list(range(1, 10)))]


def test_commits_whose_flush_was_under_way_as_the_server_was_killed_are_made_by_the_next(
    path: Path, tmp_path: Path
) -> None:
    package = other_package(tmp_path, SLOW_DISK.format(directory=str(tmp_path)))
    said = output_of(
        WORKERS
        + """
import signal
os.kill(store.stats()["server_pid"], signal.SIGKILL)
open(sys.argv[3] + "/go", "w").close()
for thread in threads:
    thread.join()
print(len(done), sorted(event.position for key in done for event in store.get_events(key)))
""",
        package.parent,
        path,
        tmp_path,
    )
    assert said.splitlines() == ["[] None 0", f"9 {list(range(1, 10))}"]


FAILING_DISK = """
import os

from maestro_shm.shared.mapped import MappedFile, _disk_error

flush = MappedFile.flush

def fail(self, *range):
    if os.path.exists({directory!r} + "/broken"):
        raise _disk_error(self.path, OSError(5, "Input/output error"))
    flush(self, *range)

MappedFile.flush = fail
"""


def test_a_server_whose_disk_fails_says_so_and_lets_read_on(path: Path, tmp_path: Path) -> None:
    package = other_package(tmp_path, FAILING_DISK.format(directory=str(tmp_path)))
    said = output_of(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import maestro_shm as ms

        def commit(sequence):
            try:
                store.commit_events([ms.Event("a", sequence, "made", None)])
                print("stored")
            except ms.StoreUnavailableError as error:
                print(error.reason)

        store = ms.connect(sys.argv[2], durability="power")
        commit(1)
        open(sys.argv[3] + "/broken", "w").close()
        server = store.stats()["server_pid"]
        commit(2)
        commit(2)
        print(store.last_sequence("a"), store.stats()["server_pid"] == server)
        store.close()
        ms.destroy(sys.argv[2])
        """,
        package.parent,
        path,
        tmp_path,
    )
    first, second, third, last = said.splitlines()
    assert not path.exists()
    assert first == "stored"
    assert second.startswith("the disk did not take 'log-1-000000': Input/output error")
    assert third.startswith("its disk did not take what was written, so nothing more is stored; reads go on")
    assert last == "1 True"


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_server_that_leaves_in_good_order_leaves_everything_on_the_disk(path: Path, durability: str) -> None:
    with ms.connect(path, durability=durability) as store:
        store.commit_events([ms.Event("a", 1, "made", "x" * 100)])
        (server,) = servers_of(path)
    kill(server, signal.SIGTERM)
    assert word(path, head.DURABLE) == word(path, head.PUBLISHED) > 0
    pretend_reboot(path)
    damage_log(path, 100)
    with pytest.raises(CorruptLogError):
        ms.connect(path)


# What may be asked for


def test_durability_is_fixed_when_the_store_is_made(path: Path) -> None:
    ms.connect(path, durability="power").close()
    ms.connect(path).close()
    with pytest.raises(StoreUnavailableError, match="durability='power', not 'process'"):
        ms.connect(path, durability="process")


@pytest.mark.parametrize("wrong", ["", "disk", None.__class__, True, 1])
def test_an_unknown_durability_is_refused(path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match="durability must be 'process' or 'power', not "):
        ms.connect(path, durability=wrong)
    assert not path.exists()


def test_shared_memory_is_not_said_to_outlive_the_power() -> None:
    with named_target() as target, pytest.raises(ValueError, match="needs a path on a disk"):
        ms.connect(target, durability="power")
    with pytest.raises(TypeError, match="durability"):
        ms.connect(durability="power")


# Small shared memory


@pytest.mark.parametrize("target", [None, "shm:NAME"])
def test_small_shared_memory_is_warned_of_with_what_to_do(
    small_file_system: Path, monkeypatch: pytest.MonkeyPatch, target: str | None
) -> None:
    monkeypatch.setattr(places, "_SHARED_MEMORY", small_file_system)
    with pytest.warns(RuntimeWarning, match="room for 3 MiB in all.*--shm-size") as caught:
        ms.connect(target).close()
    assert caught[0].filename == __file__
    if target:
        ms.destroy(target)


def test_a_path_is_not_warned_of(small_file_system: Path) -> None:
    ms.connect(small_file_system / "store").close()
    ms.destroy(small_file_system / "store")
