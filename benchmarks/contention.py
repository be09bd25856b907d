"""Eight workers that evaluate commands on one hot aggregate, or on two: `python -m benchmarks.contention [--full]`.

Beside the store's way, where each has its turn after repeated conflicts, the optimistic way only: random pauses. Both
are measured in turns, with handlers that compute for so long; all workers stop by the clock. What counts are successful
commits per second, evaluations per successful commit, and the share of the slowest worker: of an aggregate's commits,
against the mean of those at the same aggregate.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from statistics import median
from time import perf_counter
from typing import Any, ClassVar, Final

import maestro_shm as ms
from benchmarks.child import FORK, Child
from maestro_shm.retries import Attempts

TURNS: Final = "turns"
OPTIMISTIC: Final = "optimistic only"
_WAYS: Final = TURNS, OPTIMISTIC
_WORKERS: Final = 8
_AGGREGATES: Final = 1, 2
_EVALUATIONS_MS: Final = 0.0, 1.0, 10.0
_PATIENCE: Final = 60
"""Seconds for all workers to get ready."""


class _Counter(ms.Aggregate):
    initial_state: ClassVar[Any] = 0
    evaluations = 0
    seconds = 0.0
    """How long an evaluation computes."""

    @ms.on_command("add")
    def add(self, _command: ms.Command) -> list[ms.NewEvent]:
        self.evaluations += 1
        end = perf_counter() + self.seconds
        while perf_counter() < end:
            pass
        return [ms.NewEvent("added", 1)]

    @ms.on_event("added")
    def added(state: Any, event: ms.Event) -> Any:  # noqa: N805 (handlers of events take no self)
        return state + event.body


@dataclass(frozen=True, slots=True)
class _Stint:
    """What one worker did."""

    aggregate: int
    commits: int
    evaluations: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Contention:
    """What came of one run, or the medians of several."""

    commits_per_second: float
    evaluations_per_commit: float
    slowest_share: float


def compare(aggregates: int, evaluation_ms: float, *, seconds: float, rounds: int) -> dict[str, Contention]:
    """By way."""
    runs: dict[str, list[Contention]] = {way: [] for way in _WAYS}
    for _ in range(rounds):
        for way in _WAYS:
            runs[way].append(_run(way, aggregates, evaluation_ms / 1000, seconds))
    return {way: _medians(measured) for way, measured in runs.items()}


def _run(way: str, aggregates: int, evaluation: float, seconds: float) -> Contention:
    barrier = FORK.Barrier(_WORKERS)
    with ms.connect() as store, ExitStack() as stack:
        crowd = [
            stack.enter_context(Child(partial(_work, store, way, number % aggregates, evaluation, seconds, barrier)))
            for number in range(_WORKERS)
        ]
        return _summary([worker.receive() for worker in crowd])


def _work(
    store: ms.Store, way: str, aggregate: int, evaluation: float, seconds: float, barrier: Barrier, line: Connection
) -> None:
    if way == OPTIMISTIC:
        store._attempts = _optimistic  # type: ignore[method-assign]
    root = _Counter(store, f"hot-{aggregate}")
    command = ms.Command("add", None)
    root.evaluate(command)
    root.evaluations, root.seconds = 0, evaluation
    barrier.wait(_PATIENCE)
    commits, begun = 0, perf_counter()
    while perf_counter() < begun + seconds:
        root.evaluate(command)
        commits += 1
    line.send(_Stint(aggregate, commits, root.evaluations, perf_counter() - begun))


def _optimistic(timeout: float, stream: str | None = None) -> Attempts:  # noqa: ARG001 (as a store has it)
    return Attempts(timeout)


def _summary(stints: Sequence[_Stint]) -> Contention:
    commits = sum(stint.commits for stint in stints)
    by_aggregate: dict[int, list[int]] = {}
    for stint in stints:
        by_aggregate.setdefault(stint.aggregate, []).append(stint.commits)
    return Contention(
        sum(stint.commits / stint.seconds for stint in stints),
        sum(stint.evaluations for stint in stints) / commits,
        min(min(shares) * len(shares) / sum(shares) for shares in by_aggregate.values()),
    )


def _medians(runs: Sequence[Contention]) -> Contention:
    return Contention(
        median(run.commits_per_second for run in runs),
        median(run.evaluations_per_commit for run in runs),
        median(run.slowest_share for run in runs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure workers that compete for hot aggregates.")
    parser.add_argument("--full", action="store_true", help="longer and more runs: minutes")
    full = parser.parse_args().full
    seconds, rounds = (5.0, 5) if full else (2.0, 3)
    print("aggregates  evaluation  way              commits/s  evaluations/commit  slowest worker's share")
    for aggregates in _AGGREGATES:
        for evaluation in _EVALUATIONS_MS:
            for way, found in compare(aggregates, evaluation, seconds=seconds, rounds=rounds).items():
                print(
                    f"{aggregates:10}  {evaluation:7g} ms  {way:15}  {found.commits_per_second:9,.0f}"
                    f"  {found.evaluations_per_commit:18.2f}  {found.slowest_share:22.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
