"""A log of 64 KiB that a real journal has written, and books of what is in it, kept beside it by whoever committed.

It has some 40 frames of very different sizes, events and snapshots of a dozen streams, four servers' epochs, and two
void frames in its midst, of commits that were undone.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from books import CAP, Books, leave_unpublished, word

import maestro_shm as ms
from maestro_shm import codec, validation
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import SNAPSHOT
from maestro_shm.shared.log import START
from maestro_shm.shared.rows import Row

END: Final = 64 << 10
KEYS: Final = tuple(f"stream-{'x' * number}{number}" for number in range(12))
NEVER: Final = "a stream that was never written"
LOG: Final = "log-1-000000"
INDEX: Final = "index-1-000001"
_LAST_COMMIT: Final = 6_000
"""The last commit fills the log up; this is room for what the last but one may have too much."""


@dataclass(frozen=True)
class Commit:
    """One that was acknowledged: its events as they were stored, or a snapshot."""

    commit_id: bytes
    rows: Sequence[Row] = ()
    events: Sequence[ms.Event] = ()
    snapshot: ms.Snapshot | None = None


@dataclass(frozen=True)
class Place:
    """A record in the log, without its padding."""

    start: int
    end: int
    kind: int
    key: str


@dataclass(frozen=True)
class Extent:
    """A frame in the log. A void one has no commit. `before` is how many commits lie before it."""

    start: int
    end: int
    before: int
    commit: Commit | None
    records: Sequence[Place]


@dataclass
class Contents:
    """All that a store with some of the commits has to say."""

    streams: dict[str, list[ms.Event]] = field(default_factory=lambda: {key: [] for key in (*KEYS, NEVER)})
    snapshots: dict[str, ms.Snapshot] = field(default_factory=dict)
    offsets: list[int] = field(default_factory=list)
    """Where the events lie, in the order of their positions."""

    @property
    def aggregates(self) -> int:
        return sum(map(bool, self.streams.values()))

    def after(self, extent: Extent) -> Contents:
        """The contents with one commit more."""
        assert extent.commit is not None
        streams = {key: list(stream) for key, stream in self.streams.items()}
        for event in extent.commit.events:
            streams[event.aggregate_id].append(event)
        snapshots = dict(self.snapshots)
        if (snapshot := extent.commit.snapshot) is not None:
            snapshots[snapshot.aggregate_id] = snapshot
        places = [place.start for place in extent.records if place.kind != SNAPSHOT]
        return Contents(streams, snapshots, self.offsets + places)


@dataclass(frozen=True)
class Specimen:
    """The log's bytes, its frames in their order, and what there is to find after each number of commits."""

    files: dict[str, bytes]
    """The store's files by name; of the log only what is used."""
    extents: Sequence[Extent]
    contents: Sequence[Contents]

    @property
    def image(self) -> bytes:
        return self.files[LOG]

    @cached_property
    def newest(self) -> dict[tuple[int, str], Place]:
        """The newest record of each kind and key."""
        return {(place.kind, place.key): place for extent in self.extents for place in extent.records}

    @cached_property
    def _starts(self) -> list[int]:
        return [extent.start for extent in self.extents]

    def extent_at(self, offset: int) -> Extent | None:
        """The frame that this byte belongs to; None within the file's mark."""
        number = bisect_right(self._starts, offset) - 1
        return self.extents[number] if number >= 0 else None

    def field_bits(self) -> set[int]:
        """Every bit of the file's mark, of the header of each frame and record, and of whatever a void frame has."""
        ranges = [range(START)]
        for extent in self.extents:
            void = extent.commit is None
            ranges.append(range(extent.start, extent.end if void else extent.start + frames.FRAME_HEADER.size))
            ranges += [range(place.start, place.start + frames.RECORD_HEADER.size) for place in extent.records]
        return {offset * 8 + bit for offsets in ranges for offset in offsets for bit in range(8)}


def make(directory: Path, choices: random.Random) -> Specimen:
    """Write such a log in an empty directory."""
    with Books(directory) as books:
        author = _Author(books, choices)
        for part in range(1, 5):
            while author.end < part * (END - _LAST_COMMIT) // 4:
                author.commit_something()
            if part < 3:
                author.leave_void_frame()
            elif part == 3:
                books.reopen()
        author.fill_up()
    return author.specimen()


