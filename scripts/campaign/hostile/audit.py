"""A look at each frame of a store's log: what lies there must be what a journal may write, whoever asked it to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from maestro_shm import codec
from maestro_shm.clock import MAX_TIMESTAMP
from maestro_shm.records import MAX_SEQUENCE, Event
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import EVENT, SNAPSHOT, Frame, Record
from maestro_shm.shared.log import START, Log


@dataclass
class Audit:
    """What was found in a log, and what is wrong with it."""

    faults: Counter[str] = field(default_factory=Counter)
    frames: Counter[bytes] = field(default_factory=Counter)
    """By the key of their first record."""
    honest: list[Event] = field(default_factory=list)
    _last: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)
    _position: int = 0
    _end: int = START

    def expect(self, good: object, what: str) -> None:
        if not good:
            self.faults[what] += 1

    def look_at(self, frame: Frame, records: list[Record]) -> None:
        self.frames[records[0].key] += 1
        self._end = frame.end
        self.expect(frame.records == len(records) and frame.first_position == self._position + 1, "frame")
        for record in records:
            self._look_at_record(record)
        self.expect(frame.aggregates == self.aggregates, "number of aggregates")

    def compare(self, words: memoryview) -> None:
        """With what the header says."""
        self.expect(words[head.PUBLISHED] == self._end, "end of the log")
        self.expect(words[head.LAST_POSITION] == self._position, "last position")
        self.expect(words[head.AGGREGATES] == self.aggregates, "number of aggregates")

    @property
    def aggregates(self) -> int:
        return sum(kind == EVENT for kind, _ in self._last)

    def _look_at_record(self, record: Record) -> None:
        sequence, offset = self._last.get((record.kind, record.key), (-1, 0))
        self._last[record.kind, record.key] = record.sequence, record.offset
        self.expect(record.kind in (EVENT, SNAPSHOT), "kind")
        self.expect(0 < len(record.key) < 1 << 16 and _is_text(record.key), "aggregate id")
        self.expect(sequence < record.sequence <= MAX_SEQUENCE, "sequence")
        self.expect(record.previous == offset, "way back")
        self.expect(record.timestamp <= MAX_TIMESTAMP, "timestamp")
        self._position += record.kind == EVENT
        self.expect(record.position == (self._position if record.kind == EVENT else 0), "position")


def audit(directory: Path, honest: str) -> Audit:
    """Look at the whole log of a store, and take the events of one aggregate from it."""
    found = Audit()
    header = head.open_header(directory)
    try:
        for frame, records in _frames(directory, header.words[head.INCARNATION]):
            found.look_at(frame, records)
            found.honest += [_event(record, honest) for record in records if record.key == honest.encode()]
        found.compare(header.words)
    finally:
        header.close()
    return found


def _frames(directory: Path, incarnation: int) -> Iterator[tuple[Frame, list[Record]]]:
    log = Log(directory, incarnation, writable=False)
    try:
        yield from log.whole_frames(START)
    finally:
        log.close()


def _event(record: Record, aggregate_id: str) -> Event:
    return codec.unpack_event(aggregate_id, record.sequence, record.timestamp, record.position, record.payload)


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
