"""Journals with a fault in what they do when there is no room. Each counts how often its fault has come to effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final
from unittest import mock

from books import word

from campaign.files.failing_calls import Group
from campaign.files.tally import DIED, WRONG
from maestro_shm.errors import StoreFullError
from maestro_shm.shared import mapped
from maestro_shm.shared.frame import FRAME_HEADER, RECORD_HEADER
from maestro_shm.shared.header import GENERATION, INCARNATION, LAST_POSITION, NAME, PUBLISHED, RETIRED
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import SEGMENT_BITS, START
from maestro_shm.shared.rows import Row

_commit_events: Final = Journal.commit_events
_open: Final = Journal.open
_FIRST_SEGMENT: Final = "log-1-000000"
_Outcome = tuple[int, list[int]]


class Plant:
    """A fault, and how often it came to effect."""

    name: str

    def __init__(self) -> None:
        self.struck = 0

    def planted(self) -> AbstractContextManager[object]:
        """Have the fault for a while."""
        raise NotImplementedError


class JournalPlant(Plant):
    """A fault in `Journal.commit_events`: what it does where there is no room, or a call has failed."""

    def planted(self) -> AbstractContextManager[object]:
        plant = self

        def commit_events(journal: Journal, commit_id: bytes, rows: Sequence[Row], resent: object) -> _Outcome:
            try:
                return plant.before(lambda: _commit_events(journal, commit_id, rows, resent))
            except (StoreFullError, mapped.DiskError, OSError):
                return plant.meet(journal, commit_id, rows)

        return mock.patch.object(Journal, "commit_events", commit_events)

    def before(self, commit: Callable[[], _Outcome]) -> _Outcome:
        return commit()

    def meet(self, journal: Journal, commit_id: bytes, rows: Sequence[Row]) -> _Outcome:
        """Called where the error is handled; raises it again, or not."""
        raise NotImplementedError


class FalseSuccess(JournalPlant):
    """A commit that failed is acknowledged."""

    name = "false success"

    def meet(self, journal: Journal, commit_id: bytes, rows: Sequence[Row]) -> _Outcome:  # noqa: ARG002 (of the base)
        self.struck += 1
        return 1, [1] * len(rows)


class HalfCommit(JournalPlant):
    """Of a commit that failed the first event is stored."""

    name = "half a commit"

    def meet(self, journal: Journal, commit_id: bytes, rows: Sequence[Row]) -> _Outcome:
        if len(rows) > 1:
            try:
                _commit_events(journal, commit_id, rows[:1], None)
            except Exception:  # noqa: BLE001 (then there is no half either)
                pass
            else:
                self.struck += 1
        raise  # noqa: PLE0704 (the error that is being handled)


class ChangedByte(JournalPlant):
    """As a commit fails, a byte of the first event changes."""

    name = "a changed byte"

    def meet(self, journal: Journal, commit_id: bytes, rows: Sequence[Row]) -> _Outcome:  # noqa: ARG002 (of the base)
        if not self.struck and journal._words[LAST_POSITION]:
            offset = journal._files.positions.offset(1)
            file = journal._files.log._segments.open(offset >> SEGMENT_BITS)
            file.data[offset + RECORD_HEADER.size] ^= 1
            self.struck += 1
        raise  # noqa: PLE0704 (the error that is being handled)


class ShutForEver(JournalPlant):
    """After one commit that failed all do."""

    name = "shut for ever"

    def before(self, commit: Callable[[], _Outcome]) -> _Outcome:
        if self.struck:
            raise StoreFullError("directory", 1, 1)
        return commit()

    def meet(self, journal: Journal, commit_id: bytes, rows: Sequence[Row]) -> _Outcome:  # noqa: ARG002 (of the base)
        self.struck += 1
        raise  # noqa: PLE0704 (the error that is being handled)


class ChangedByteAtOpening(Plant):
    """As a journal cannot be opened, a byte of the first record changes."""

    name = "a changed byte at opening"

    def planted(self) -> AbstractContextManager[object]:
        def opening(directory: Path, *, max_commit_bytes: int, waits_for_disk: bool = False) -> Journal:
            try:
                return _open(directory, max_commit_bytes=max_commit_bytes, waits_for_disk=waits_for_disk)
            except (mapped.DiskError, OSError):
                self._change_byte(directory)
                raise

        return mock.patch.object(Journal, "open", opening)

    def _change_byte(self, directory: Path) -> None:
        log = directory / _FIRST_SEGMENT
        offset = START + FRAME_HEADER.size + RECORD_HEADER.size
        if not self.struck and log.exists() and self._is_read(directory, offset):
            with log.open("r+b") as file:
                file.seek(offset)
                key = file.read(1)
                file.seek(offset)
                file.write(bytes([key[0] ^ 1]))
            self.struck += 1

    @staticmethod
    def _is_read(directory: Path, offset: int) -> bool:
        """Whether there is a record in the first segment, which is not one of an earlier incarnation."""
        if not (directory / NAME).exists() or word(directory, GENERATION) == RETIRED:
            return False
        return word(directory, INCARNATION) == 1 and word(directory, PUBLISHED) > offset


CALL_PLANTS: Final[dict[Group, tuple[type[Plant], ...]]] = {
    "writing": (FalseSuccess, HalfCommit, ChangedByte, ShutForEver, ChangedByteAtOpening),
    # A disk that failed to take something gets no further commit, so no half of one either, and is shut for ever.
    "flushing": (FalseSuccess, ChangedByte, ChangedByteAtOpening),
}
JOURNAL_PLANTS: Final = (FalseSuccess, HalfCommit, ChangedByte, ShutForEver)


def holes() -> AbstractContextManager[object]:
    """Space is not taken before it is written to."""

    def take_nothing(*_: Any) -> None:
        pass

    return mock.patch.object(mapped, "_fallocate", take_nothing)


_HOLES_IN_A_SERVER: Final = """\
from maestro_shm.shared import mapped
def take_nothing(*_):
    struck()
mapped._fallocate = take_nothing
"""
_FALSE_SUCCESS_OF_A_SERVER: Final = """\
from maestro_shm.errors import StoreFullError
from maestro_shm.shared.journal import Journal
def commit_events(journal, commit_id, rows, resent, sound=Journal.commit_events):
    try:
        return sound(journal, commit_id, rows, resent)
    except StoreFullError:
        struck()
        return 1, [1] * len(rows)
Journal.commit_events = commit_events
"""
SERVER_PLANTS: Final = ((_HOLES_IN_A_SERVER, DIED), (_FALSE_SUCCESS_OF_A_SERVER, WRONG))
"""What a server begins with, and what has to come of it. It calls `struck` where the fault comes to effect."""


def telling(source: str, marker: Path) -> str:
    """The source, with a `struck` that leaves a file."""
    return f"def struck():\n    open({str(marker)!r}, 'w').close()\n{source}"
