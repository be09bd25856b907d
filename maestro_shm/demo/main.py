"""The demo from end to end: read, fly, show, check.

Rules kept here: the exit code is 0 only if every total in the store agrees with the recount, and so does the table of
where every aircraft is.
"""

from __future__ import annotations

import multiprocessing
import sys
import time

from rich.console import Console

import maestro_shm as ms
from maestro_shm.demo.check import States, differences, read_states
from maestro_shm.demo.data import Flight, flights_file, read_flights
from maestro_shm.demo.recount import Recount, recount
from maestro_shm.demo.replay import replay
from maestro_shm.demo.report import Figures, show, with_bar


def run(days: int, workers: int) -> int:
    """Run the demo and return its exit code."""
    console = Console(highlight=False)
    flights = read_flights(flights_file(), days)
    console.print(f"flights: {len(flights):,}, days: {days}, workers: {workers}")
    try:
        with ms.connect() as store:
            figures = fly(console, store, flights, workers)
            expected = recount(flights_file(), days)
            states = read_states(store, expected)
            show(console, figures, states)
            return _check(store, states, expected)
    except multiprocessing.TimeoutError:
        print("error: no worker has finished anything for a long time; was one of them killed?", file=sys.stderr)
        return 1


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
    what = f"{len(states):,} aggregates, {expected.events:,} events and {len(expected.places):,} places"
    print(f"checked {what} against the CSV: {verdict}")
    return 1 if found else 0
