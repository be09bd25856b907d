"""Turns: how many may do something at once; the others wait until one is over."""

from __future__ import annotations

import time
import weakref
from queue import Empty, SimpleQueue


class NoTurnError(Exception):
    """All turns were taken until the deadline."""


class Turn:
    """One of them. Where one gets lost, since a signal's handler raised, a new one is put in its place."""

    def __init__(self, turns: SimpleQueue[Turn]) -> None:
        self._turns = weakref.ref(turns)

    def __del__(self) -> None:
        if (turns := self._turns()) is not None:
            turns.put(Turn(turns))


class Turns:
    """Of all threads of a process. To take one and to give it back has no lock that a signal's handler could meet."""

    def __init__(self, most: int) -> None:
        self._free: SimpleQueue[Turn] = SimpleQueue()
        for _ in range(most):
            self._free.put(Turn(self._free))

    def take(self, deadline: float | None = None) -> Turn:
        """A turn, by a deadline of `time.monotonic`. Raises `NoTurnError`."""
        try:
            return self._free.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except Empty:
            raise NoTurnError from None

    def give_back(self, turn: Turn) -> None:
        """Let others have it."""
        self._free.put(turn)
