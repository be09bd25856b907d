"""The commits of a store in the order of its log, and what each stream was like after each of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from campaign.histories.operations import FACTS_SIZE, digest, pack_facts
from maestro_shm import codec
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import EVENT, SNAPSHOT, Frame, Record
from maestro_shm.shared.log import START, Log

_ALL: Final = 1 << 62


class Row(NamedTuple):
    """One event, or the snapshot."""

    aggregate: int
    sequence: int
    timestamp: int


class Commit(NamedTuple):
    """One frame of the log. The position of a snapshot is 0."""

    identity: int
    record_kind: int
    position: int
    epoch: int
    rows: tuple[Row, ...]

    @property
    def events(self) -> int:
        """How many positions it takes."""
        return len(self.rows) if self.record_kind == EVENT else 0

    def digest(self) -> int:
        """As of an answer with all its records."""
        stamps = [row.timestamp if self.events else 0 for row in self.rows]
        return digest(b"".join(self._facts(place, stamp) for place, stamp in enumerate(stamps)))

    def request_digest(self) -> int:
        """As of the request, which knows neither positions nor timestamps."""
        return digest(b"".join(pack_facts(row.aggregate, row.sequence, 0, 0, self.identity) for row in self.rows))

    def facts(self) -> Iterator[tuple[Row, bytes]]:
        """Each row with what a reader learns of it."""
        for place, row in enumerate(self.rows):
            yield row, self._facts(place, row.timestamp if self.events else 0)

    def _facts(self, place: int, timestamp: int) -> bytes:
        row = self.rows[place]
        return pack_facts(
            row.aggregate, row.sequence, self.position and self.position + place, timestamp, self.identity
        )


class Stream:
    """The versions of one aggregate's events, or of its snapshot, each with the point at which it came to be."""

    __slots__ = ("facts", "points", "sequences")

    def __init__(self, sequences: array[int], points: array[int], facts: bytearray) -> None:
        self.sequences = sequences
        self.points = points
        self.facts = facts

    def place(self, sequence: int) -> int | None:
        """Where this version is."""
        place = bisect_left(self.sequences, sequence)
        return place if place < len(self.sequences) and self.sequences[place] == sequence else None

    def digest(self, first: int, last: int) -> int:
        """Of the records between two places, both included."""
        return digest(self.facts[first * FACTS_SIZE : (last + 1) * FACTS_SIZE])


class Streams:
    """All streams. Commit n happens at point 2n; at the points between, the odd ones, reads see what is there."""

    def __init__(self, streams: dict[tuple[int, int], Stream] | None = None) -> None:
        self._streams = {} if streams is None else streams

    def add(self, number: int, commit: Commit) -> bool:
        """Append a commit; say whether all its sequences rise, as they must."""
        rise = True
        for row, known in commit.facts():
            stream = self.get(commit.record_kind, row.aggregate)
            rise &= not stream.sequences or row.sequence > stream.sequences[-1]
            stream.sequences.append(row.sequence)
            stream.points.append(2 * number)
            stream.facts += known
        return rise

    def get(self, record_kind: int, aggregate: int) -> Stream:
        """The stream; it may be empty."""
        key = (record_kind, aggregate)
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Stream(array("q"), array("q"), bytearray())
        return stream

    def copy(self) -> Streams:
        """One that can be added to by itself."""
        return Streams({key: _cut(stream, _ALL) for key, stream in self._streams.items()})

    def before(self, number: int, aggregates: Iterable[int]) -> Streams:
        """A copy of some, as they were before a commit."""
        return Streams(
            {
                (kind, aggregate): _cut(self.get(kind, aggregate), 2 * number)
                for aggregate in aggregates
                for kind in (EVENT, SNAPSHOT)
            }
        )


def _cut(stream: Stream, point: int) -> Stream:
    end = bisect_left(stream.points, point)
    return Stream(stream.sequences[:end], stream.points[:end], stream.facts[: end * FACTS_SIZE])


def read_commits(directory: Path) -> Iterator[Commit]:
    """The commits in a store's log. Its bodies are operations' identities, its ids end with a number after "-"."""
    header = head.open_header(directory)
    log = Log(directory, header.words[head.INCARNATION], writable=False)
    try:
        for frame, records in log.whole_frames(START):
            if frame.end > header.words[head.PUBLISHED]:
                return
            if records:  # or it is void
                yield _commit(frame, records)
    finally:
        log.close()
        header.close()


def _commit(frame: Frame, records: list[Record]) -> Commit:
    kind = records[0].kind
    position = frame.first_position if kind == EVENT else 0
    rows = tuple(Row(int(r.key.rpartition(b"-")[2]), r.sequence, r.timestamp) for r in records)
    identities = {_body(record) for record in records}
    if len(identities) != 1 or {record.kind for record in records} != {kind}:
        raise ValueError(f"the frame at {frame.offset} is of several commits: {sorted(identities)}")
    return Commit(identities.pop(), kind, position, frame.epoch, rows)


def _body(record: Record) -> int:
    if record.kind == SNAPSHOT:
        body = codec.unpack(record.payload)[0]
    else:
        body = codec.unpack_event("", record.sequence, record.timestamp, record.position, record.payload).body
    return int(body)
