"""The first read of a new worker: from the pickled handle to the newest events in hand.

Each is measured in a process of its own; the stores take turns.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from random import Random
from time import perf_counter_ns
from typing import Final

from benchmarks.filled_store import FilledStore, aggregate_name
from benchmarks.fresh_process import FreshProcesses
from benchmarks.settings import Settings
from benchmarks.timing import Timing, summarize
from benchmarks.workload import READ

FIGURE: Final = "first read of a new process"


def time_first_reads(fresh: FreshProcesses, stores: Sequence[FilledStore], settings: Settings) -> list[Timing]:
    """One line for each store, in their order."""
    random = Random(1)
    durations: list[list[int]] = [[] for _ in stores]
    for turn in range(settings.first_reads + 1):
        for filled, timed in zip(stores, durations, strict=True):
            duration = _ask(fresh, filled, random)
            if turn:
                timed.append(duration)
    return [
        summarize(FIGURE, f"maestro_shm, {filled.events:,} events", timed)
        for filled, timed in zip(stores, durations, strict=True)
    ]


def _ask(fresh: FreshProcesses, filled: FilledStore, random: Random) -> int:
    aggregate_id = aggregate_name(random.randrange(filled.aggregates))
    duration: int = fresh.call(_read_first, pickle.dumps(filled.store), aggregate_id, filled.last_sequence - READ + 1)
    return duration


def _read_first(handle: bytes, aggregate_id: str, first: int) -> int:
    started = perf_counter_ns()
    store = pickle.loads(handle)
    events = store.get_events(aggregate_id, first)
    duration = perf_counter_ns() - started
    store.close()
    if len(events) != READ:
        raise LookupError(aggregate_id)
    return duration
