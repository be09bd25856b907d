"""The feed, read from its beginning to its end by one process, and by two at the same time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter

import maestro_shm as ms
from benchmarks.child import Child
from benchmarks.settings import Settings


@dataclass(frozen=True, slots=True)
class FeedRates:
    """Decoded events per second, medians over the rounds."""

    events: int
    one_reader: float
    two_readers: float
    """Of both together."""


def measure_feed(store: ms.Store, settings: Settings) -> FeedRates:
    """One reader and two in turns."""
    events = min(store.last_position, settings.feed_events)
    one: list[float] = []
    two: list[float] = []
    with ExitStack() as stack:
        readers = [stack.enter_context(Child(lambda line: _serve(store, events, line))) for _ in range(2)]
        for turn in range(settings.feed_rounds + 1):
            alone, together = _rate(readers[:1], events), _rate(readers, events)
            if turn:
                one.append(alone)
                two.append(together)
    return FeedRates(events, median(one), median(two))


def _rate(readers: list[Child], events: int) -> float:
    for reader in readers:
        reader.send("read")
    seconds: list[float] = [reader.receive() for reader in readers]
    return sum(events / each for each in seconds)


def _serve(store: ms.Store, events: int, line: Connection) -> None:
    while True:
        line.recv()
        started = perf_counter()
        count = sum(1 for _ in store.read(limit=events))
        duration = perf_counter() - started
        if count != events:
            raise LookupError(count)
        line.send(duration)
