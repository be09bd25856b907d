"""Signals whose handler raises, in the midst of calls."""

from __future__ import annotations

import random
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Final, Self, TypeVar

from maestro_shm.shared import proxy

T = TypeVar("T")

_SHORTEST: Final = 3e-6
_LONGEST: Final = 3e-4


class InterruptError(Exception):
    """What a program's own handler may raise."""


_RAISED: Final = (InterruptError, KeyboardInterrupt, TimeoutError)


class Interrupts:
    """Interrupts calls of the main thread after random times, while the `with` lasts."""

    def __init__(self, random: random.Random) -> None:
        self.met = 0
        """How many calls were on their way to the server or back when they were interrupted."""
        self._random = random

    def call(self, ask: Callable[[], T]) -> T | None:
        """What a function returns; None where it was interrupted before it had."""
        told: T | None = None
        delay = _SHORTEST * (_LONGEST / _SHORTEST) ** self._random.random()
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            told = ask()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except _RAISED as error:
            if told is None:
                self.met += any(
                    frame.f_code.co_filename == proxy.__file__ for frame, _ in traceback.walk_tb(error.__traceback__)
                )
        return told

    def __enter__(self) -> Self:
        # Who is interrupted between opening a file or socket and taking it into his hands leaves it to the collector.
        self._warnings = warnings.catch_warnings(action="ignore", category=ResourceWarning)
        self._warnings.__enter__()
        self._hook, sys.unraisablehook = sys.unraisablehook, self._pass_over
        self._former = signal.signal(signal.SIGALRM, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._former)
        sys.unraisablehook = self._hook
        self._warnings.__exit__(None, None, None)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        raise self._random.choice(_RAISED)

    def _pass_over(self, lost: sys.UnraisableHookArgs) -> None:
        """Say nothing of a signal whose handler raised within a finalizer, where Python lets it end."""
        if not isinstance(lost.exc_value, _RAISED):
            self._hook(lost)
