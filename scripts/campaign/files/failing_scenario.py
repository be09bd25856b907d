"""The life of a small store, step by step, while some system call fails; and what has to be true in the end.

Segments are small here, so that a short life sees many of them: 64 KiB of log, 512 positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from books import Books, Stream, commit, commit_snapshot, events, leave_unpublished, pretend_reboot, word

import maestro_shm as ms
from campaign.files.damage_recovery import WrongError, require
from campaign.files.failing_calls import FailingCalls, replaced
from maestro_shm.errors import StoreError
from maestro_shm.shared import header as head
from maestro_shm.shared import log as logs
from maestro_shm.shared import positions
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.reader import Reader

CAP: Final = 40 << 10
_BIG: Final = "x" * 30_000
_CHECKED: Final = 2
"""After how many failures all is read; where calls go on failing it would be the same again and again."""
_Row = tuple[str, int, Any]


class _UnnoticedError(Exception):
    """A step failed though no call had been made to fail."""


@contextlib.contextmanager
def small_segments() -> Iterator[None]:
    """Let segments be so small that a short scenario fills several."""
    log = {"SEGMENT_BITS": 16, "SEGMENT_SIZE": 1 << 16, "_MASK": (1 << 16) - 1, "_FIRST_STEP": 1 << 13}
    array = {"_SEGMENT_BITS": 12, "_INDEX_BITS": 9, "_INDEX_MASK": (1 << 9) - 1, "_FIRST_STEP": 1 << 12}
    with replaced(logs, log), replaced(positions, array):
        yield


class Scenario:
    """One life. `verdict` says what became of the call that failed."""

    def __init__(self, directory: Path, calls: FailingCalls) -> None:
        self.directory = directory
        self._calls = calls
        self.journal: Journal | None = None
        self._streams: dict[str, Stream] = {}
        self._snapshots: dict[str, tuple[int, Any]] = {}
        self._open_commits: list[tuple[_Row, ...]] = []
        self._open_reset = False
        self.failures = 0

    def live(self) -> str:
        """Go through all steps while calls fail, then compare what is there with what was acknowledged."""
        try:
            with self._calls.installed(), contextlib.suppress(_UnnoticedError):
                for step in self._steps():
                    self._try(step)
        finally:
            self._let_go()
        self._check_end()
        if not self._calls.failed:
            return "none"
        return "refused, then went on" if self.failures else "did without"

    def _steps(self) -> list[Callable[[], None]]:
        return [
            lambda: self._commit(("a", None)),
            lambda: self._commit(("a", "second"), ("b", None)),
            lambda: self._snapshot("a", "snapshot"),
            lambda: self._commit(*((f"key-{number}", number) for number in range(300))),
            lambda: self._commit(("big", _BIG)),
            lambda: self._commit(("big", _BIG), ("a", None)),
            lambda: self._commit(*((f"more-{number}", number) for number in range(240))),
            *(lambda: self._commit(("a", "while the index moves")) for _ in range(4)),
            self._check,
            self._let_go,
            lambda: self._snapshot("a", _BIG),
            self._die_within_a_commit,
            lambda: self._commit(("a", "after a death"), ("new", None)),
            self._reboot,
            lambda: self._commit(("a", "after another boot")),
            self._check,
            self._reset,
            lambda: self._commit(("a", "in the next incarnation"), ("b", None)),
            lambda: self._snapshot("b", None),
            self._let_go,
            lambda: self._commit(("b", _BIG)),
        ]

    def _try(self, step: Callable[[], None]) -> None:
        """Do a step; where it fails since a call did, do it again, unless calls go on failing."""
        if self._failed(step) and not self._calls.lasting:
            require(not self._failed(step), "it failed again")

    def _failed(self, step: Callable[[], None]) -> bool:
        before = self._calls.failed
        try:
            if self.journal is None and step != self._check:
                self.journal = Journal.open(self.directory, max_commit_bytes=CAP)
                self._settle()
            step()
        except (StoreError, OSError) as error:
            self._note_failure(error, noticed=self._calls.failed > before)
            return True
        return False

    def _note_failure(self, error: Exception, *, noticed: bool) -> None:
        self.failures += 1
        if not noticed:
            if self._disk_has_failed():
                # What a disk failed to take is not asked for again: whoever has this store may have no more of it.
                raise _UnnoticedError from error
            raise WrongError(f"a step failed without a cause: {type(error).__name__}: {error}") from error
        if self.journal is not None and self.journal.is_broken:
            self._let_go()
        elif self.journal is not None:
            self._settle()
        if self.failures <= _CHECKED:
            self._check()

    def _commit(self, *rows: tuple[str, Any]) -> None:
        numbered = tuple((key, self._next_sequence(key), body) for key, body in rows)
        assert self.journal is not None
        self._open_commits.append(numbered)
        commit(self.journal, *numbered)
        self._open_commits.remove(numbered)
        self._note(numbered)

    def _snapshot(self, key: str, body: Any) -> None:
        assert self.journal is not None
        sequence = self._snapshots.get(key, (0, None))[0] + 1
        stored = commit_snapshot(self.journal, key, sequence, body)
        require(stored, "a newer snapshot was not stored")
        self._snapshots[key] = sequence, body

    def _reset(self) -> None:
        assert self.journal is not None
        self._open_reset = True
        self.journal.reset()
        self._settle()

    def _die_within_a_commit(self) -> None:
        row = ("a", self._next_sequence("a"), "undone")
        try:
            leave_unpublished(self, row, ("undone", 1, None))  # type: ignore[arg-type] # it takes the journal, as of Books
        except pytest.fail.Exception as error:
            raise WrongError(f"a commit got through without being published: {error}") from None
        self._let_go()

    def _reboot(self) -> None:
        self._let_go()
        if (self.directory / head.NAME).exists():
            with self._calls.paused():
                pretend_reboot(self.directory)
        self.journal = Journal.open(self.directory, max_commit_bytes=CAP)

    def _let_go(self) -> None:
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def _next_sequence(self, key: str) -> int:
        stream = self._streams.get(key)
        return stream[-1][0] + 1 if stream else 1

    def _note(self, rows: tuple[_Row, ...]) -> None:
        for key, sequence, body in rows:
            self._streams.setdefault(key, []).append((sequence, body))

    def _settle(self) -> None:
        """Find out what became of a reset or commit that failed: it may have been done, but then all of it.

        One that failed by a write has not been done. A reset that broke off is finished by the next server.
        """
        with self._calls.paused(), contextlib.closing(Reader(self.directory)) as reader:
            if self._open_reset:
                self._open_reset = False
                if reader.last_sequence("key-0") is None:
                    self._streams, self._snapshots = {}, {}
            for rows in self._open_commits:
                key, sequence, _ = rows[0]
                if (reader.last_sequence(key) or 0) >= sequence:
                    require(self._calls.group == "flushing", f"a commit that was refused is there: {key} {sequence}")
                    self._note(rows)
            self._open_commits.clear()

    def _check(self) -> None:
        """What was acknowledged can be read at any time, also after a failure and without a server."""
        if self._open_reset or not (self.directory / head.NAME).exists():
            require(self._open_reset or not self._streams, "the store is gone")
            return
        with self._calls.paused(), contextlib.closing(Reader(self.directory)) as reader:
            for key, stream in self._streams.items():
                require(events(reader, key)[: len(stream)] == stream, f"stream {key} is another one")
            for key, (sequence, body) in self._snapshots.items():
                require(reader.snapshot(key) == ms.Snapshot(key, sequence, body), f"the snapshot of {key} is another")

    def _check_end(self) -> None:
        """A new server finds all that was acknowledged and nothing else, and goes on."""
        if self._disk_has_failed():
            pretend_reboot(self.directory)
        with Books(self.directory, cap=CAP) as books:
            self._settle()
            books.streams, books.snapshots = self._streams, self._snapshots
            books.check()
            self._commit_to(books)
            books.reopen()
            books.check()
            books.reboot()
            books.check()

    def _disk_has_failed(self) -> bool:
        return (self.directory / head.NAME).exists() and word(self.directory, head.DISK_FAILED) == 1

    def _commit_to(self, books: Books) -> None:
        """Into a known stream, and into so many new ones that the index may have to grow."""
        rows = [("a", self._next_sequence("a"), "in the end"), *((f"last-{number}", 1, None) for number in range(20))]
        books.commit(*rows)
        books.snapshot("last", 1, "in the end")
