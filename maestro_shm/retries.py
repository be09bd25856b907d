"""Attempts of what may meet conflicts: counted, and with pauses between them."""

from __future__ import annotations

import random
import time
from types import TracebackType
from typing import Final, Self

DEFAULT_SECONDS: Final = 30.0
"""For how long to go on."""
_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.05


class Attempts:
    """Counts the attempts of one command and pauses between them: exponential back-off with full jitter."""

    def __init__(self, timeout: float) -> None:
        self.count = 1
        self._started = time.monotonic()
        self._deadline = self._started + timeout
        self._longest = 0.0
        self.is_done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let others go on, whatever the attempts have come to."""

    def succeed(self) -> None:
        """The last attempt was stored."""
        self.is_done = True

    def pause(self, stream: str | None = None) -> bool:  # noqa: ARG002 (for a store that has turns)
        """Wait for the next attempt, the first time not at all; False, and no wait, if the deadline has passed.

        `stream` is where the conflict was, if it was in one that the attempts were not begun with.
        """
        left = self.seconds_left()
        if left <= 0:
            return False
        if self._longest:
            time.sleep(min(left, random.uniform(0, self._longest)))  # noqa: S311 (a pause is no secret)
        self._longest = min(self._longest * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
        self.count += 1
        return True

    def seconds_left(self) -> float:
        """Until the deadline; below 0 behind it."""
        return self._deadline - time.monotonic()

    def seconds(self) -> float:
        """How long the attempts have taken together."""
        return time.monotonic() - self._started
