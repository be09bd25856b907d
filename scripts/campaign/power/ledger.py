"""What was sent to a store, and what of it may be there after a loss of power, and what has to be."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property

from maestro_shm.records import Event, Snapshot


@dataclass
class Commit:
    """One commit as it was sent: events, with the positions that they must get, or a snapshot."""

    commit_id: bytes
    events: list[Event]
    snapshot: Snapshot | None = None

    def stamp(self, timestamps: list[int]) -> None:
        """When the store says that it was."""
        self.events = [
            replace(event, timestamp=timestamp) for event, timestamp in zip(self.events, timestamps, strict=True)
        ]

    def moved_to(self, first_position: int) -> Commit:
        """The same commit at another place."""
        events = [replace(event, position=position) for position, event in enumerate(self.events, first_position)]
        return Commit(self.commit_id, events, self.snapshot)

    @property
    def keys(self) -> set[str]:
        """The aggregates in it."""
        return {event.aggregate_id for event in self.events} | (
            {self.snapshot.aggregate_id} if self.snapshot else set()
        )


@dataclass
class Contents:
    """What a store holds after some commits."""

    events: list[Event] = field(default_factory=list)
    streams: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    snapshots: dict[str, Snapshot] = field(default_factory=dict)

    def add(self, commit: Commit) -> None:
        self.events += commit.events
        for event in commit.events:
            self.streams[event.aggregate_id].append(event)
        if commit.snapshot is not None:
            self.snapshots[commit.snapshot.aggregate_id] = commit.snapshot

    def last_sequence(self, aggregate_id: str) -> int:
        stream = self.streams.get(aggregate_id)
        return stream[-1].sequence if stream else 0


class World:
    """Commits in the order of the log, of which at least the first `least` have to be there, and no gap may be."""

    def __init__(self, commits: list[Commit], least: int) -> None:
        self.commits = list(commits)
        self.least = least
        self._contents: dict[int, Contents] = {}

    def contents(self, count: int) -> Contents:
        """What the store holds if it has the first so many commits."""
        if count not in self._contents:
            made = Contents()
            for commit in self.commits[:count]:
                made.add(commit)
            self._contents[count] = made
        return self._contents[count]

    @cached_property
    def keys(self) -> list[str]:
        """All the aggregates in it."""
        return sorted(set().union(*(commit.keys for commit in self.commits)))

    @cached_property
    def counts(self) -> dict[int, list[int]]:
        """How many commits there may be, by how many events they have."""
        found: dict[int, list[int]] = {}
        events = 0
        for count in range(len(self.commits) + 1):
            if count >= self.least:
                found.setdefault(events, []).append(count)
            if count < len(self.commits):
                events += len(self.commits[count].events)
        return found
