"""A contender and how far its streams are, so that everyone is asked for the same."""

from __future__ import annotations

from itertools import cycle

from benchmarks.rivals.rival import Contender, Rival
from benchmarks.workload import AGGREGATES, PREFILL, READ


class BrokenRivalError(Exception):
    """A rival does not do the work that is about to be timed."""


class Contestant:
    """Fills the contender before anything is timed and has it prove that it works."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.turns = cycle(AGGREGATES)
        self.heads = dict.fromkeys(AGGREGATES, 0)
        for aggregate_id in AGGREGATES:
            self.contender.commit(aggregate_id, self.advance(aggregate_id, PREFILL), PREFILL)
        if self.keeps:
            _prove(self.rival, AGGREGATES[0])

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def keeps(self) -> bool:
        """Whether what was committed can be read."""
        return isinstance(self.contender, Rival)

    @property
    def rival(self) -> Rival:
        """The contender, which has to be one that keeps what it takes."""
        if not isinstance(self.contender, Rival):
            raise TypeError(self.contender)
        return self.contender

    def advance(self, aggregate_id: str, count: int) -> int:
        """The number of the first of the next `count` events, which the caller commits."""
        first = self.heads[aggregate_id] + 1
        self.heads[aggregate_id] += count
        return first


def _prove(rival: Rival, aggregate_id: str) -> None:
    seen = (
        rival.last_sequence(aggregate_id),
        len(rival.read_last(aggregate_id, PREFILL)),
        len(rival.catch_up(aggregate_id, PREFILL)),
        _refuses(rival, aggregate_id),
    )
    if seen != (PREFILL, READ, 0, True):
        msg = f"{rival.name}: last sequence, events read, events after the last, stale commit refused: {seen}"
        raise BrokenRivalError(msg)


def _refuses(rival: Rival, aggregate_id: str) -> bool:
    try:
        rival.commit(aggregate_id, PREFILL, 1)
    except rival.stale:
        return True
    return False