class _Author:
    """Commits, and keeps the books."""

    def __init__(self, books: Books, choices: random.Random) -> None:
        self._books = books
        self._choices = choices
        self._extents: list[Extent] = []
        self._contents = [Contents()]

    @property
    def end(self) -> int:
        return word(self._books.directory, head.PUBLISHED)

    def commit_something(self) -> None:
        if self._choices.random() < 0.2:
            self._commit_snapshot(self._choices.choice(KEYS))
        else:
            self._commit_events(self._new_events())

    def leave_void_frame(self) -> None:
        """Begin a commit and die; the next server undoes it, and its place stays taken."""
        start = self.end
        events = [("stream-0", event.sequence + 10**6, event.body) for event in self._new_events()[:1]]
        leave_unpublished(self._books, *events, (KEYS[-1], 10**6, b"undone" * 40))
        self._books.reopen()
        self._extents.append(Extent(start, self.end, len(self._contents) - 1, None, ()))

    def fill_up(self) -> None:
        """One last commit that ends exactly where the log is to end."""
        self._commit_events([filling_event(KEYS[0], self._next_sequence(KEYS[0]), END - self.end)])
        assert self.end == END

    def specimen(self) -> Specimen:
        directory = self._books.directory
        files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != LOG}
        with (directory / LOG).open("rb") as log:
            files[LOG] = log.read(END)
        specimen = Specimen(files, self._extents, self._contents)
        assert [extent.start for extent in self._extents[1:]] == [extent.end for extent in self._extents[:-1]]
        assert sum(extent.commit is None for extent in self._extents) == 2
        return specimen

    def _new_events(self) -> list[ms.Event]:
        count = self._choices.choice((1, 1, 1, 2, 6))
        next_of: dict[str, int] = {}
        events = []
        for _ in range(count):
            key = self._choices.choice(KEYS)
            sequence = next_of[key] = next_of.get(key, self._next_sequence(key) - 1) + 1
            events.append(ms.Event(key, sequence, self._choices.choice(("made", "moved")), self._body(sequence)))
        return events

    def _body(self, number: int) -> object:
        """Bodies of 1 to some 2,000 bytes, with many zeros in some."""
        size = self._choices.choice((0, 30, 600, 1_000, 2_000))
        noise = self._choices.randbytes(self._choices.randrange(size + 1))
        return self._choices.choice((None, number, noise, noise.hex(), {"of": [noise, bytes(size // 2)]}))

    def _next_sequence(self, key: str) -> int:
        stream = self._contents[-1].streams[key]
        return stream[-1].sequence + 1 if stream else 1

    def _commit_events(self, events: list[ms.Event]) -> None:
        rows = validation.pack_events(events, CAP)
        commit_id = self._choices.randbytes(16)
        start = self.end
        position, timestamps = self._books.journal.commit_events(commit_id, rows, resent=False)
        stored = [
            replace_facts(event, timestamp, position + number)
            for number, (event, timestamp) in enumerate(zip(events, timestamps, strict=True))
        ]
        self._note(start, Commit(commit_id, rows, stored))

    def _commit_snapshot(self, key: str) -> None:
        former = self._contents[-1].snapshots.get(key)
        snapshot = ms.Snapshot(key, former.sequence + 1 if former else 1, self._body(0))
        payload = codec.pack_body(snapshot.body)
        commit_id = self._choices.randbytes(16)
        start = self.end
        assert self._books.journal.commit_snapshot(commit_id, key, snapshot.sequence, payload, resent=False)
        self._note(start, Commit(commit_id, snapshot=snapshot))

    def _note(self, start: int, commit: Commit) -> None:
        extent = Extent(start, self.end, len(self._contents) - 1, commit, self._places(start))
        self._extents.append(extent)
        self._contents.append(self._contents[-1].after(extent))

    def _places(self, start: int) -> list[Place]:
        with (self._books.directory / LOG).open("rb") as log:
            log.seek(start)
            frame_bytes = log.read(self.end - start)
        found = frames.unpack_records(frame_bytes, frames.unpack_frame(frame_bytes, start))
        return [
            Place(
                record.offset,
                record.offset + frames.RECORD_HEADER.size + len(record.key) + len(record.payload),
                record.kind,
                record.key.decode(),
            )
            for record in found
        ]


def replace_facts(event: ms.Event, timestamp: int, position: int) -> ms.Event:
    """The event as a store gives it back."""
    return replace(event, timestamp=timestamp, position=position)


def filling_event(key: str, sequence: int, length: int) -> ms.Event:
    """An event whose frame has just this length, a multiple of 8; the shortest that there is where none fits."""
    empty = ms.Event(key, sequence, "filled", b"")
    overhead = frames.FRAME_HEADER.size + frames.RECORD_HEADER.size + len(key.encode()) + len(codec.pack_event(empty))
    for size in range(max(0, length - overhead), max(0, length - overhead - 12), -1):
        event = replace(empty, body=b"f" * size)
        frame_size = overhead - len(codec.pack_event(empty)) + len(codec.pack_event(event))
        if (frame_size + 7) & ~7 == length:
            return event
    return empty
