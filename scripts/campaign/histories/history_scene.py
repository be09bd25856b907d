"""A history that is about to be spoilt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from campaign.histories.linearizability import Checker, History
from campaign.histories.operations import Kind, Operation, Outcome
from campaign.histories.stored import Commit, Stream
from maestro_shm.shared.frame import EVENT, SNAPSHOT

_READS: Final = {Kind.LAST_SEQUENCE: EVENT, Kind.EVENTS: EVENT, Kind.SNAPSHOT: SNAPSHOT}


class Scene:
    """A history to spoil, and what is known of it."""

    def __init__(self, history: History, checked: Checker, choices: random.Random) -> None:
        self.operations = history.operations
        self.commits = list(history.commits)
        self.first = history.first
        self.earlier = history.earlier
        self.streams = checked.streams
        self.random = choices
        self._row_of = {identity: row for row, identity in enumerate(self.operations.identity)}

    def history(self) -> History:
        """As it is by now."""
        return History(self.operations, self.commits, self.first, self.earlier)

    def rows(self, *kinds: Kind, outcome: Outcome = Outcome.DONE) -> Iterator[tuple[int, Operation]]:
        """The operations of some kinds that came out so, in any order."""
        operations = self.operations
        found = [row for row, kind in enumerate(operations.kind) if kind in kinds]
        self.random.shuffle(found)
        return ((row, operations[row]) for row in found if operations.outcome[row] == outcome)

    def reads(self) -> Iterator[tuple[int, Operation, Stream, int]]:
        """The reads that found something, each with its stream and its place in it."""
        for row, read in self.rows(*_READS):
            stream = self.streams.get(_READS[Kind(read.kind)], read.aggregate)
            place = stream.place(read.version) if read.version else None
            if place is not None:
                yield row, read, stream, place

    def maker_of(self, stream: Stream, place: int) -> Operation | None:
        """The acknowledged operation that a version was stored by, if it belongs to this part."""
        if not 0 <= place < len(stream.points):
            return None
        number = stream.points[place] // 2 - self.first
        return self.acknowledged(self.commits[number]) if number >= 0 else None

    def acknowledged(self, commit: Commit) -> Operation | None:
        """The operation of a commit, if it was answered."""
        operation = self.operations[self._row_of[commit.identity]]
        return operation if operation.outcome == Outcome.DONE else None

    def acknowledged_commits(self) -> Iterator[tuple[int, Commit, Operation]]:
        """Commits of events that were answered, with their places, in any order."""
        for place in self.random.sample(range(len(self.commits)), len(self.commits)):
            operation = self.acknowledged(self.commits[place])
            if operation is not None and operation.kind == Kind.COMMIT:
                yield place, self.commits[place], operation

    def put(self, operation: Operation) -> None:
        """Replace an operation."""
        self.operations[self._row_of[operation.identity]] = operation
