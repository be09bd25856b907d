"""Turns: how many calls of a process may be under way at once.

A store has a line to its server for each call under way. More of them than the server can answer at once bring
nothing, and hundreds of threads would open hundreds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from maestro_shm import turns

MOST_CALLS: Final = 8


class Turns:
    """Of all threads of a process; a forked one begins with its own.

    Who has one, of whatever store, and makes another call takes none: in a transaction's function, or in a signal's
    handler. So nobody waits for himself, and no two wait for each other.
    """

    def __init__(self) -> None:
        self._begin()

    @contextmanager
    def next(self) -> Iterator[None]:
        """While a call is under way."""
        if getattr(_mine, "has_one", False):
            yield
            return
        if self._process != os.getpid():
            self._begin()
        of_process = self._turns
        turn = of_process.take()
        try:
            _mine.has_one = True
            yield
        finally:
            _mine.has_one = False
            of_process.give_back(turn)

    def _begin(self) -> None:
        self._turns = turns.Turns(MOST_CALLS)
        self._process = os.getpid()


_mine: Final = threading.local()
