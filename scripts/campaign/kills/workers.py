"""Workers killed at any moment while others work: the others feel nothing, and the server keeps nothing of them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple, Self
from unittest import mock

from processes import PATIENCE, Fork, cleaned_up, is_gone, wait_until

import maestro_shm as ms
from campaign.check import Finding, Run, comes_to_light
from campaign.kills import gauges, logbook, victims, writer
from campaign.kills.audit import Outcome, Sent, faults_of
from campaign.kills.faulty_servers import WHEN_DROPPING
from campaign.kills.gauges import Gauges
from campaign.kills.notebook import Flag, Notebook
from campaign.kills.stores import new_target
from campaign.kills.victims import Scene, Victim
from campaign.kills.writer import Told
from campaign.planting import servers_begin_with
from maestro_shm.shared.store import path_of

_HONEST: Final = 3
_NOTES: Final = 1 << 25
_HASTE: Final = 2.0
"""Seconds to wait for what a planted fault keeps: no time would be long enough."""
_ANY_MEMORY: Final = 1 << 60


class Outrage(NamedTuple):
    """What came of some kills."""

    kills: int
    commits: int
    effects: list[str]
    leaks: list[str]
    before: Gauges
    after: Gauges


def check(run: Run) -> Iterator[Finding]:
    """Kill workers; then kill some where a fault is planted."""
    kills = run.count(full=600, quick=16)
    outrage = _kill_workers(run.random("workers"), kills, PATIENCE)
    faults = run.count(full=5 * len(_FAULTS), quick=2)
    choices = run.random("planted")
    caught = sum(
        comes_to_light(partial(fault.is_caught, random.Random(choices.getrandbits(64))))
        for fault in choices.sample(_FAULTS * 5, faults)
    )
    found = [*outrage.effects, *outrage.leaks]
    memory = f"memory {outrage.before.memory >> 10:,} KiB before and {outrage.after.memory >> 10:,} after"
    yield Finding(
        f"{outrage.kills} workers killed in {len(victims.KINDS)} ways beside {_HONEST} others that made "
        f"{outrage.commits:,} commits",
        "0 effects on others, 0 leaks in the server",
        "; ".join([f"{len(outrage.effects)} effects, {len(outrage.leaks)} leaks; {memory}", *found[:3]]),
        met=not found and outrage.kills == kills,
        planted=f"{caught} of {faults}",
        caught_all=caught == faults,
    )


class Scenery:
    """A store with honest workers, where victims are killed."""

    def __init__(self, choices: random.Random) -> None:
        self.kills = 0
        self._choices = choices
        self._sent: list[Sent] = []
        self._wrong: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            target = new_target()
            self.directory = path_of(target)
            stack.enter_context(cleaned_up(self.directory))
            stack.enter_context(mock.patch.dict(os.environ, gauges.PLAIN_ALLOCATOR))
            self._keeper = stack.enter_context(ms.connect(target))
            hoard, sent = victims.make_hoard(self.directory)
            self._sent.append(sent)
            self._hoard = hoard
            self._stop = stack.enter_context(Flag())
            self._honest = [
                stack.enter_context(Fork(partial(writer.write, target, str(n), self._chance(), self._stop)))
                for n in range(_HONEST)
            ]
            wait_until(self._are_all_at_work, "the honest workers are at work")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill_victims(self, count: int) -> None:
        """Of each kind in turns."""
        for number in range(count):
            with self.victim(victims.KINDS[number % len(victims.KINDS)]) as victim:
                time.sleep(self._choices.uniform(0, 0.02))  # the moment is to be any
                if self._choices.random() < 0.2:
                    os.kill(victim.pid, signal.SIGSTOP)
                    time.sleep(self._choices.uniform(0, 0.005))
            self.kills += 1

    @contextlib.contextmanager
    def victim(self, kind: Victim) -> Iterator[Fork[None]]:
        """One that is at its work; in the end it is killed, and what it noted is kept."""
        with Notebook(_NOTES) as notebook:
            scene = Scene(self.directory, notebook, self._hoard)
            with Fork(partial(kind, scene, self._chance())) as victim:
                wait_until(lambda: self._is_at_work(victim, notebook), "a victim is at its work")
                yield victim
                if is_gone(victim.pid):
                    self._wrong.append(f"a worker failed before it was killed: {kind.__name__}")
            self._sent += [note for note in notebook.notes() if isinstance(note, Sent)]

    def gauges(self) -> Gauges:
        return gauges.read(self.directory)

    def settled(self, before: Gauges, patience: float) -> list[str]:
        return gauges.settled(self.directory, before, patience=patience)

    def effects(self) -> tuple[int, list[str]]:
        """Commits of the honest workers, and what they felt: errors, open outcomes, a history that is not theirs."""
        self._stop.raise_it()
        told = [fork.result() for fork in self._honest]
        effects = [*self._wrong, *(text for one in told for text in _felt(one))]
        sent = [*self._sent, *(commit for one in told for commit in one.sent)]
        effects += faults_of(logbook.history_of(self.directory, sent))
        return sum(len(one.sent) for one in told), effects

    @staticmethod
    def _is_at_work(victim: Fork[None], notebook: Notebook) -> bool:
        return victims.READY in notebook.notes() or is_gone(victim.pid)

    def _are_all_at_work(self) -> bool:
        return all(map(self._keeper.last_sequence, [f"own-{number}-0" for number in range(_HONEST)]))

    def _chance(self) -> random.Random:
        return random.Random(self._choices.random())


def _felt(told: Told) -> list[str]:
    is_open = sum(sent.outcome is Outcome.OPEN for sent in told.sent)
    return [*told.wrong, *["a call found no server"] * told.failures, *["a commit of open outcome"] * is_open]


def _kill_workers(choices: random.Random, kills: int, patience: float, stays: Victim | None = None) -> Outrage:
    """Kill so many workers, beside something that stays until the leaks have been counted."""
    with Scenery(choices) as scenery:
        first = scenery.gauges()
        scenery.kill_victims(2 * len(victims.KINDS))  # memory that the server takes once is no leak
        scenery.settled(first._replace(memory=_ANY_MEMORY), patience)
        before = first._replace(memory=gauges.lowest_memory(scenery.directory))
        with scenery.victim(stays) if stays else contextlib.nullcontext():
            scenery.kill_victims(kills)
            leaks = scenery.settled(before, patience)
            after = scenery.gauges()._replace(memory=gauges.lowest_memory(scenery.directory))
        commits, effects = scenery.effects()
        return Outrage(kills, commits, effects, leaks, before, after)


class _Fault(NamedTuple):
    """A peer that stays, or a server that does something wrong when it drops one."""

    stays: Victim | None = None
    source: str = ""

    def is_caught(self, choices: random.Random, _attempt: int) -> bool:
        with servers_begin_with(self.source):
            outrage = _kill_workers(choices, 2 * len(victims.KINDS), _HASTE, self.stays)
        return bool(outrage.leaks or outrage.effects)


_FAULTS: Final = (
    *(_Fault(stays=kind) for kind in victims.STAYING),
    *(_Fault(source=source) for source in WHEN_DROPPING),
)
