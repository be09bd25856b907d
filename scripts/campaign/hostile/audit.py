"""A look at each frame of a store's log: what lies there must be what a journal may write, whoever asked it to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from maestro_shm import codec
from maestro_shm.clock import LARGEST_TIMESTAMP
from maestro_shm.records import MAX_SEQUENCE, Event
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import ENTRY, EVENT, KINDS, TABLE, Frame, Record
from maestro_shm.shared.log import START, Log


@dataclass
class Audit:
    """What was found in a log, and what is wrong with it."""

    faults: Counter[str] = field(default_factory=Counter)
    frames: Counter[bytes] = field(default_factory=Counter)
    """By the key of their first record."""
    honest: list[Event] = field(default_factory=list)
    _last: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)
    _entries: dict[bytes, set[bytes]] = field(default_factory=dict)
    """By table: the keys whose newest entry has a value."""
    _listed: dict[bytes, set[bytes]] = field(default_factory=dict)
    """By table: the keys that it has by what its records say came and went."""
    _position: int = 0
    _latest: int = 0
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
        self._latest = max([self._latest, *(record.timestamp for record in records if record.kind == EVENT)])
        self.expect(frame.latest == self._latest, "latest timestamp")
        self.expect(_without_empty(self._entries) == _without_empty(self._listed), "keys of a table")

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
        self.expect(record.kind in KINDS, "kind")
        self.expect(0 < len(record.key) < 1 << 16 and _is_text(record.key), "key")
        self.expect(sequence < record.sequence <= MAX_SEQUENCE, "sequence")
        self.expect(record.previous == offset, "way back")
        self.expect(record.timestamp <= LARGEST_TIMESTAMP, "timestamp")
        self._position += record.kind == EVENT
        self.expect(record.position == (self._position if record.kind == EVENT else 0), "position")
        if record.kind == ENTRY:
            self._look_at_entry(record)
        elif record.kind == TABLE:
            self._look_at_table(record)

    def _look_at_entry(self, record: Record) -> None:
        table, mark, key = record.key.partition(b"\0")
        self.expect(table and mark, "table")
        keys = self._entries.setdefault(table, set())
        (keys.add if record.payload else keys.discard)(key)

    def _look_at_table(self, record: Record) -> None:
        self.expect(b"\0" not in record.key, "table")
        keys = self._listed.setdefault(record.key, set())
        came, went = (set(map(str.encode, moved)) for moved in codec.unpack(record.payload))
        self.expect(not came & keys and went <= keys, "keys of a table")
        keys |= came
        keys -= went


def _without_empty(tables: dict[bytes, set[bytes]]) -> dict[bytes, set[bytes]]:
    return {name: keys for name, keys in tables.items() if keys}


def audit(directory: Path, honest: str) -> Audit:
    """Look at the whole log of a store, and take the events of one aggregate from it."""
    found = Audit()
    key = honest.encode()
    header = head.open_header(directory)
    try:
        for frame, records in _frames(directory, header.words[head.INCARNATION]):
            found.look_at(frame, records)
            found.honest += [_event(record, honest) for record in records if (record.kind, record.key) == (EVENT, key)]
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
