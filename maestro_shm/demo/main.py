"""The demo from end to end: read, fly, show, check.

Rules kept here: the exit code is 0 only if every total in the store agrees with the recount. Ctrl-C ends it with 130
once it has begun, and a second one does not disturb the cleaning up.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

import maestro_shm as ms
from maestro_shm.demo.check import States, differences, read_states
from maestro_shm.demo.data import Flight, flights_file, read_flights
from maestro_shm.demo.recount import Recount, recount
from maestro_shm.demo.replay import replay
from maestro_shm.demo.report import Figures, show, with_bar

_INTERRUPTED = 130


def run(days: int, workers: int) -> int:
    """Run the demo and return its exit code."""
    try:
        with _one_interrupt():
            return _run(days, workers)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except multiprocessing.TimeoutError:
        print("error: no worker has finished anything for a long time; was one of them killed?", file=sys.stderr)
        return 1


def _run(days: int, workers: int) -> int:
    console = Console(highlight=False)
    flights = read_flights(flights_file(), days)
    console.print(f"flights: {len(flights):,}, days: {days}, workers: {workers}")
    with ms.connect() as store:
        figures = fly(console, store, flights, workers)
        expected = recount(flights_file(), days)
        states = read_states(store, expected)
        show(console, figures, states)
        return _check(store, states, expected)


def fly(console: Console, store: ms.Store, flights: list[Flight], workers: int) -> Figures:
    """Fly all flights, with a bar if there is a terminal."""
    started = time.perf_counter()
    done = with_bar(console, replay(store, flights, workers), len(flights))
    return Figures(done, time.perf_counter() - started, workers)


def _check(store: ms.Store, states: States, expected: Recount) -> int:
    found = list(differences(store, states, expected))
    for line in found:
        print(line)
    verdict = f"{len(found):,} differences" if found else "no difference"
    print(f"checked {len(states):,} aggregates and {expected.events:,} events against the CSV: {verdict}")
    return 1 if found else 0


@contextmanager
def _one_interrupt() -> Iterator[None]:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
