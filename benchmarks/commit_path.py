"""The way of a commit, against its goals: `python -m benchmarks.commit_path [--quick]`, from the root of the checkout.

Everyone in turn within one run; the ratios of medians count. What a store of ten million events does is another run,
`benchmarks.size`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any, Final

from rich.console import Console
from rich.table import Table

import maestro_shm as ms
from benchmarks import machine
from benchmarks.child import FORK, Child
from benchmarks.contestant import Contestant
from benchmarks.figures import COMMIT, COMMIT_BATCH, play
from benchmarks.goals import Goal
from benchmarks.in_turns import time_in_turns
from benchmarks.rivals.lmdb_file import LmdbFile
from benchmarks.rivals.maestro import Maestro
from benchmarks.rivals.manager_dict import ManagerDict
from benchmarks.rivals.rival import Contender
from benchmarks.rivals.sqlite_file import SqliteFile
from benchmarks.rivals.sqlite_shared import SqliteShared
from benchmarks.settings import QUICK, Settings
from benchmarks.tables import goal_table
from benchmarks.timing import Timing, summarize
from benchmarks.workers import compare_crowds
from benchmarks.workload import body

_FEW: Final = 4
_MANY: Final = 8
_MEMORY: Final = Path("/dev/shm")
_EVALUATE: Final = "evaluate on a cached root"
_SUBMIT: Final = "submitted and told, per commit"
_SUBMITTED: Final = 500
_IDLE_SECONDS: Final = 5.0
_PATIENCE: Final = 60


class _Counter(ms.Aggregate):
    initial_state = 0

    @ms.on_command("count")
    def count(self, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("deposited", command.data)]

    @ms.on_event("deposited")
    def deposited(state: int, _event: ms.Event) -> int:  # noqa: N805 (a plain function)
        return state + 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the way of a commit, against its goals.")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    settings = QUICK if parser.parse_args().quick else replace(QUICK, rounds=60, worker_rounds=5)
    console = Console(highlight=False)
    timings, goals = measure(settings, console.print)
    console.print(_timing_table(timings))
    console.print(goal_table(goals))
    place = machine.describe()
    console.print(f"{place['cpu']}, {place['cores']} cores, {place['system']}, {place['python']}, load {place['load']}")


def measure(settings: Settings, say: Callable[[str], None]) -> tuple[list[Timing], list[Goal]]:
    """Everything that one caller and several workers do."""
    say("one worker …")
    timings = _time_one_worker(settings)
    medians = {(timing.figure, timing.rival): timing.median_us for timing in timings}
    ours = medians[COMMIT.name, Maestro.name]
    goals = [
        Goal("commit: as long as SQLite takes in the same process", ours / medians[COMMIT.name, SqliteFile.name], 0.6),
        Goal("commit: as long as LMDB takes in the same process", ours / medians[COMMIT.name, LmdbFile.name], 3),
        Goal(
            "commit: faster than a stock manager's dict and lock",
            medians[COMMIT.name, ManagerDict.name] / ours,
            50,
            at_least=True,
        ),
        Goal("evaluate on a cached root: as long as a commit takes", medians[_EVALUATE, Maestro.name] / ours, 2),
        Goal(
            "events/s, 100 in a commit",
            1e6 / medians[COMMIT_BATCH.name, Maestro.name],
            300_000,
            at_least=True,
            unit="",
        ),
    ]
    say(f"{_FEW} workers …")
    goals.append(_compare_few(settings))
    say(f"{_MANY} workers …")
    crowd = _time_crowd(_MANY, settings.worker_seconds)
    timings.append(crowd)
    goals.append(Goal(f"p99 of {_MANY} workers' commits: of their median", crowd.p99_us / crowd.median_us, 10))
    say("nobody works …")
    goals.append(Goal(f"CPU of an idle store with {_MANY} clients", _idle_share() * 100, 0.1, unit=" %"))
    return timings, goals


def _time_one_worker(settings: Settings) -> list[Timing]:
    with ExitStack() as stack:
        rivals = (Maestro, SqliteFile, LmdbFile, ManagerDict)
        contestants = [Contestant(stack.enter_context(_opened(rival))) for rival in rivals]
        timings = play(COMMIT, contestants, settings)
        timings += play(COMMIT_BATCH, contestants[:3], settings)
        store = stack.enter_context(ms.connect())
        root = _Counter(store, "cached")
        evaluate = partial(root.evaluate, ms.Command("count", body(0)))
        timings += time_in_turns(_EVALUATE, {Maestro.name: lambda: evaluate}, settings)
        timings.append(_time_submissions(store, settings))
    return timings


def _time_submissions(store: ms.Store, settings: Settings) -> Timing:
    durations = []
    for turn in range(settings.rounds):
        commits = [[ms.Event(f"s-{turn}-{number}", 1, "deposited", body(number))] for number in range(_SUBMITTED)]
        started = perf_counter_ns()
        futures = [store.submit(events) for events in commits]
        for future in futures:
            future.result()
        durations.append(perf_counter_ns() - started)
    return summarize(_SUBMIT, Maestro.name, durations, _SUBMITTED)


def _compare_few(settings: Settings) -> Goal:
    with _opened(Maestro) as ours, _opened(SqliteShared) as theirs:
        measured = compare_crowds([ours, theirs], (_FEW,), settings)
        rates = {throughput.rival: throughput.commits_per_second for throughput in measured}
    title = f"commits/s of {_FEW} workers ({rates[ours.name]:,.0f}): of SQLite's ({rates[theirs.name]:,.0f})"
    return Goal(title, rates[ours.name] / rates[theirs.name], 3, at_least=True)


def _time_crowd(workers: int, seconds: float) -> Timing:
    """How long commits take of each of so many workers that commit all the time."""
    barrier = FORK.Barrier(workers)
    with ExitStack() as stack:
        store = stack.enter_context(ms.connect())
        crowd = [
            stack.enter_context(Child(partial(_commit_for, store, barrier, f"w{number}", seconds)))
            for number in range(workers)
        ]
        durations = [one for worker in crowd for one in worker.receive()]
    return summarize(f"commit of 1 event, {workers} workers", Maestro.name, durations)


def _commit_for(store: ms.Store, barrier: Barrier, name: str, seconds: float, line: Connection) -> None:
    store.commit_events([ms.Event(name, 1, "deposited", body(0))])
    barrier.wait(_PATIENCE)
    durations = []
    end = perf_counter_ns() + int(seconds * 1e9)
    sequence = 1
    while (started := perf_counter_ns()) < end:
        sequence += 1
        store.commit_events([ms.Event(name, sequence, "deposited", body(sequence))])
        durations.append(perf_counter_ns() - started)
    line.send(durations)


def _idle_share() -> float:
    """Which part of a processor the server and all its clients take together while nobody does anything."""
    with ExitStack() as stack:
        store = stack.enter_context(ms.connect())
        crowd = [stack.enter_context(Child(partial(_idle, store, f"i{number}"))) for number in range(_MANY)]
        processes = [int(store.stats()["server_pid"]), *(worker.receive() for worker in crowd)]
        sleep(1)
        before = sum(map(_processor_seconds, processes))
        sleep(_IDLE_SECONDS)
        return (sum(map(_processor_seconds, processes)) - before) / _IDLE_SECONDS


def _idle(store: ms.Store, name: str, line: Connection) -> None:
    store.commit_events([ms.Event(name, 1, "deposited", body(0))])
    line.send(os.getpid())
    line.recv()


def _processor_seconds(process: int) -> float:
    """By the scheduler's own account, in nanoseconds; that of `stat` counts in ticks of 10 ms."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def _timing_table(timings: list[Timing]) -> Table:
    table = Table("figure", "rival", title="Times in µs")
    for heading in ("median", "p99"):
        table.add_column(heading, justify="right")
    for timing in timings:
        table.add_row(timing.figure, timing.rival, f"{timing.median_us:,.2f}", f"{timing.p99_us:,.2f}")
    return table


@contextmanager
def _opened(rival: type[Any]) -> Iterator[Any]:
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="maestro-bench-", dir=place) as directory:
        contender: Contender = rival(Path(directory))
        with contender:
            yield contender


if __name__ == "__main__":
    main()
