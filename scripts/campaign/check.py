"""What a check is told, and what it has to say."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_ATTEMPTS: Final = 3


@dataclass(frozen=True)
class Run:
    """One run of the campaign: how much of everything, and the seed of all its choices."""

    quick: bool
    seed: int

    def count(self, full: int, quick: int) -> int:
        """How often to do something."""
        return quick if self.quick else full

    @property
    def unless_judged(self) -> str:
        """What a goal that is a time adds: a quick run is part of tests, and those judge no times."""
        return " (not judged in a quick run)" if self.quick else ""

    def random(self, *purpose: object) -> random.Random:
        """Choices for one purpose: the same in each run of this seed, whatever else the run does."""
        return random.Random(f"{self.seed} {purpose}")


@dataclass(frozen=True)
class Finding:
    """One line of the table. Every number in it was counted by the run."""

    figure: str
    """What was tried, and how often."""
    goal: str
    found: str
    met: bool
    planted: str
    """How many planted faults were caught, of how many: "300 of 300". A check misses its goal where any was not."""
    caught_all: bool


Check = Callable[[Run], Iterator[Finding]]


def comes_to_light(attempt: Callable[[int], object]) -> bool:
    """Whether a planted fault is found in one of a few attempts, which are told their number.

    Where processes race, a fault strikes when chance has it: on a busy machine not at all in one attempt of some
    hundred, and a run plants as many. What judges the store itself has one attempt only.
    """
    for number in range(_ATTEMPTS):
        if attempt(number):
            return True
        print(f"  a planted fault was not caught in attempt {number + 1} of {_ATTEMPTS}", flush=True)
    return False


class SkippedError(Exception):
    """The check, or a part of it, cannot be run here; the text says why. The table says so aloud."""
