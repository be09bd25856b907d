"""Looking out for the other side for a moment before going to sleep: to wake up takes longer than its whole answer.

That pays only where both sides have a processor; where they do not, the watcher keeps the other from its work. So it
gives way at each look, and after watches in vain it leaves them out more and more often, up to 62 times of 63.
Two who watch each other on one processor would stay there, so who sees it naps, and wakes up on another.
How long a watch lasts is learnt from the waits before: twice as long as one takes, so that it ends in vain where the
other side has gone away, and not because the machine is slow or there is more to do than usual.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

_SHORTEST: Final = 100e-6
_LONGEST: Final = 400e-6
"""Seconds. With 100 µs for all, a machine, or a transaction, for which that was just too little fell off to four times
its latency, since both sides slept at each turn. What a longer watch costs is paid where others compute: one worker
beside such a process makes 3,500 commits/s with 400 µs and 5,500 with 100."""
_MARGIN: Final = 2
_WEIGHT: Final = 1 / 8
_MOST_VAIN: Final = 6
_TURN_OF_OTHERS: Final = 8e-6
"""Seconds. Where it takes so long to give way somebody else was running on this processor."""
_MOST_MOVED: Final = 10
"""So that of as many as 1,023 such times only one is slept through."""

_Seen = TypeVar("_Seen")
_give_way: Final[Callable[[], Any]] = getattr(os, "sched_yield", lambda: time.sleep(0))
_now: Final = time.perf_counter
_nap: Final = partial(time.sleep, 1e-6)
"""With the system's slack some 55 µs."""


class Watch:
    """The habit of one who waits."""

    def __init__(self) -> None:
        self._vain = 0
        self._left_out = 0
        self._expected = 0.0
        self._begun = 0.0
        self._moved = 0
        self._stays = 0

    def until(self, look: Callable[[], _Seen]) -> _Seen | None:
        """What `look` sees within the time, if it is anything true; None, and at once, where a watch does not pay."""
        begun = self._begun = _now()
        if self._left_out:
            self._left_out -= 1
            return None
        end = begun + self._seconds()
        now = begun
        is_shared = False
        while now < end:
            if seen := look():
                self._vain = 0
                if not is_shared:
                    self._moved = 0
                self.note_arrival()
                return seen
            _give_way()
            before, now = now, _now()
            if now - before > _TURN_OF_OTHERS:
                is_shared = True
                self._move()
        self._vain = min(self._vain + 1, _MOST_VAIN)
        self._left_out = (1 << self._vain) - 2
        return None

    def _move(self) -> None:
        """Look for a processor of our own: who wakes up is put on one that is idle."""
        if self._stays:
            self._stays -= 1
            return
        self._moved = min(self._moved + 1, _MOST_MOVED)
        self._stays = (1 << self._moved) - 2
        _nap()

    def _seconds(self) -> float:
        """How long to watch; what takes longer than the longest watch is tried for a moment only."""
        return _SHORTEST if self._expected > _LONGEST else max(_SHORTEST, min(_MARGIN * self._expected, _LONGEST))

    def note_arrival(self) -> None:
        """What was waited for since the last watch began has come, maybe after a sleep."""
        self._expected += _WEIGHT * (min(_now() - self._begun, 2 * _LONGEST) - self._expected)
