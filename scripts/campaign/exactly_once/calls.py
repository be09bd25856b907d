"""Interrupted calls and raw forks: each reply belongs to its request, and each read gives what was asked for.

Threads and forks ask through one handle, each for streams of its own: who takes another's reply is found out.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from processes import named_target

import maestro_shm as ms
from campaign.check import Finding, Run
from campaign.exactly_once import exchanges, planted_outcomes
from campaign.exactly_once.asker import Asker, Notes, Read, at_once, wrong_reads
from campaign.exactly_once.at_work import threads_at_work
from campaign.exactly_once.forks import Forks
from campaign.exactly_once.interrupts import Interrupts
from campaign.exactly_once.outcomes import Frames, faults_of, frames_of
from maestro_shm.shared.store import path_of

_THREADS: Final = 3


def check(run: Run) -> Iterator[Finding]:
    """The calls that are interrupted, those of forks, and replies that are exchanged on their way."""
    interrupted = run.count(full=1000, quick=100)
    yield _finding(run, f"{interrupted:,} interrupted calls", partial(_ask_interrupted, run, interrupted))
    forks = run.count(full=1000, quick=60)
    yield _finding(run, f"{forks:,} raw forks", partial(_ask_in_forks, run, forks))
    yield exchanges.finding(run)


def _finding(run: Run, figure: str, ask: Callable[[ms.Store], tuple[Notes, str]]) -> Finding:
    with named_target() as target, ms.connect(target) as store:
        notes, done = ask(store)
        frames = frames_of(path_of(target))
    wrong = faults_of(notes.commits, frames).total() + wrong_reads(notes.reads)
    plants = run.count(full=120, quick=33)
    found = _caught(run.random(figure), plants, notes, frames)
    return Finding(
        figure=figure,
        goal="0 wrong replies",
        found=f"{wrong} wrong of {len(notes.commits):,} commits and {len(notes.reads):,} reads ({done})",
        met=wrong == 0,
        planted=f"{found} of {plants}",
        caught_all=found == plants,
    )


def _caught(random: random.Random, count: int, notes: Notes, frames: Frames) -> int:
    """How many planted faults are found: a third in what was read, the others in what was committed."""
    reads = count // 3
    found = planted_outcomes.caught(random, count - reads, notes.commits, frames, with_rivals=False)
    before = wrong_reads(notes.reads)
    return found + sum(wrong_reads(_with_two_exchanged(random, notes.reads)) > before for _ in range(reads))


def _with_two_exchanged(random: random.Random, reads: list[Read]) -> list[Read]:
    one = random.choice(reads)
    other = random.choice([read for read in reads if read.answered != one.answered])
    exchanged = [Read(one.expected, other.answered), Read(other.expected, one.answered)]
    return [*(read for read in reads if read is not one and read is not other), *exchanged]


def _ask_interrupted(run: Run, count: int, store: ms.Store) -> tuple[Notes, str]:
    asker, others = _askers(store, run)
    with Interrupts(run.random("calls", "interrupts")) as interrupts:
        while interrupts.met < count // 2:
            asker.ask(interrupts.call)
        with threads_at_work(*(partial(other.ask, at_once) for other in others)):
            while interrupts.met < count:
                asker.ask(interrupts.call)
    return _all_notes(asker, *others), f"{interrupts.met:,} interrupted"


def _ask_in_forks(run: Run, count: int, store: ms.Store) -> tuple[Notes, str]:
    """Half of the forks while other threads are in mid-call, half without other threads."""
    asker, others = _askers(store, run)
    choices = run.random("calls", "forks")
    with contextlib.ExitStack() as stack:
        # That there are threads when it forks is what Python warns of, and what is meant.
        stack.enter_context(warnings.catch_warnings(action="ignore", category=DeprecationWarning))
        forks = stack.enter_context(Forks(store, asker, choices))
        with threads_at_work(*(partial(other.ask, at_once) for other in others)):
            while forks.count < count // 2:
                choices.choice((forks.fork, forks.fork_in_a_call, forks.fork_among_waiting_threads))()
                forks.reap()
        while forks.count < count:
            choices.choice((forks.fork_in_a_call, forks.fork_in_c_in_a_call))()
            forks.reap()
        forks.reap(0)
    notes = _all_notes(asker, *others)
    notes += forks.notes
    return notes, ", ".join(f"{number:,} {name}" for name, number in forks.counts.items())


def _askers(store: ms.Store, run: Run) -> tuple[Asker, list[Asker]]:
    """One for this thread, and one for each of some others."""
    others = [Asker(store, f"thread-{number}", run.seed) for number in range(_THREADS)]
    return Asker(store, "main", run.seed), others


def _all_notes(*askers: Asker) -> Notes:
    notes = Notes()
    for asker in askers:
        notes += asker.notes
    return notes
