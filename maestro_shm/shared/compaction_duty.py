"""What a server has to do with compactions: to begin those that nobody asked for, to finish all, and to sweep up."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreError
from maestro_shm.shared import launch
from maestro_shm.shared.complaints import Complaints
from maestro_shm.shared.journal import Journal

_GRACE: Final = 60.0
"""Seconds for which the files that a compaction replaced keep their names, for cuts that are held."""
_PAUSE: Final = 3
"""Between two that nobody asked for, as a multiple of what the first took: the store is to have most of the time."""
_PAUSE_IN_VAIN: Final = 300.0
"""Seconds from the beginning of one to the next, where the first has come to nothing."""
_LONGEST_WAIT: Final = 30.0
"""Seconds for which commits are refused for the sake of one that is under way."""


class CompactionDuty:
    """For one journal.

    To let go of replaced files takes 0.1 ms for each MiB, and to remove them 0.2, so threads do it (which hold no lock
    then).
    """

    def __init__(self, journal: Journal, complaints: Complaints) -> None:
        self._journal = journal
        journal.leaves_room = True
        self._complaints = complaints
        self._sweep_due = 0.0  # what a former server may have left
        self._compactor: launch.Compactor | None = None
        self._begun = 0.0
        self._former = 0
        """Which files it was to compact."""
        self._due = self._due_without_room = 0.0
        """When the next one may begin."""

    def go_over(self) -> None:
        """Do a little of what is left of a compaction. If that breaks the journal it says so."""
        try:
            if (former := self._journal.go_over()) is not None:
                _aside(former.close)
        except Exception:  # noqa: BLE001 (whatever fails, the server goes on with the files that it has)
            self._complaints.about_exception()
        self._sweep_due = time.monotonic() + _GRACE

    def look_after(self, now: float) -> None:
        """Begin what is due, and remove what is."""
        if self._compactor is not None and self._compactor.has_ended:
            self._compactor = None
            self._note_end(now, has_succeeded=self._journal.number != self._former)
        elif self._compactor is not None and now - self._begun > _LONGEST_WAIT:
            self._journal.leaves_room = False
        is_due = now >= self._sweep_due or (self._sweep_due < math.inf and self._journal.is_short_of_room)
        if is_due and not self._journal.goes_over():
            self._sweep_due = math.inf
            if former := self._journal.former_files():
                _aside(partial(_remove, former))
        if self._compactor is None and self._is_due(now):
            self._begin(now)

    def _is_due(self, now: float) -> bool:
        if self._journal.lacks_room:
            return now >= self._due_without_room
        return now >= self._due and self._journal.is_mostly_dead

    def _begin(self, now: float) -> None:
        self._begun, self._former = now, self._journal.number
        self._due = self._due_without_room = now + _PAUSE_IN_VAIN
        self._journal.lacks_room = False
        try:
            self._compactor = launch.Compactor(self._journal.directory)
            self._journal.is_being_compacted = True
        except StoreError:
            self._complaints.about_exception()
            self._journal.leaves_room = False

    def _note_end(self, now: float, *, has_succeeded: bool) -> None:
        self._journal.is_being_compacted = False
        self._journal.leaves_room = has_succeeded  # what comes to nothing is not worth a refused commit
        if has_succeeded:
            self._due, self._due_without_room = now + _PAUSE * (now - self._begun), now


def _aside(work: Callable[[], None]) -> None:
    """In a thread, or here where the system lets us have no further one."""
    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError:
        work()


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
