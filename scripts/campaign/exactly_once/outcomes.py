"""Commits as their callers saw them, the log as it is, and whether the two agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maestro_shm import codec
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import EVENT, SNAPSHOT
from maestro_shm.shared.log import START, Log


@dataclass(frozen=True)
class Stored:
    """The caller was told where it is: position and timestamp of each record; of a snapshot neither."""

    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Conflict:
    """The caller was told that somebody was faster."""

    aggregate_id: str
    sequence: int
    last_sequence: int


@dataclass(frozen=True)
class NotNewer:
    """The caller was told that there is as new a snapshot."""


@dataclass(frozen=True)
class Abandoned:
    """The caller gave up of its own will: it may be stored or not."""


Outcome = Stored | Conflict | NotNewer | Abandoned | None
"""None: the caller tried to the end of its patience, and was never told."""


@dataclass(frozen=True)
class Commit:
    """One commit; its records have a body that begins with a content that no other commit has."""

    kind: int
    content: str
    keys: tuple[tuple[str, int], ...]
    """Aggregate and sequence of each record."""
    outcome: Outcome


@dataclass(frozen=True)
class Entry:
    """One record of the log."""

    kind: int
    aggregate_id: str
    sequence: int
    place: tuple[int, int]
    content: str


Frames = list[tuple[Entry, ...]]
_Streams = defaultdict[tuple[int, str], dict[int, str]]
"""By kind and aggregate: whose content each sequence number holds."""


def frames_of(directory: Path) -> Frames:
    """What is published, frame by frame."""
    header = head.open_header(directory)
    log = Log(directory, header.words[head.INCARNATION], writable=False)
    try:
        published = header.words[head.PUBLISHED]
        frames = [tuple(map(_entry, records)) for frame, records in log.whole_frames(START) if frame.offset < published]
        return [entries for entries in frames if entries]
    finally:
        log.close()
        header.close()


def _entry(record: Any) -> Entry:
    values = codec.unpack(record.payload)
    body = values[1] if record.kind == EVENT else values[0]
    place = (record.position, record.timestamp) if record.kind == EVENT else (0, 0)
    return Entry(record.kind, record.key.decode(), record.sequence, place, body[0])


def faults_of(commits: Sequence[Commit], frames: Frames) -> Counter[str]:
    """What is wrong: "doubled", "missing", "wrong" outcomes, "own" conflicts, "unresolved" commits, a "broken" log."""
    stored = defaultdict(list)
    streams: _Streams = defaultdict(dict)
    faults: Counter[str] = Counter()
    position = 0
    for entries in frames:
        stored[entries[0].content].append(entries)
        for entry in entries:
            stream = streams[entry.kind, entry.aggregate_id]
            faults["broken"] += any(sequence >= entry.sequence for sequence in _last(stream))
            stream[entry.sequence] = entry.content
            position += entry.kind == EVENT
            faults["broken"] += entry.kind == EVENT and entry.place[0] != position
    for commit in commits:
        found = stored.pop(commit.content, [])
        faults["doubled"] += len(found) > 1
        if fault := _fault_of(commit, found, streams):
            faults[fault] += 1
    faults["wrong"] += len(stored)  # nobody committed it
    return +faults


def _last(stream: dict[int, str]) -> Iterable[int]:
    return [next(reversed(stream))] if stream else []


def _fault_of(commit: Commit, found: list[tuple[Entry, ...]], streams: _Streams) -> str | None:
    outcome = commit.outcome
    if outcome is None:
        return "unresolved"
    if isinstance(outcome, Stored) and not found:
        return "missing"
    if isinstance(outcome, Stored):
        right = tuple(entry.place for entry in found[0]) == outcome.places
    elif isinstance(outcome, Conflict):
        holder = streams[commit.kind, outcome.aggregate_id].get(outcome.last_sequence)
        if holder == commit.content:
            return "own"
        right = not found and holder is not None and _is_meant(commit, outcome)
    elif isinstance(outcome, NotNewer):
        ((aggregate_id, sequence),) = commit.keys
        right = not found and any(other >= sequence for other in streams[SNAPSHOT, aggregate_id])
    else:
        right = True
    return None if right and all(_is_whole(commit, entries) for entries in found) else "wrong"


def _is_meant(commit: Commit, told: Conflict) -> bool:
    return (told.aggregate_id, told.sequence) in commit.keys and told.last_sequence >= told.sequence


def _is_whole(commit: Commit, entries: tuple[Entry, ...]) -> bool:
    return [(entry.kind, entry.aggregate_id, entry.sequence, entry.content) for entry in entries] == [
        (commit.kind, *key, commit.content) for key in commit.keys
    ]
