"""What became of commits that are sent again since their reply was lost: the log has their ids."""

from __future__ import annotations

from collections.abc import Sequence

from maestro_shm.shared.frame import ENTRY, EVENT, Frame
from maestro_shm.shared.header import DISK_FAILED, PUBLISHED
from maestro_shm.shared.heads import Heads
from maestro_shm.shared.log import Log
from maestro_shm.shared.rows import ChangeRow, Row, entry_key, key_of

Answer = tuple[int, list[int]]
"""The position of a commit's first event, and the timestamps of all."""


class Outcomes:
    """Of one incarnation's commits. The first record of each tells."""

    def __init__(self, log: Log, heads: Heads, words: memoryview) -> None:
        self._log = log
        self._heads = heads
        self._words = words

    def of_commit(self, commit_id: bytes, rows: Sequence[Row], changes: Sequence[ChangeRow]) -> Answer | None:
        """The answer that it had; None if it has not been carried out."""
        if rows:
            aggregate_id, sequence, _, _ = rows[0]
            frame = self._done(EVENT, key_of(aggregate_id), sequence, commit_id)
        else:
            table, key, version, _ = changes[0]
            frame = self._done(ENTRY, entry_key(table, key), version, commit_id)
        if frame is None:
            return None
        return frame.first_position, [record.timestamp for record in self._log.records(frame) if record.kind == EVENT]

    def has_record(self, kind: int, key: bytes, sequence: int, commit_id: bytes) -> bool:
        """Whether a commit of one record has been carried out."""
        return self._done(kind, key, sequence, commit_id) is not None

    def _done(self, kind: int, key: bytes, sequence: int, commit_id: bytes) -> Frame | None:
        """The frame of a commit that may be answered as done: published, or about to be by a disk that works."""
        frame = self._frame_of(kind, key, sequence, commit_id) if type(sequence) is int else None
        return frame if frame and (frame.end <= self._words[PUBLISHED] or not self._words[DISK_FAILED]) else None

    def _frame_of(self, kind: int, key: bytes, sequence: int, commit_id: bytes) -> Frame | None:
        _, offset, found = self._heads.get(kind, key)
        while offset and found > sequence:
            offset = self._log.read(offset)[1]
            found = self._log.read(offset)[0] if offset else -1
        if not offset or found != sequence:
            return None
        frame = self._log.frame_of(offset)
        return frame if frame.commit_id == commit_id else None
