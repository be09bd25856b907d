"""Looking out for the other side for a moment before going to sleep: to wake up takes longer than its whole answer.

That pays only where both sides have a processor; where they do not, the watcher keeps the other from its work. So it
gives way at each look, unless nobody else was seen on this processor lately and it has hardly begun, and after watches
in vain it leaves them out more and more often, up to 62 times of 63.
Two who watch each other on one processor would stay there, so who sees it leaves it, or naps, which may have the same
effect, and watches on for longer, since who has left takes a while to arrive.
How long a watch lasts is learnt from the waits before: twice as long as one takes, so that it ends in vain where the
other side has gone away, and not because the machine is slow or there is more to do than usual.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from maestro_shm.shared.processor import times_put_off

_SHORTEST: Final = 100e-6
_LONGEST: Final = 400e-6
"""Seconds. With 100 µs for all, a machine, or a transaction, for which that was just too little fell off to four times
its latency, since both sides slept at each turn. What a longer watch costs is paid where others compute: one worker
beside such a process makes 3,500 commits/s with 400 µs and 5,500 with 100."""
_LONGEST_SHARED: Final = 1e-3
"""Seconds, where the processor is given to somebody who soon gives it back. Then the other side was there just now, or
is on its way: a processor that has slept for long takes half of this to begin."""
_TURN_OF_WHO_COMPUTES: Final = 2e-3
"""Seconds. Who watches gives the processor back before."""
_MARGIN: Final = 2
_WEIGHT: Final = 1 / 8
_MOST_VAIN: Final = 6
_VAIN_BESIDE: Final = 3
"""As after so many watches in vain it goes on beside somebody who computes. With one for each such turn, one worker
beside two of them made 2,300 commits/s in place of 3,200; with five, 8 workers beside nobody 13,000 in place of
17,000, since each of them has a long turn now and then."""
_TURN_OF_OTHERS: Final = 8e-6
"""Seconds. Where a look comes so long after the one before somebody else may have been running on this processor."""
_ALONE: Final = 40e-6
"""Seconds at the beginning of a watch in which it does not give way, where nobody else was seen here. A system call at
each look took 7 % of a commit of one worker, and 8 workers made 10 % fewer commits without."""
_LATELY: Final = 8
"""Watches."""
_UNKNOWN: Final = -1
_MOST_MOVED: Final = 10
"""So that of as many as 1,023 such times only one is slept through."""

_Seen = TypeVar("_Seen")
_give_way: Final[Callable[[], Any]] = getattr(os, "sched_yield", lambda: time.sleep(0))
_now: Final = time.perf_counter
_nap: Final = partial(time.sleep, 1e-6)
"""With the system's slack some 55 µs."""


def _stay() -> bool:
    return False


class Watch:
    """The habit of one who waits."""

    def __init__(self, leave: Callable[[], bool] = _stay) -> None:
        """By `leave` it goes to another processor, where this one is shared, or says that it does not."""
        self._leave = leave
        self._vain = 0
        self._left_out = 0
        self._expected = 0.0
        self._seconds = _SHORTEST
        """How long to watch."""
        self._begun = 0.0
        self._waited: float | None = None
        """Seconds until what was waited for had come, while that has taught nothing yet: it does before the next watch,
        when nobody waits for us."""
        self._was_late = False
        """That was after the watch."""
        self._longest_turn = 0.0
        """Seconds, of somebody else on this processor, within the watch."""
        self._shared = 0
        """For so many watches more the processor counts as shared."""
        self._moved = 0
        self._stays = 0
        self._put_off = _UNKNOWN

    def until(self, look: Callable[[], _Seen]) -> _Seen | None:
        """What `look` sees within the time, if it is anything true; None, and at once, where a watch does not pay."""
        if self._waited is not None:
            self._learn(self._waited)
        self._longest_turn = 0.0
        begun = self._begun = _now()
        if self._left_out:
            self._left_out -= 1
            return None
        end = begun + self._seconds
        now = begun
        alone_until = begun if self._shared else begun + _ALONE
        while now < end:
            if seen := look():
                self._waited = now - begun
                return seen
            if now >= alone_until:
                _give_way()
            before, now = now, _now()
            if (turn := now - before) > _TURN_OF_OTHERS:
                self._longest_turn = max(self._longest_turn, turn)
                alone_until = begun
                self._shared = _LATELY
                if turn < _TURN_OF_WHO_COMPUTES:
                    end = begun + _LONGEST_SHARED
                self._move()
        return self._see_at_last(look)

    def note_arrival(self) -> None:
        """What was waited for since the last watch began has come, when that was over."""
        if self._waited is not None:  # there was no watch since
            self._learn(self._waited)
        self._waited, self._was_late = _now() - self._begun, True

    def _learn(self, waited: float) -> None:
        if not self._was_late:
            self._vain = 0
            if not self._longest_turn:
                self._moved = 0
                self._put_off = _UNKNOWN
                self._shared -= bool(self._shared)
        self._waited, self._was_late = None, False
        self._expected += _WEIGHT * (min(waited, 2 * _LONGEST) - self._expected)
        if _SHORTEST / _MARGIN < self._expected <= _LONGEST:
            self._seconds = min(_MARGIN * self._expected, _LONGEST)
        else:  # what takes longer than the longest watch is tried for a moment only
            self._seconds = _SHORTEST

    def _see_at_last(self, look: Callable[[], _Seen]) -> _Seen | None:
        beside_who_computes = self._longest_turn >= _TURN_OF_WHO_COMPUTES
        seen = look()
        if seen:
            self.note_arrival()
        if not seen or beside_who_computes:  # a sleep would have been shorter: who is woken need not wait for his turn
            self._vain = min(max(self._vain + 1, _VAIN_BESIDE if beside_who_computes else 0), _MOST_VAIN)
            self._left_out = (1 << self._vain) - 2
        return seen or None

    def _move(self) -> None:
        """Look for a processor of our own, if this one is shared: who wakes up is put on one that is idle, mostly."""
        if not self._was_put_off() or self._leave():
            return
        if self._stays:
            self._stays -= 1
            return
        self._moved = min(self._moved + 1, _MOST_MOVED)
        self._stays = (1 << self._moved) - 2
        _nap()

    def _was_put_off(self) -> bool:
        """Whether somebody else ran here, in this watch and in the last one.

        To give way takes long, too, where the system's code is in no cache, or the whole machine was put off. A nap for
        that reason cost 0.8 ms, since the processor had nothing else to do and was itself put to sleep.
        """
        before, self._put_off = self._put_off, times_put_off()
        return before not in (_UNKNOWN, self._put_off)
