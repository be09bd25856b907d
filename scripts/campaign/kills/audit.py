"""What writers wrote down, compared with what the log holds: nothing lost, doubled, renumbered, torn, or made up.

Each record's payload is unique, so its digest tells it from all others, and a doubled one from two like ones.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import maestro_shm as ms
from maestro_shm import codec
from maestro_shm.shared.frame import EVENT, SNAPSHOT, Record

NOT_KNOWN: Final = 0
"""In place of the position and timestamp of what was never acknowledged, and of a snapshot, which is told none."""


class Entry(NamedTuple):
    """An event or a snapshot, as it was sent or as the log has it."""

    kind: int
    aggregate_id: str
    sequence: int
    content: bytes
    position: int = NOT_KNOWN
    timestamp: int = NOT_KNOWN

    @property
    def stream(self) -> Stream:
        return self.kind, self.aggregate_id


Stream = tuple[int, str]
Frame = tuple[Entry, ...]
"""The entries of one commit."""


class Outcome(enum.Enum):
    """What a writer was told of a commit."""

    ACKNOWLEDGED = "acknowledged"
    OPEN = "open"
    REFUSED = "refused"


class Sent(NamedTuple):
    """A commit as its writer wrote it down."""

    outcome: Outcome
    entries: Frame


def entry_of_event(event: ms.Event) -> Entry:
    content = content_of(codec.pack_event(event))
    position, timestamp = event.position or NOT_KNOWN, event.timestamp or NOT_KNOWN
    return Entry(EVENT, event.aggregate_id, event.sequence, content, position, timestamp)


def entry_of_snapshot(snapshot: ms.Snapshot) -> Entry:
    return Entry(SNAPSHOT, snapshot.aggregate_id, snapshot.sequence, content_of(codec.pack_body(snapshot.body)))


def entry_of_record(record: Record) -> Entry:
    content = content_of(record.payload)
    return Entry(record.kind, record.key.decode(), record.sequence, content, record.position, record.timestamp)


def content_of(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=8).digest()


class Audit:
    """A log that grows, checked as it does. Tell what was sent before what came of it is read; then settle."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.streams: dict[Stream, list[Entry]] = {}
        self._sent: dict[bytes, Sent] = {}
        self._found: dict[bytes, Frame] = {}
        self._unsettled: list[Sent] = []
        self._position = self._timestamp = 0

    def expect(self, sent: Sent) -> None:
        """A commit that was sent; of one that was sent again the last outcome counts."""
        for entry in sent.entries:
            self._sent[entry.content] = sent
        self._unsettled.append(sent)

    def read(self, frame: Frame) -> None:
        """The next commit in the log."""
        sent = self._sent.get(frame[0].content)
        if sent is None:
            self._fault("nobody sent", frame)
        elif _identity(sent.entries) != _identity(frame):
            self._fault("torn or mixed with others", frame)
        if any(entry.content in self._found for entry in frame):
            self._fault("doubled", frame)
        for entry in frame:
            self._found[entry.content] = frame
            self._place(entry)

    def settle(self) -> None:
        """Nothing more of what was sent so far may come, but for open commits."""
        for sent in self._unsettled:
            found = self._found.get(sent.entries[0].content)
            if sent.outcome is Outcome.ACKNOWLEDGED and found is None:
                self._fault("acknowledged and lost", sent.entries)
            elif sent.outcome is Outcome.ACKNOWLEDGED and not _is_as_told(sent.entries, found or ()):
                self._fault("not as acknowledged", sent.entries)
            elif sent.outcome is Outcome.REFUSED and found is not None:
                self._fault("refused and stored", sent.entries)
        self._unsettled.clear()

    def compare(self, stream: Stream, seen: Sequence[Entry], *, since: int = 0) -> None:
        """What a reader saw of a stream from a sequence on is what the log has; of snapshots it is the last one."""
        stored = self.streams.get(stream, [])
        if stream[0] == SNAPSHOT:
            as_it_ought = _identity(seen) == _identity(stored[-1:])
        else:
            as_it_ought = list(seen) == [entry for entry in stored if entry.sequence >= since]
        if not as_it_ought:
            self.faults.append(f"a reader saw another stream {stream} than the log has: {len(seen)} of {len(stored)}")

    def _place(self, entry: Entry) -> None:
        stream = self.streams.setdefault(entry.stream, [])
        if stream and entry.sequence <= stream[-1].sequence:
            self._fault("sequences do not rise", (entry,))
        stream.append(entry)
        self._position += entry.kind == EVENT
        if entry.position != (self._position if entry.kind == EVENT else 0):
            self._fault(f"the position is not {self._position}", (entry,))
        if entry.timestamp <= self._timestamp:
            self._fault("the time goes back", (entry,))
        self._timestamp = entry.timestamp

    def _fault(self, what: str, frame: Frame) -> None:
        self.faults.append(f"{what}: {frame[:3]}")


class History(NamedTuple):
    """All that was sent, all that the log has, and all that readers see of it."""

    sent: Sequence[Sent]
    frames: Sequence[Frame]
    streams: dict[Stream, list[Entry]]


def faults_of(history: History) -> list[str]:
    """Whatever is wrong with a history."""
    audit = Audit()
    for sent in history.sent:
        audit.expect(sent)
    for frame in history.frames:
        audit.read(frame)
    audit.settle()
    for stream in audit.streams.keys() | history.streams:
        audit.compare(stream, history.streams.get(stream, []))
    return audit.faults


def streams_seen(
    streams: Iterable[Stream],
    events: Callable[[str], list[ms.Event]],
    snapshot: Callable[[str], ms.Snapshot | None],
) -> dict[Stream, list[Entry]]:
    """What a reader sees of these streams: all events, the last snapshot (without position and timestamp)."""
    seen: dict[Stream, list[Entry]] = {}
    for kind, aggregate_id in streams:
        if kind == EVENT:
            seen[kind, aggregate_id] = [entry_of_event(event) for event in events(aggregate_id)]
        else:
            found = snapshot(aggregate_id)
            seen[kind, aggregate_id] = [entry_of_snapshot(found)] if found is not None else []
    return seen


def _identity(frame: Sequence[Entry]) -> list[tuple[int, str, int, bytes]]:
    return [entry[:4] for entry in frame]


def _is_as_told(told: Frame, found: Frame) -> bool:
    """Whether positions and times are those that were told; of a snapshot none are."""
    return all(entry.kind == SNAPSHOT or entry == there for entry, there in zip(told, found, strict=False))
