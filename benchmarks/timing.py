"""Many durations as one line: median and p99, in microseconds per event.

Rule: each call is timed alone, so a p99 is a p99 of calls; the clock's own 0.1 µs is in every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from statistics import median
from time import perf_counter_ns


@dataclass(frozen=True, slots=True)
class Timing:
    figure: str
    rival: str
    median_us: float
    p99_us: float
    samples: int


def time_calls(calls: Iterable[Callable[[], object]]) -> list[int]:
    """How long each call took, in nanoseconds."""
    durations = []
    for call in calls:
        started = perf_counter_ns()
        call()
        durations.append(perf_counter_ns() - started)
    return durations


def summarize(figure: str, rival: str, durations: list[int], events: int = 1) -> Timing:
    """The line for calls that handled so many events each."""
    unit = 1000 * events
    p99 = sorted(durations)[ceil(0.99 * len(durations)) - 1]
    return Timing(figure, rival, median(durations) / unit, p99 / unit, len(durations))
