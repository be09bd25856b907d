"""A store of ten million events in a million aggregates beside one of ten thousand, in turns within one run.

`scripts/bench-size [--events N] [--aggregates N]`. It takes a quarter of an hour, and some 6 GB of shared memory: the
large store is compacted, which needs the room for what is live beside what there is. Rule: what is compared takes
turns, so that both have the same hours of the machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import Final

import maestro_shm as ms
from benchmarks.workload import EVENT_TYPE, body
from maestro_shm.shared import header as head

_PER_COMMIT: Final = 2_000
_SMALL_EVENTS: Final = 10_000
_SMALL_AGGREGATES: Final = 1_000
_ROUNDS: Final = 40
_CALLS: Final = 100
_RESTARTS: Final = 9


class Filled:
    """A store whose streams are all of one length. Event n belongs to aggregate n % aggregates."""

    def __init__(self, store: ms.Store, events: int, aggregates: int) -> None:
        self.store: Final = store
        self.events: Final = events
        self.aggregates: Final = aggregates
        self.sequences: dict[int, int] = {}
        """Of the streams that went on since."""

    def fill(self) -> float:
        """How many seconds that took."""
        started = perf_counter()
        for first in range(0, self.events, _PER_COMMIT):
            numbers = range(first, min(first + _PER_COMMIT, self.events))
            self.store.commit_events(
                [
                    ms.Event(self.name(n % self.aggregates), 1 + n // self.aggregates, EVENT_TYPE, body(n))
                    for n in numbers
                ]
            )
        return perf_counter() - started

    @staticmethod
    def name(number: int) -> str:
        return f"account-{number:07d}"

    def next_event(self, number: int) -> ms.Event:
        """The next one of a stream."""
        sequence = self.sequences.get(number, self.events // self.aggregates) + 1
        self.sequences[number] = sequence
        return ms.Event(self.name(number), sequence, EVENT_TYPE, body(sequence))


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description="Measure a large store beside a small one.")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--aggregates", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with ms.connect() as little, ms.connect() as much:
        small = Filled(little, _SMALL_EVENTS, _SMALL_AGGREGATES)
        large = Filled(much, arguments.events, arguments.aggregates)
        small.fill()
        seconds = large.fill()
        stats = much.stats()
        print(f"filled: {stats['events']:,} events, {stats['aggregates']:,} aggregates in {seconds:.0f} s")
        print(f"space: {stats['bytes'] / 2**20:,.0f} MiB, {stats['bytes'] / stats['events']:.0f} bytes per event")
        for figure, call in _FIGURES.items():
            _compare(figure, call, small, large)
        _restart(small)
        _restart(large)
        _compact(large)
        for figure, call in _FIGURES.items():
            _compare(f"{figure}, compacted", call, small, large)
        _restart(large)


def _compare(figure: str, call: Callable[[Filled, Random], Callable[[], object]], small: Filled, large: Filled) -> None:
    times: dict[Filled, list[float]] = {small: [], large: []}
    random = Random(figure)
    for _ in range(_ROUNDS):
        for filled, timed in times.items():
            calls = [call(filled, random) for _ in range(_CALLS)]
            for one in calls:
                started = perf_counter_ns()
                one()
                timed.append((perf_counter_ns() - started) / 1000)
    few, many = (median(timed[len(timed) // 10 :]) for timed in times.values())
    p99 = [sorted(timed)[len(timed) * 99 // 100] for timed in times.values()]
    print(
        f"{figure}: {few:.1f} µs at {small.events:,} events, {many:.1f} µs at {large.events:,}: "
        f"{many / few:.2f} times (p99 {p99[0]:.0f}, {p99[1]:.0f})",
        flush=True,
    )


def _commit_to_one_stream(filled: Filled, random: Random) -> Callable[[], object]:
    del random
    return partial(filled.store.commit_events, [filled.next_event(7)])


def _commit_anywhere(filled: Filled, random: Random) -> Callable[[], object]:
    return partial(filled.store.commit_events, [filled.next_event(random.randrange(filled.aggregates))])


def _commit_a_new_stream(filled: Filled, random: Random) -> Callable[[], object]:
    return partial(filled.store.commit_events, [ms.Event(f"new-{random.random()}", 1, EVENT_TYPE, body(1))])


def _read_anywhere(filled: Filled, random: Random) -> Callable[[], object]:
    return partial(filled.store.get_events, filled.name(random.randrange(filled.aggregates)))


def _is_new_of_one(filled: Filled, random: Random) -> Callable[[], object]:
    del random
    return partial(filled.store.last_sequence, filled.name(7))


def _is_new_anywhere(filled: Filled, random: Random) -> Callable[[], object]:
    return partial(filled.store.last_sequence, filled.name(random.randrange(filled.aggregates)))


_FIGURES: Final = {
    "commit to one stream": _commit_to_one_stream,
    "commit to any stream": _commit_anywhere,
    "commit of a new stream": _commit_a_new_stream,
    "read of any stream": _read_anywhere,
    "freshness check of one stream": _is_new_of_one,
    "freshness check of any stream": _is_new_anywhere,
}


def _restart(filled: Filled) -> None:
    """From the kill of a server to the first commit of the next one."""
    times = []
    for _ in range(_RESTARTS):
        pid = filled.store.stats()["server_pid"]
        os.kill(pid, signal.SIGKILL)
        while _is_alive(pid):
            time.sleep(0.001)
        started = perf_counter()
        filled.store.commit_events([filled.next_event(7)])
        times.append((perf_counter() - started) * 1000)
    print(f"restart at {filled.events:,} events: {median(times):.0f} ms, worst {max(times):.0f} ms", flush=True)


def _compact(filled: Filled) -> None:
    """With a quarter of the streams truncated, and snapshots that were replaced."""
    started = perf_counter()
    for number in range(0, filled.aggregates, 4):
        name = filled.name(number)
        last = filled.store.last_sequence(name) or 0
        for sequence in (last - 1, last):
            filled.store.commit_snapshot(ms.Snapshot(name, sequence, body(number)))
        filled.store.truncate(name, before=last)
    seconds = perf_counter() - started
    print(f"truncated {len(range(0, filled.aggregates, 4)):,} streams in {seconds:.0f} s", flush=True)
    before = _log_bytes(filled)
    alone = _commits_until(filled, Random(1), after(20))
    compaction = threading.Thread(target=filled.store.compact)
    started = perf_counter()
    compaction.start()
    beside = _commits_until(filled, Random(1), lambda: not compaction.is_alive())
    seconds = perf_counter() - started
    mib = 2**20
    print(f"compacted {before / mib:,.0f} MiB of log to {_log_bytes(filled) / mib:,.0f} in {seconds:.0f} s")
    worst = max(range(len(beside)), key=beside.__getitem__)
    left = sum(beside[worst:]) / 1e6
    print(f"the slowest commit meanwhile was some {left:.1f} s before the end")
    for what, times in (("without", alone), ("while it compacts", beside)):
        times.sort()
        p999 = times[len(times) * 999 // 1000]
        print(
            f"commits {what}: {len(times):,}, median {median(times):.0f} µs, p99 {times[len(times) * 99 // 100]:.0f}, "
            f"p99.9 {p999:.0f}, worst {times[-1]:.0f}",
            flush=True,
        )


def after(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds are over from now on."""
    end = perf_counter() + seconds
    return lambda: perf_counter() >= end


def _commits_until(filled: Filled, random: Random, is_over: Callable[[], bool]) -> list[float]:
    """Their times in µs."""
    times = []
    while not is_over():
        commit = _commit_anywhere(filled, random)
        started = perf_counter_ns()
        commit()
        times.append((perf_counter_ns() - started) / 1000)
    return times


def _log_bytes(filled: Filled) -> int:
    with closing(head.open_header(Path(filled.store.stats()["directory"]))) as header:
        return header.words[head.PUBLISHED]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
