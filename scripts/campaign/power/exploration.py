"""Random lives of a store, random moments in them, random states of the disk: are they all recovered as they may be?"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from campaign.power.faults import NO_FAULT, Fault
from campaign.power.ledger import Commit, World
from campaign.power.moment import Moment, State
from campaign.power.recorder import Recorder
from campaign.power.script import (
    ALIKE,
    ALIKE_AND_KILLED,
    BEGINNING,
    FILLING_SEGMENTS,
    OF_ALL_KINDS,
    OFTEN_KILLED,
    OFTEN_RESET,
    Script,
)
from campaign.power.small import Boot
from campaign.power.trial import Seen, seen_at, try_recovery
from maestro_shm.options import POWER

_STATES_OF_A_MOMENT: Final = 12
_TRIALS_FOR_A_STATE: Final = 3
_STATES_OF_A_LIFE: Final = (2000, 30)
"""And of one that begins with a loss of power."""
_STATES_OF_A_FAULTY_LIFE: Final = (100, 10)
"""Fewer, so that many lives are tried: what a fault needs to show may be rare."""
_TASTES: Final = (
    (OF_ALL_KINDS, FILLING_SEGMENTS, OFTEN_RESET, OFTEN_KILLED, ALIKE, ALIKE_AND_KILLED, BEGINNING),
    (12, 2, 2, 2, 1, 1, 1),
)
"""What lives are like, and how often."""
_SECOND_LOSSES_OF_A_LIFE: Final = 20
_MISTAKES: Final = (AttributeError, NameError, TypeError)
"""Of the programs, a planted fault's or our own: no loss is shown by them, and no fault caught."""
_MORE_WITH_LEFTOVERS: Final = 10
"""Second losses where the first has left something behind the end of the log, which must not come back."""


@dataclass
class Outcome:
    """Of some states."""

    states: int = 0
    second: int = 0
    """Of them those after a second loss of power."""
    losses: list[str] = field(default_factory=list)


class Explorer:
    """Explores as many states as it is told, in a directory of its own."""

    def __init__(self, scratch: Path, seed: str, *, durability: str, fault: Fault = NO_FAULT) -> None:
        self.outcome = Outcome()
        self._scratch = scratch
        self._seed = seed
        self._random = random.Random(seed)
        self._durability = durability
        self._fault = fault
        self._taste = OF_ALL_KINDS
        self._limit = 0
        self._life = 0
        self._second_losses_left = 0

    def explore(self, states: int) -> Outcome:
        """Live until so many different states were tried."""
        self._limit = states
        with self._fault.planted_in_recovery():
            while not self._is_done():
                self._life += 1
                self._second_losses_left = _SECOND_LOSSES_OF_A_LIFE
                gc.collect()
                Boot.number = 1
                self._taste = self._fault.taste or self._random.choices(*_TASTES)[0]
                self._live_once(self._scratch / f"life-{self._life}", self._random.choice(self._taste.actions), None)
        return self.outcome

    def _is_done(self) -> bool:
        return self.outcome.states >= self._limit or (self._fault is not NO_FAULT and bool(self.outcome.losses))

    def _live_once(self, place: Path, actions: int, found: list[Commit] | None) -> None:
        """Record one life, from nothing or from what was found on a disk, and try what may come of it."""
        place.mkdir(exist_ok=True)
        try:
            recorder = Recorder(place / "store", self._fault.forgets)
            script = Script(recorder, self._random, self._durability, self._taste, found)
            with contextlib.closing(script), recorder, self._fault.planted():
                script.live(actions)
        except _MISTAKES:
            raise
        except Exception as error:  # noqa: BLE001 (lost or refused without any loss of power)
            self.outcome.losses.append(f"seed {self._seed!r}, life {self._life}: {type(error).__name__}: {error}")
            return
        finally:
            shutil.rmtree(place)
        self._try_states(recorder, script, is_second=found is not None)

    def _try_states(self, recorder: Recorder, script: Script, *, is_second: bool) -> None:
        known: set[int] = set()
        first, second = _STATES_OF_A_LIFE if self._fault is NO_FAULT else _STATES_OF_A_FAULTY_LIFE
        wanted = second if is_second else first
        attempts = 0
        boot = Boot.number
        (self._scratch / "state").mkdir(exist_ok=True)
        while len(known) < wanted and attempts < wanted * _TRIALS_FOR_A_STATE and not self._is_done():
            now = self._random.randint(script.start, recorder.history.now)
            moment = Moment(recorder.history, now, self._random)
            worlds = script.worlds(now)
            seen = seen_at(recorder.history, now) if self._durability == POWER else None
            for _ in range(_STATES_OF_A_MOMENT if moment.is_open else 1):
                attempts += 1
                state = moment.state()
                mark = hash((state, worlds))
                if mark in known or self._is_done():
                    continue
                known.add(mark)
                Boot.number = boot
                self._try_state(state, worlds, seen, f"life {self._life} at {now}", is_second=is_second)

    def _try_state(
        self, state: State, worlds: tuple[World, ...], seen: Seen | None, where: str, *, is_second: bool
    ) -> None:
        directory = self._scratch / "state" / "store"
        self.outcome.states += 1
        self.outcome.second += is_second
        try:
            state.build(directory)
            found = try_recovery(directory, worlds, seen, self._random, self._durability)
        except _MISTAKES:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, what was there cannot be had)
            self.outcome.losses.append(f"seed {self._seed!r}, {where}: {type(error).__name__}: {error}")
            return
        finally:
            clear(directory)
        share = self._taste.second_losses
        if state.has_more(found.incarnation, found.end):
            share *= _MORE_WITH_LEFTOVERS
        if not is_second and self._second_losses_left and self._random.random() < share:
            self._second_losses_left -= 1
            self._lose_power_again(state, found.commits)

    def _lose_power_again(self, state: State, found: list[Commit]) -> None:
        """The recovery is recorded like a life, from the same state, with some commits after it."""
        place = self._scratch / f"life-{self._life}-again"
        place.mkdir()
        state.build(place / "store")
        self._live_once(place, self._random.choice((0, 1, 3)), found)


def clear(directory: Path) -> None:
    """Remove the store's directory."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 (a path's own methods take twice as long)
    except FileNotFoundError:
        return
    for name in names:
        os.unlink(f"{directory}/{name}")  # noqa: PTH108 (see above)
    os.rmdir(directory)  # noqa: PTH106 (see above)
