"""Whether a history can have been: one order of all operations that agrees with real time and explains each answer.

The order of the commits is that of their positions, and of the log. Commit n happens at point 2n; between them lie the
odd points, where reads see what commits up to there have left. So each answer says between which two points its
operation happened: a commit at its own, a read where its version was the newest, a conflict where one was that it met.
An operation that ended before another began must not lie at a later point.

One sweep decides that exactly. Operations are taken as they began; each gets the smallest of its points that is not
below those of the operations that had ended by then. No assignment has smaller ones, so where that is too large for an
operation's points there is none at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from campaign.histories.operations import Kind, Operations, Outcome
from campaign.histories.stored import Commit, Streams
from maestro_shm.shared.frame import EVENT, SNAPSHOT

_NEVER: Final = 1 << 62
_STORING: Final = {Kind.COMMIT: EVENT, Kind.COMMIT_SNAPSHOT: SNAPSHOT}


class Rule(StrEnum):
    """What a history must not have."""

    FAILED = "an answer or an error that no store may give"
    LOST = "an acknowledged commit that is not stored"
    TWICE = "a commit that is stored twice"
    UNASKED = "something stored that was refused, or that nobody asked for"
    ALTERED = "a commit that is stored otherwise than it was asked for or acknowledged"
    DISORDER = "positions with gaps, or sequences or epochs that fall"
    UNKNOWN = "a version that never was, or with other content"
    BASELESS = "a conflict without cause"
    TIME = "an answer that was not true at any moment while it was sought"


class Violation(NamedTuple):
    """What is wrong with which operation; -1 where it is the store that is wrong."""

    rule: Rule
    row: int


class Bounds(NamedTuple):
    """The first and the last point at which an operation can have happened."""

    first: int
    last: int


@dataclass
class History:
    """Operations, and the commits that the store had in the end, or a part of both: all up to some point, from some."""

    operations: Operations
    commits: Sequence[Commit]
    first: int = 1
    """The number of the first commit."""
    earlier: Streams = field(default_factory=Streams)
    """What commits before the first have left."""


class Checker:
    """Checks one history."""

    def __init__(self, history: History) -> None:
        self._operations = history.operations
        self._commits = history.commits
        self.streams = history.earlier.copy()
        self.violations: list[Violation] = []
        self.points: list[int] = [-1] * len(history.operations)
        """Where each operation has happened; -1 for one that has not, or that has no place."""
        self._numbers: dict[int, int] = {}
        self._check_commits(history.first)
        self._sweep([self._bounds(row) for row in range(len(history.operations))])

    def _check_commits(self, first: int) -> None:
        asked = {self._operations.identity[row] for row in self._storing_rows()}
        for number, commit in enumerate(self._commits, first):
            if commit.identity in self._numbers:
                self._blame(Rule.TWICE, -1)
            if commit.identity not in asked:
                self._blame(Rule.UNASKED, -1)
            self._numbers[commit.identity] = number
            if not self.streams.add(number, commit):
                self._blame(Rule.DISORDER, -1)
        self._first = first
        self._check_positions()

    def _storing_rows(self) -> Iterator[int]:
        for row, kind in enumerate(self._operations.kind):
            if kind in _STORING:
                yield row

    def _check_positions(self) -> None:
        if any(before.epoch > after.epoch for before, after in pairwise(self._commits)):
            self._blame(Rule.DISORDER, -1)
        of_events = [commit for commit in self._commits if commit.record_kind == EVENT]
        if any(before.position + before.events != after.position for before, after in pairwise(of_events)):
            self._blame(Rule.DISORDER, -1)

    def _blame(self, rule: Rule, row: int) -> None:
        self.violations.append(Violation(rule, row))

    def _bounds(self, row: int) -> Bounds | None:
        """Where the operation can have happened; None if it has not, or if its answer is wrong at any time."""
        outcome = self._operations.outcome[row]
        if outcome == Outcome.FAILED:
            self._blame(Rule.FAILED, row)
            return None
        kind = self._operations.kind[row]
        if kind not in _STORING:
            return self._bounds_of_read(row)
        number = self._numbers.get(self._operations.identity[row])
        if number is not None:
            return self._bounds_of_stored(row, number)
        if outcome == Outcome.DONE:
            self._blame(Rule.LOST, row)
        return self._bounds_of_conflict(row) if outcome == Outcome.CONFLICT else None

    def _bounds_of_stored(self, row: int, number: int) -> Bounds:
        operations, commit = self._operations, self._commits[number - self._first]
        outcome = operations.outcome[row]
        if outcome in (Outcome.CONFLICT, Outcome.REFUSED):
            self._blame(Rule.UNASKED, row)
        elif _STORING[Kind(operations.kind[row])] != commit.record_kind or not self._is_as_told(row, commit):
            self._blame(Rule.ALTERED, row)
        return Bounds(2 * number, 2 * number)

    def _is_as_told(self, row: int, commit: Commit) -> bool:
        operations = self._operations
        if operations.outcome[row] == Outcome.OPEN:
            return operations.digest[row] == commit.request_digest()
        if commit.record_kind == SNAPSHOT:
            stored = commit.rows[0]
            return (operations.aggregate[row], operations.version[row]) == (stored.aggregate, stored.sequence)
        return (operations.position[row], operations.digest[row]) == (commit.position, commit.digest())

    def _bounds_of_conflict(self, row: int) -> Bounds | None:
        operations = self._operations
        if operations.kind[row] == Kind.COMMIT_SNAPSHOT:
            return self._bounds_of_older_snapshot(row)
        if operations.version[row] < operations.argument[row]:
            self._blame(Rule.BASELESS, row)
            return None
        return self._moments(row, EVENT)

    def _bounds_of_older_snapshot(self, row: int) -> Bounds | None:
        stream = self.streams.get(SNAPSHOT, self._operations.aggregate[row])
        place = bisect_left(stream.sequences, self._operations.argument[row])
        if place < len(stream.points):
            return Bounds(stream.points[place] + 1, _NEVER)
        self._blame(Rule.BASELESS, row)
        return None

    def _bounds_of_read(self, row: int) -> Bounds | None:
        kind = self._operations.kind[row]
        if kind == Kind.EVENTS:
            return self._bounds_of_events(row)
        return self._moments(row, SNAPSHOT if kind == Kind.SNAPSHOT else EVENT)

    def _bounds_of_events(self, row: int) -> Bounds | None:
        operations = self._operations
        stream = self.streams.get(EVENT, operations.aggregate[row])
        least = bisect_left(stream.sequences, operations.argument[row])
        if operations.version[row] == 0:  # there was none so new
            return Bounds(0, stream.points[least] - 1 if least < len(stream.points) else _NEVER)
        place = stream.place(operations.version[row])
        if place is None or stream.digest(least, place) != operations.digest[row]:
            self._blame(Rule.UNKNOWN, row)
            return None
        return self._moments(row, EVENT)

    def _moments(self, row: int, record_kind: int) -> Bounds | None:
        """While this version was the newest."""
        operations = self._operations
        stream = self.streams.get(record_kind, operations.aggregate[row])
        version = operations.version[row]
        place = stream.place(version) if version else -1
        if place is None or (
            record_kind == SNAPSHOT and version and stream.digest(place, place) != operations.digest[row]
        ):
            self._blame(Rule.UNKNOWN, row)
            return None
        first = stream.points[place] + 1 if version else 0
        return Bounds(first, stream.points[place + 1] - 1 if place + 1 < len(stream.points) else _NEVER)

    def _sweep(self, bounds: Sequence[Bounds | None]) -> None:
        operations, points = self._operations, self.points
        rows = [row for row, feasible in enumerate(bounds) if feasible is not None]
        # One whose outcome is open may happen after its call has ended: nothing comes after it for certain.
        ended = [row for row in rows if operations.outcome[row] != Outcome.OPEN]
        rows.sort(key=operations.start.__getitem__)
        ended.sort(key=operations.end.__getitem__)
        bound = passed = 0
        for row in rows:
            start = operations.start[row]
            while passed < len(ended) and operations.end[ended[passed]] < start:
                bound = max(bound, points[ended[passed]])
                passed += 1
            first, last = bounds[row] or (0, 0)
            if bound > last or first > last:
                self._blame(Rule.TIME, row)
            points[row] = max(first, bound) if bound <= last else first
