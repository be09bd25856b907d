"""Building a store anew, beside the damaged one, from the whole commits of its log.

They go through the ordinary writer, so that every rule of the data is checked again; with their ids, so that one which
is sent again is still known. Sequences, timestamps and payloads stay; positions count on without gaps.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from maestro_shm.clock import MAX_TIMESTAMP
from maestro_shm.errors import ConflictError, InvalidEntryError, InvalidEventError, StoreError, TruncationError
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared import recovery
from maestro_shm.shared.damage import Hole, Refusal, Report, Shift
from maestro_shm.shared.diagnosis import Diagnosis
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.frame import ENTRY, EVENT, FLOOR, SNAPSHOT, TABLE, Record
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import SEGMENT_BITS, SEGMENT_SIZE
from maestro_shm.shared.rows import ChangeRow, Row
from maestro_shm.shared.salvage import Piece, Salvage
from maestro_shm.shared.survey import Survey


def rebuild(directory: Path, settings: Settings, found: Diagnosis, report: Report) -> None:
    """Build the next incarnation, as yet unpublished, and report what is in it. Raises `StoreFullError`."""
    files = recovery.create(
        directory,
        incarnation=found.incarnation + 1,
        epoch=found.epoch,
        clock=0,
        max_commit_bytes=max(settings.max_commit_bytes, found.max_commit_bytes),
        waits_for_disk=False,  # not while it is copied
    )
    words = files.header.words
    try:
        journal = Journal(directory, files)
        with closing(Salvage(directory, found.incarnation)) as salvage:
            copy = _Copy(journal, words, salvage, report)
            survey = Survey(salvage, found.ends)
            gaps = 0
            for piece in survey.live():
                copy.add(piece, is_behind_gap=len(survey.gaps) > gaps)
                gaps = len(survey.gaps)
            copy.put_floors()
        if found.last_position is not None:
            copy.expect(found.last_position + 1)
        words[head.CLOCK] = max(words[head.CLOCK], found.clock)
        words[head.WAITS_FOR_DISK] = found.waits_for_disk
        words[head.SERVER_PID] = 0
        journal.secure()
    finally:
        files.close()


class _Copy:
    """Commits what is whole, and keeps account of what lies between."""

    def __init__(self, journal: Journal, words: memoryview, salvage: Salvage, report: Report) -> None:
        self._journal = journal
        self._words = words
        self._salvage = salvage
        self._report = report
        self._next_position = 1
        self._shift = 0
        self._saved: dict[bytes, tuple[int, int]] = {}
        """Offset and sequence of each stream's newest record that was saved."""
        self._floors: dict[bytes, tuple[Piece, Record]] = {}
        """The newest of each stream."""

    def add(self, piece: Piece, *, is_behind_gap: bool) -> None:
        """Commit what a frame holds, or report why it cannot be."""
        assert piece.frame is not None  # noqa: S101 (for the type checker)
        if is_behind_gap:  # else what positions are missing was truncated, and given back by a compaction
            self.expect(piece.frame.first_position)
        self._next_position = piece.next_position or self._next_position
        if [record.kind for record in piece.records] == [FLOOR]:
            self._floors[piece.records[0].key] = piece, piece.records[0]
            return
        try:
            position = self._commit(piece.frame.commit_id, piece.records)
        except (InvalidEventError, InvalidEntryError, ConflictError) as error:
            self._refuse(piece, error)
            return
        self._report.commits += 1
        if position is not None:
            self._note_events(piece.records, position)

    def put_floors(self) -> None:
        """Truncate again what was; at the end, when the snapshots are there that newer ones have replaced.

        Where a stream's snapshot is lost and all of its truncated events are there, they are shown again.
        """
        for piece, floor in self._floors.values():
            assert piece.frame is not None  # noqa: S101 (for the type checker)
            _, of_stream, _, _ = frames.TRUNCATED.unpack(floor.payload)
            try:
                aggregate_id = _aggregate_id(floor.key)
                self._journal.truncate_anew(piece.frame.commit_id, aggregate_id, floor.sequence, of_stream)
                self._report.commits += 1
            except (InvalidEventError, TruncationError) as error:
                self._refuse(piece, error)

    def _refuse(self, piece: Piece, error: StoreError) -> None:
        path = str(self._salvage.path(piece.start >> SEGMENT_BITS))
        self._report.refusals.append(Refusal(path, piece.start % SEGMENT_SIZE, str(error)))

    def expect(self, position: int) -> None:
        """Report what is missing in front of the event that had this position, or would have got it next."""
        if (missing := position - self._next_position) > 0:
            self._report.lost_events += missing
            self._report.lost_places += 1

    def _commit(self, commit_id: bytes, records: list[Record]) -> int | None:
        """The position of the first event, or None where there is none."""
        kinds = [record.kind for record in records]
        if kinds == [SNAPSHOT]:
            (snapshot,) = records
            key = _aggregate_id(snapshot.key)
            if not self._journal.commit_snapshot(commit_id, key, snapshot.sequence, snapshot.payload, resent=False):
                raise InvalidEventError("there is a snapshot that is not older", key, snapshot.sequence)
            return None
        if not {EVENT, ENTRY, TABLE}.issuperset(kinds):
            raise InvalidEventError("a commit holds events and changes of tables, or one snapshot, or one truncation")
        events = [record for record in records if record.kind == EVENT]
        self._wind_clock(events)
        changes = [_change_row(record) for record in records if record.kind == ENTRY]  # what keys come is told anew
        position, _ = self._journal.commit(commit_id, list(map(_row, events)), changes, [], resent=False)
        return position if events else None

    def _wind_clock(self, records: list[Record]) -> None:
        """Let the clock come to those timestamps which only it may give."""
        late = [record.timestamp for record in records if record.timestamp > MAX_TIMESTAMP]
        if late:
            self._journal.wind_clock(late[0] - 1)

    def _note_events(self, records: list[Record], first_position: int) -> None:
        events = [record for record in records if record.kind == EVENT]
        self._report.events += len(events)
        for position, record in enumerate(events, first_position):
            if (shift := record.position - position) != self._shift:
                self._shift = shift
                self._report.shifts.append(Shift(record.position, shift))
        for record in events:
            offset, sequence = self._saved.get(record.key, (0, None))
            if record.previous not in (0, offset):
                hole = Hole(sequence, record.sequence)
                self._report.holes.setdefault(_aggregate_id(record.key), []).append(hole)
            self._saved[record.key] = record.offset, record.sequence


def _row(record: Record) -> Row:
    given = record.timestamp if record.timestamp <= MAX_TIMESTAMP else None
    return _aggregate_id(record.key), record.sequence, given, record.payload


def _change_row(record: Record) -> ChangeRow:
    table, _, key = record.key.partition(b"\0")
    return _aggregate_id(table), _aggregate_id(key), record.sequence, record.payload


def _aggregate_id(key: bytes) -> str:
    """What the journal refuses if the key is none."""
    return key.decode(errors="surrogateescape")
