"""A signal's handler that acts after a while, as a program may have one."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Final, Self

_AGAIN: Final = 5.0
"""Seconds. Where the handler comes while the interpreter is at a callback that it may not raise from, its error is
dropped; then it comes again."""
_AT_LEAST: Final = 0.1


class Alarm:
    """While the `with` lasts the handler acts whenever it is set. The one of the test's own time goes on afterwards."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def set(self, seconds: float) -> None:
        """Let it act after so many seconds."""
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)

    @contextlib.contextmanager
    def after(self, seconds: float) -> Iterator[None]:
        """Let it act after so many seconds, if this lasts so long."""
        self.set(seconds)
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        """Let it act no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def __enter__(self) -> Self:
        self._left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        self._begun = time.monotonic()
        self._former = signal.signal(signal.SIGALRM, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # which lets the handler act first if it is due
        finally:
            self.clear()
            signal.signal(signal.SIGALRM, self._former)
            if self._left:
                signal.setitimer(signal.ITIMER_REAL, max(_AT_LEAST, self._left - (time.monotonic() - self._begun)))

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._act()
