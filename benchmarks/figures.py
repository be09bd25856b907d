"""What is timed of one caller, and the play: round by round everyone in turn, so that noise hits all alike.

Rules: the first round warms up; so do the first calls of each turn, since a server that slept through the turns of
the others has to be woken. Arguments are bound before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from benchmarks.contestant import Contestant
from benchmarks.settings import Settings
from benchmarks.timing import Timing, summarize, time_calls
from benchmarks.workload import BATCH

_Call = Callable[[], object]
_WAKE_CALLS: Final = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """`bind` makes the call for one aggregate."""

    name: str
    bind: Callable[[Contestant, str], _Call]
    events: int = 1
    """Events per call; the figure is a time per event."""
    for_all: bool = False
    """Whether contenders take part that keep nothing."""


def _freshness(contestant: Contestant, aggregate_id: str) -> _Call:
    return partial(contestant.rival.last_sequence, aggregate_id)


def _catch_up(contestant: Contestant, aggregate_id: str) -> _Call:
    return partial(contestant.rival.catch_up, aggregate_id, contestant.heads[aggregate_id])


def _read(contestant: Contestant, aggregate_id: str) -> _Call:
    return partial(contestant.rival.read_last, aggregate_id, contestant.heads[aggregate_id])


def _commit(contestant: Contestant, aggregate_id: str) -> _Call:
    return partial(contestant.contender.commit, aggregate_id, contestant.advance(aggregate_id, 1), 1)


def _commit_batch(contestant: Contestant, aggregate_id: str) -> _Call:
    return partial(contestant.contender.commit, aggregate_id, contestant.advance(aggregate_id, BATCH), BATCH)


FRESHNESS: Final = Figure("freshness check (last sequence)", _freshness)
CATCH_UP: Final = Figure("freshness check (read, nothing new)", _catch_up)
READ: Final = Figure("read of the last 5 events, decoded", _read)
COMMIT: Final = Figure("commit of 1 event", _commit, for_all=True)
COMMIT_BATCH: Final = Figure(f"commit of {BATCH} events, per event", _commit_batch, events=BATCH)
ALL: Final = (FRESHNESS, CATCH_UP, READ, COMMIT, COMMIT_BATCH)


def play(figure: Figure, contestants: Sequence[Contestant], settings: Settings) -> list[Timing]:
    """One line for each contestant that can make the call."""
    calls = settings.calls if figure.events == 1 else settings.batch_calls
    able = [contestant for contestant in contestants if figure.for_all or contestant.keeps]
    durations: dict[str, list[int]] = {contestant.name: [] for contestant in able}
    for turn in range(settings.rounds + 1):
        for contestant in able:
            timed = _take_turn(figure, contestant, calls)
            if turn:
                durations[contestant.name] += timed
    return [summarize(figure.name, name, timed, figure.events) for name, timed in durations.items()]


def _take_turn(figure: Figure, contestant: Contestant, calls: int) -> list[int]:
    aggregates = islice(contestant.turns, _WAKE_CALLS + calls)
    bound = [figure.bind(contestant, aggregate_id) for aggregate_id in aggregates]
    return time_calls(bound)[_WAKE_CALLS:]
