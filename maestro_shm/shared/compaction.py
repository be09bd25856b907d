"""What is live of a store's log, copied into its next set of files, beside the present ones and while they are written.

The server has no part in it until all is there but the newest commits; those it brings over by itself (succession.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from maestro_shm.errors import CorruptLogError, StoreUnavailableError
from maestro_shm.shared import header as head
from maestro_shm.shared import recovery
from maestro_shm.shared.copyist import Copyist
from maestro_shm.shared.header import RETIRED
from maestro_shm.shared.living import WHOLE_COMMITS, Living
from maestro_shm.shared.log import START, Log
from maestro_shm.shared.view import open_view

_NEARLY_THERE: Final = 1 << 15
"""Bytes that may be left to the server."""
_MOST_ROUNDS: Final = 50


class Compaction:
    """One try. Raises `StoreUnavailableError` if the store is reset or gets another server meanwhile."""

    def __init__(self, directory: Path, whole_commits: int = WHOLE_COMMITS) -> None:
        self._directory = directory
        header = head.open_header(directory)
        self._words = header.words
        self.epoch: Final = self._words[head.EPOCH]
        self.number: Final = self._words[head.INCARNATION] + 1
        """That of the next set of files."""
        self._log = Log(directory, self._words[head.INCARNATION], writable=False)
        self._published = self._words[head.PUBLISHED]
        index = open_view(directory, header, self._log).index
        self._index_capacity = index.capacity  # so that it need not grow on the way
        self._living = Living(self._words, self._log, index, self._published, whole_commits)
        self.source_end = START
        """Up to here the present log is copied."""

    def run(self) -> None:
        """Copy, until hardly anything is left. Raises `StoreFullError`, `CorruptLogError`."""
        self._check_is_same()
        successor = recovery.create_successor(self._directory, self._words, self._index_capacity)
        try:
            copyist = Copyist(successor)
            self._copy(copyist, self._published)
            successor.header.words[head.COMPACTED] = copyist.end
            for _ in range(_MOST_ROUNDS):
                if self._words[head.PUBLISHED] - self.source_end < _NEARLY_THERE:
                    break
                self._copy(copyist, self._words[head.PUBLISHED])
            successor.log.flush(0, copyist.end)
            successor.header.words[head.DURABLE] = copyist.end
            successor.header.flush()
        except BaseException as error:
            shutil.rmtree(self._directory / recovery.SUCCESSOR, ignore_errors=True)  # a full disk needs the room
            if isinstance(error, CorruptLogError):
                self._check_is_same()  # else the files are gone
            raise
        finally:
            successor.close()

    def _copy(self, copyist: Copyist, end: int) -> None:
        """Copy the frames up to an offset. What is above the first one is whole."""
        for frame, records in self._log.whole_frames(self.source_end):
            if frame.offset >= end:
                break
            self._check_is_same()
            kept = self._living.of(frame, records) if frame.offset < self._published else records
            if kept:
                copyist.append(frame, kept)
            self.source_end = frame.end
        if self.source_end < end:
            raise self._log.damage(self.source_end, "no whole commit is found here")

    def _check_is_same(self) -> None:
        if self._words[head.GENERATION] == RETIRED or self._words[head.EPOCH] != self.epoch:
            raise StoreUnavailableError(
                str(self._directory), "it was reset, or got another server, while it was compacted"
            )
