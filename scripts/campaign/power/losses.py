"""The check: how many states of a disk after a loss of power are recovered as they may be, and are faults caught?"""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from campaign.check import Finding, Run
from campaign.power import faults
from campaign.power.exploration import Explorer, Outcome
from campaign.power.recorder import tell_of_flushes
from campaign.power.small import make_small
from maestro_shm.options import POWER, PROCESS

_STATES_AT_ONCE: Final = 10_000
_STATES_FOR_A_FAULT: Final = 200_000
"""In which each planted fault has to be caught; the rarest took 2,500 to 23,000."""
_SHARED_MEMORY: Final = Path("/dev/shm")
_SHOWN: Final = 10


class _Task(NamedTuple):
    """States to try: how many, in what mode, with what fault."""

    seed: str
    states: int
    durability: str
    fault: int | None = None
    """Its number, since a fault cannot be pickled."""


def check(run: Run) -> Iterator[Finding]:
    """What power may take, in both modes."""
    choices = run.random("power")
    with tempfile.TemporaryDirectory(dir=_SHARED_MEMORY if _SHARED_MEMORY.exists() else None) as scratch:
        context = multiprocessing.get_context("spawn")
        workers = os.cpu_count() or 1
        with ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(scratch,)) as pool:
            try:
                for durability, count in ((POWER, run.count(1_000_000, 4_000)), (PROCESS, run.count(100_000, 2_000))):
                    tasks = list(_tasks(str(choices.getrandbits(32)), durability, count, workers))
                    planted = list(_planted(str(choices.getrandbits(32)), durability, with_rare=not run.quick))
                    outcomes = list(pool.map(_explore, [*planted, *tasks]))
                    yield _finding(durability, outcomes[len(planted) :], outcomes[: len(planted)], planted)
            finally:
                pool.shutdown(cancel_futures=True)


def _tasks(seed: str, durability: str, count: int, workers: int) -> Iterator[_Task]:
    """Small enough for all workers to have something to do."""
    size = min(_STATES_AT_ONCE, -(-count // workers))
    for number in range(0, count, size):
        yield _Task(f"{seed}-{number}", min(size, count - number), durability)


def _planted(seed: str, durability: str, *, with_rare: bool) -> Iterator[_Task]:
    for number, fault in enumerate(faults.ALL):
        if fault.durability == durability and (with_rare or not fault.is_rare):
            yield _Task(f"{seed}-fault-{number}", _STATES_FOR_A_FAULT, durability, number)


def _prepare(scratch: str) -> None:
    """Make a worker out of a fresh process."""
    global _scratch  # noqa: PLW0603 (a worker's own)
    _scratch = Path(tempfile.mkdtemp(dir=scratch))
    make_small()
    tell_of_flushes()
    gc.disable()  # it is done between two lives


_scratch: Path


def _explore(task: _Task) -> Outcome:
    fault = faults.NO_FAULT if task.fault is None else faults.ALL[task.fault]
    return Explorer(_scratch, task.seed, durability=task.durability, fault=fault).explore(task.states)


def _finding(
    durability: str, outcomes: Iterable[Outcome], caught: Sequence[Outcome], planted: Sequence[_Task]
) -> Finding:
    states = second = 0
    losses: list[str] = []
    for outcome in outcomes:
        states += outcome.states
        second += outcome.second
        losses += outcome.losses
    for loss in losses[:_SHOWN]:
        print(loss, flush=True)
    for task, outcome in zip(planted, caught, strict=True):
        if not outcome.losses:
            print(f"seed {task.seed!r}: not caught: {faults.ALL[task.fault or 0].name}", flush=True)
    found = sum(bool(outcome.losses) for outcome in caught)
    goal, what = _GOALS[durability]
    return Finding(
        figure=f"{states:,} states of a disk after a loss of power, {second:,} of them after a second one: {what}",
        goal=goal,
        found=f"{len(losses):,} were not so",
        met=not losses,
        planted=f"{found} of {len(planted)}",
        caught_all=found == len(planted),
    )


_GOALS: Final = {
    POWER: ("0 with an acknowledged commit lost", '"power" mode'),
    PROCESS: ("0 that are no prefix of whole commits", '"process" mode'),
}
