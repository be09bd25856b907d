"""The server's part in a compaction: to bring over what was committed since, a little at a time between requests."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from maestro_shm.errors import CorruptLogError
from maestro_shm.shared import header as head
from maestro_shm.shared import recovery
from maestro_shm.shared.copyist import Copyist
from maestro_shm.shared.log import Log

_SLICE: Final = 16
"""Records that are brought over at once: a millisecond's work, unless a commit has more."""
_PER_COMMITTED: Final = 2
_SAME: Final = (head.LAST_POSITION, head.AGGREGATES, head.TRUNCATED)


class Succession:
    """From a log that is written to the next set of files, where it has been copied up to an offset."""

    def __init__(self, directory: Path, former: memoryview, log: Log, source_end: int) -> None:
        self._former = former
        self._log = log
        self._source_end = source_end
        self._published = former[head.PUBLISHED]
        self.files: Final = recovery.take_over(directory, former)
        self._copyist = Copyist(self.files)

    def advance(self) -> bool:
        """Bring over some more of what is published; whether all is there. Raises `StoreFullError`, `CorruptLogError`.

        Where much is committed meanwhile it is twice that, or it would never be done.
        """
        begun, end = self._source_end, self._former[head.PUBLISHED]
        enough = begun + _PER_COMMITTED * (end - self._published)
        self._published = end
        records = 0
        for frame, found in self._log.whole_frames(begun):
            if frame.offset >= end or (records >= _SLICE and frame.offset >= enough):
                break
            if found:
                self._copyist.append(frame, found)
            self._source_end = frame.end
            records += len(found)
        if begun == self._source_end < end:
            raise self._log.damage(begun, "no whole commit is found here")
        return self._source_end >= end

    def complete(self) -> None:
        """Let the header say all that the former one does. Raises `CorruptLogError` if the two cannot be the same."""
        words, former = self.files.header.words, self._former
        for word in _SAME:
            if words[word] != former[word]:
                raise CorruptLogError(str(self.files.header.path), word * 8, f"{words[word]} instead of {former[word]}")
        for word in (head.CLOCK, head.EPOCH, head.SERVER_PID, head.CLIENTS, head.WAITS_FOR_DISK, head.DISK_FAILED):
            words[word] = former[word]
        words[head.COMPACTIONS] = former[head.COMPACTIONS] + 1
        words[head.SHORTER] = former[head.SHORTER] + former[head.PUBLISHED] - words[head.PUBLISHED]
        words[head.FIRST_EPOCH] = 0
        self.files.log.flush(words[head.DURABLE], words[head.PUBLISHED])
        words[head.DURABLE] = words[head.PUBLISHED]

    def close(self) -> None:
        """Let go of the files."""
        self.files.close()
