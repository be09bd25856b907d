"""Looking out for the other side for a moment before going to sleep: to wake up takes longer than its whole answer.

That pays only where both sides have a processor; where they do not, the watcher keeps the other from its work. So it
gives way at each look, and after watches in vain it leaves them out more and more often, up to 62 times of 63.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

_SECONDS: Final = 100e-6
"""How long a watch lasts. With 50 µs both sides could fall asleep for good, since each one's trials ended just before
the other was there (14,000 to 25,000 commits/s of two workers, against 34,000 and more); with 200 µs a machine that has
other work loses more (one worker beside a busy process: 8,000 commits/s, against 12,000)."""
_MOST_VAIN: Final = 6

_Seen = TypeVar("_Seen")
_give_way: Final[Callable[[], Any]] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Watch:
    """The habit of one who waits."""

    def __init__(self) -> None:
        self._vain = 0
        self._left_out = 0

    def until(self, look: Callable[[], _Seen]) -> _Seen | None:
        """What `look` sees within the time, if it is anything true; None, and at once, where a watch does not pay."""
        if self._left_out:
            self._left_out -= 1
            return None
        end = time.perf_counter() + _SECONDS
        while time.perf_counter() < end:
            if seen := look():
                self._vain = 0
                return seen
            _give_way()
        self._vain = min(self._vain + 1, _MOST_VAIN)
        self._left_out = (1 << self._vain) - 2
        return None
