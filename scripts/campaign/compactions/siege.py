"""One store under siege: processes killed at any moment of a compaction, and what is left looked at each time."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final, NamedTuple

from processes import compactors_of, servers_of

from campaign.compactions import ending
from campaign.compactions.scene import Scene
from campaign.compactions.stage import Stage, stage, wait_for
from campaign.compactions.victim import Victim, victim_of
from campaign.planting import servers_begin_with
from maestro_shm.shared import header as head

SERVER: Final = "the server"
COMPACTOR: Final = "the compactor"
BOTH: Final = "both"
WORKER: Final = "a worker"
CALLER: Final = "who had called"
_KINDS: Final = (SERVER, SERVER, COMPACTOR, BOTH, BOTH, WORKER, CALLER)
_AIMS: Final = (Stage.ELSEWHERE, Stage.COPY, Stage.COPY, Stage.SWITCH, Stage.SWITCH)
_DELAYS: Final = {Stage.ELSEWHERE: (1e-3, 1.0), Stage.COPY: (1e-4, 0.3), Stage.SWITCH: (1e-5, 5e-3)}
"""Seconds between what a kill is aimed at and the kill: any order of magnitude is as likely as another."""


class Outcome(NamedTuple):
    """What came of a siege."""

    faults: list[str]
    kills: Counter[str]
    """By those who were killed."""
    stages: Counter[Stage]
    compactions: int
    given_back: int
    """Bytes of the log."""
    events: int
    floors: int


class Siege:
    """Of the store of one scene."""

    def __init__(self, scene: Scene, choices: random.Random) -> None:
        self._scene = scene
        self._directory = scene.directory
        self._choices = choices
        self.kills: Counter[str] = Counter()
        self.stages: Counter[Stage] = Counter()

    def kill(self, count: int) -> None:
        """So many times, and look at the store each time, when there is a server again."""
        while self.kills.total() < count and not self._is_decided:
            with ExitStack() as stack:
                compactor = next(self._compactors(stack), None)
                if compactor is not None and self._aim_and_kill(compactor):
                    self._scene.audit()

    def look_on(self, compactions: int) -> None:
        """Kill nobody, and look at the store behind each of so many compactions."""
        while compactions and not self._is_decided:
            self._wait_for_compaction_after(self._scene.word(head.COMPACTIONS))
            self._scene.audit()
            compactions -= 1

    @property
    def _is_decided(self) -> bool:
        return self._scene.is_over or bool(self._scene.ledger.faults)

    def _compactors(self, stack: ExitStack) -> Iterator[Victim]:
        while not self._is_decided:
            if (found := victim_of(compactors_of, self._directory)) is not None:
                yield stack.enter_context(found)

    def _aim_and_kill(self, compactor: Victim) -> bool:
        """Whether it came to that before the compaction was over."""
        began, aim, kind = time.time(), self._choices.choice(_AIMS), self._choices.choice(_KINDS)
        server = victim_of(servers_of, self._directory)
        if server is None:
            return False
        with server:
            wait_for(aim, self._directory, began, lambda: compactor.is_gone)
            time.sleep(_any_of(self._choices, *_DELAYS[aim]))
            if compactor.is_gone:
                return False
            self._kill(kind, server, compactor)
            if kind in (SERVER, BOTH):
                server.wait()
            self.kills[kind] += 1
            self.stages[stage(self._directory, began)] += 1
            if kind in (SERVER, BOTH):
                self._wait_for_server_after(server.pid)
        return True

    def _kill(self, kind: str, server: Victim, compactor: Victim) -> None:
        if kind == WORKER:
            self._scene.kill_a_pruner()
        elif kind == CALLER:
            self._scene.kill_the_caller()
        else:
            victims = {SERVER: [server], COMPACTOR: [compactor], BOTH: [server, compactor]}[kind]
            for victim in self._choices.sample(victims, len(victims)):
                victim.kill()

    def _wait_for_compaction_after(self, number: int) -> None:
        self._scene.wait(lambda: self._scene.word(head.COMPACTIONS) != number, "the store is compacted")

    def _wait_for_server_after(self, pid: int) -> None:
        self._scene.wait(lambda: self._scene.word(head.SERVER_PID) != pid, "there is a server again")


def _any_of(choices: random.Random, least: float, most: float) -> float:
    share: float = (most / least) ** choices.random()
    return least * share


def besiege(
    target: str,
    durability: str,
    choices: random.Random,
    *,
    kills: int = 0,
    looks: int = 0,
    patience: float = ending.PATIENCE,
) -> Outcome:
    """Kill so often, look on for so many compactions, and see in the end that all is as it should be."""
    with servers_begin_with(ending.SHORT_GRACE), Scene(target, durability, choices) as scene:
        siege = Siege(scene, choices)
        siege.kill(kills)
        siege.look_on(looks)
        words = scene.word(head.COMPACTIONS), scene.word(head.SHORTER)
        ending.end(scene, choices, patience)
        ledger = scene.ledger
        return Outcome(ledger.faults, siege.kills, siege.stages, *words, ledger.events, ledger.floors)
