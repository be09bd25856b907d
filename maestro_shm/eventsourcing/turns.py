"""Turns: how many calls of a process may be under way at once.

A store has a line to its server for each call under way. More of them than the server can answer at once bring
nothing, and hundreds of threads would open hundreds.
"""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import AbstractContextManager
from typing import Final

MOST_CALLS: Final = 8


class Turns:
    """Of all threads of a process; a forked one begins with its own.

    They are handed out one after the other. A lock for each, and no counter with a condition, since nothing can come
    between taking a lock by `with` and the block: an interrupted thread never keeps one. Who has one and makes another
    call, in a signal's handler, does not wait for itself.
    """

    def __init__(self) -> None:
        self._begin()

    def next(self) -> AbstractContextManager[bool]:
        """A turn, to be taken by `with`."""
        if self._process != os.getpid():
            self._begin()
        return self._turns[next(self._numbers) % MOST_CALLS]

    def _begin(self) -> None:
        self._turns = [threading.RLock() for _ in range(MOST_CALLS)]
        self._numbers = itertools.count()
        self._process = os.getpid()
