"""Commits per second of many processes at once, each writing to streams of its own.

Rules: every worker has committed once, so is connected, before the barrier opens; all stop by the clock, and each
one's rate is by its own clock, so the slowest does not stretch the run; few and many take turns, and the medians count.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks.child import FORK, Child
from benchmarks.rivals.rival import Contender
from benchmarks.settings import Settings

_STREAMS: Final = 10
_PATIENCE: Final = 60
"""Seconds for all workers to get ready."""


@dataclass(frozen=True, slots=True)
class Throughput:
    rival: str
    workers: int
    commits_per_second: float


@dataclass(frozen=True, slots=True)
class _Stint:
    """What one worker did."""

    started: float
    ended: float
    commits: int


def compare_crowds(contenders: list[Contender], crowds: Sequence[int], settings: Settings) -> list[Throughput]:
    """One line for each contender and number of workers."""
    rates: dict[tuple[str, int], list[float]] = {}
    for turn in range(settings.worker_rounds):
        for contender in contenders:
            for workers in crowds:
                rate = _run_crowd(contender, f"{turn}-{workers}", workers, settings.worker_seconds)
                rates.setdefault((contender.name, workers), []).append(rate)
    return [Throughput(name, workers, median(measured)) for (name, workers), measured in rates.items()]


def _run_crowd(contender: Contender, prefix: str, workers: int, seconds: float) -> float:
    barrier = FORK.Barrier(workers)
    with ExitStack() as stack:
        crowd = [
            stack.enter_context(Child(partial(_work, contender, barrier, f"{prefix}-{number}", seconds)))
            for number in range(workers)
        ]
        stints: list[_Stint] = [worker.receive() for worker in crowd]
    return sum(stint.commits / (stint.ended - stint.started) for stint in stints)


def _work(contender: Contender, barrier: Barrier, prefix: str, seconds: float, line: Connection) -> None:
    streams = [f"{prefix}-{number}" for number in range(_STREAMS)]
    for stream in streams:
        contender.commit(stream, 1, 1)
    barrier.wait(_PATIENCE)
    line.send(_commit_until(contender, streams, perf_counter(), seconds))


def _commit_until(contender: Contender, streams: list[str], started: float, seconds: float) -> _Stint:
    now = started
    for done, stream in zip(count(), cycle(streams), strict=False):
        if now >= started + seconds:
            break
        contender.commit(stream, 2 + done // _STREAMS, 1)
        now = perf_counter()
    return _Stint(started, now, done)
