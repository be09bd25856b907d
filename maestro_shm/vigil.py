"""A wait that another thread may end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Vigil:
    """Of one waiter. Whoever waits says how it is woken, and looks afterwards whether it is over."""

    def __init__(self) -> None:
        self.is_over = False
        self._wake: Callable[[], object] | None = None

    def end(self) -> None:
        """Let the wait that is under way, and every later one, end at once."""
        self.is_over = True
        self.wake()

    def wake(self) -> None:
        """Let the wait that is under way end at once, whatever comes of it."""
        if (wake := self._wake) is not None:
            wake()

    @contextlib.contextmanager
    def woken_by(self, wake: Callable[[], object]) -> Iterator[None]:
        """While somebody waits: it must look whether the vigil is over after this has begun."""
        self._wake = wake
        try:
            yield
        finally:
            self._wake = None
