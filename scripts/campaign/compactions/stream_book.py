"""What one stream has to hold and what it may hold, by the notes of the only process that writes to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from campaign.compactions.look import SeenStream
from campaign.compactions.pruner import Floor
from campaign.kills.audit import Entry, Outcome


class Due(NamedTuple):
    """What has to be there for everybody who looks from now on, unless it is truncated meanwhile."""

    sequences: frozenset[int] = frozenset()
    last_sequence: int = 0
    floor: int = 0
    snapshot: int = 0


@dataclass
class StreamBook:
    """Grows by the notes. Take what is due before a look, and judge by the notes that were made until after it."""

    _stored: dict[int, Entry] = field(default_factory=dict)
    """By sequence, what was acknowledged, or seen by somebody; but for what is known to be truncated."""
    _open: dict[int, list[Entry]] = field(default_factory=dict)
    _last_sequence: int = 0
    _highest_sent: int = 0
    _floor: int = 0
    _highest_floor: int = 0
    """Of all truncations that were sent."""
    _snapshot: int = 0
    _snapshots: list[Entry] = field(default_factory=list)

    def due(self) -> Due:
        return Due(frozenset(self._stored), self._last_sequence, self._floor, self._snapshot)

    def note_event(self, outcome: Outcome, entry: Entry) -> Iterator[str]:
        """Gives what is wrong: an answer that differs from what somebody has seen already."""
        tries = self._open.setdefault(entry.sequence, [])
        self._highest_sent = max(self._highest_sent, entry.sequence)
        if outcome is Outcome.OPEN:
            tries.append(entry)
        elif outcome is Outcome.REFUSED:
            tries[:] = [other for other in tries if other[:4] != entry[:4]]
        elif self._stored.setdefault(entry.sequence, entry) != entry:
            yield f"acknowledged otherwise than it was seen: {entry}"
        if outcome is Outcome.ACKNOWLEDGED:
            self._last_sequence = max(self._last_sequence, entry.sequence)

    def note_snapshot(self, outcome: Outcome, entry: Entry) -> None:
        if outcome is Outcome.OPEN:
            self._snapshots.append(entry)
        elif outcome is Outcome.ACKNOWLEDGED:
            self._snapshot = max(self._snapshot, entry.sequence)

    def note_floor(self, floor: Floor) -> None:
        self._highest_floor = max(self._highest_floor, floor.before)
        if floor.is_acknowledged:
            self._floor = max(self._floor, floor.before)

    def faults_of_events(self, due: Due, events: Sequence[Entry]) -> Iterator[str]:
        """What is wrong with the events that somebody saw; what was open and is there counts as stored from now on."""
        if any(one.sequence >= other.sequence for one, other in pairwise(events)):
            yield "sequences do not rise"
        for entry in events:
            if entry.sequence < due.floor:
                yield f"shown below the floor {due.floor}: {entry}"
            elif not self._is_as_sent(entry):
                yield f"nobody sent, or not as acknowledged: {entry}"
        there = {entry.sequence for entry in events}
        for sequence in sorted(due.sequences - there):
            if sequence >= self._highest_floor:
                yield f"acknowledged and lost: {self._stored[sequence]}"

    def faults_of(self, due: Due, seen: SeenStream) -> Iterator[str]:
        yield from self.faults_of_events(due, seen.events)
        if not due.floor <= seen.first_sequence <= self._highest_floor:
            yield f"it begins at {seen.first_sequence}, not from {due.floor} to {self._highest_floor}"
        if not due.last_sequence <= seen.last_sequence <= self._highest_sent:
            yield f"it ends at {seen.last_sequence}, not from {due.last_sequence} to {self._highest_sent}"
        yield from self._faults_of_snapshot(due, seen.snapshot)

    def forget_truncated(self) -> None:
        """Nothing needs to be known any more of what may never be shown again."""
        for entries in (self._stored, self._open):
            for sequence in [sequence for sequence in entries if sequence < self._floor]:
                del entries[sequence]
        self._snapshots = [entry for entry in self._snapshots if entry.sequence >= self._snapshot]

    def _is_as_sent(self, entry: Entry) -> bool:
        if entry.sequence in self._stored:
            return self._stored[entry.sequence] == entry
        if all(entry[:4] != sent[:4] for sent in self._open.get(entry.sequence, ())):
            return False
        self._stored[entry.sequence] = entry
        self._last_sequence = max(self._last_sequence, entry.sequence)
        return True

    def _faults_of_snapshot(self, due: Due, seen: Entry | None) -> Iterator[str]:
        sequence = seen.sequence if seen is not None else 0
        if sequence < due.snapshot:
            yield f"its snapshot is of {sequence}, and one of {due.snapshot} was acknowledged"
        elif seen is not None and all(seen[:4] != sent[:4] for sent in self._snapshots):
            yield f"a snapshot that nobody sent: {seen}"
