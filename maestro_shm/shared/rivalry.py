"""What a process knows of the streams on which it has met rivals lately, and which turns it has there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from maestro_shm.shared.stream_terms import LONGEST_LEASE, MOST_COMMITS

_MOST_STREAMS: Final = 1024
_PER_CONFLICT: Final = 2
_HOT: Final = 3
_HOTTEST: Final = 4
"""One conflict is chance; a second one soon after it makes a stream hot, and two turns without rivals cool it down."""
_SHORTEST_LEASE: Final = 0.05
_SHORTEST_IDLE: Final = 0.02
"""Seconds. On a busy machine whoever is woken may get the processor that late."""
_MARGIN: Final = 3
"""A lease is so many times as long as an evaluation was."""
_ROUND: Final = 0.2
_SHORTEST_SLICE: Final = 0.005
_LONGEST_SLICE: Final = 0.04
"""Seconds for which a turn is kept for further commands, so that all who want one have theirs within a round. To wake
the next one takes as long as some commits, on a busy machine as many; a slice of many commits pays for that."""
_PROMPT: Final = 0.002
"""Seconds within which a command comes at once after the one before: a turn that is kept for it holds up all others."""
_FIRST_RUN: Final = 8.0
_WEIGHT: Final = 0.75
"""Of the newest run of commands against those before."""
_FADING: Final = 0.9
"""How fast a lease gets shorter again, with each evaluation."""


@dataclass(slots=True)
class Turn:
    """As the server gave it."""

    stream: str
    number: int
    commits: int
    """How many are left."""
    slice_ends: float
    lease_ends: float
    """Times of `time.monotonic`."""

    @property
    def has_time(self) -> bool:
        """Whether the next command may begin in it."""
        return self.commits > 0 and time.monotonic() < self.slice_ends

    @property
    def is_over(self) -> bool:
        """Whether the server has ended it, as far as one can tell here."""
        return self.commits <= 0 or time.monotonic() >= self.lease_ends


class Rivalry:
    """On one stream."""

    def __init__(self) -> None:
        self.heat = 0
        self.lease = _SHORTEST_LEASE
        self.idle = _SHORTEST_IDLE
        """For how long the others wait for the next commit of a turn."""
        self._kept: list[Turn] = []
        """The turn that waits for the next command. A list, since to pop from one is one step for all threads."""
        self._left_at = 0.0
        self._streak = 0
        """How many commands have come by now, each at once after the one before."""
        self._run = _FIRST_RUN
        """How many usually come so."""

    @property
    def is_hot(self) -> bool:
        """Whether to take a turn is worth a round trip."""
        return self.heat >= _HOT

    def note_conflict(self) -> None:
        """Somebody was faster."""
        self.heat = min(self.heat + _PER_CONFLICT, _HOTTEST)

    def note_peace(self) -> None:
        """Nobody came in between."""
        self.heat -= 1

    def note_rivals(self, rivals: int) -> None:
        """When a turn was given so many others wanted one, or had it when it was asked for."""
        self.heat = _HOTTEST if rivals else self.heat - 1

    def note_evaluation(self, seconds: float) -> None:
        """So long it takes from the beginning of a turn to its first commit: let the next one's lease suffice."""
        wanted = seconds * _MARGIN
        self.lease = min(LONGEST_LEASE, max(_SHORTEST_LEASE, wanted, self.lease * _FADING))
        self.idle = min(LONGEST_LEASE, max(_SHORTEST_IDLE, wanted, self.idle * _FADING))

    def note_return(self) -> None:
        """The next command begins: at once after the one before, or later."""
        if time.monotonic() - self._left_at <= _PROMPT:
            self._streak = min(self._streak + 1, MOST_COMMITS)
        else:
            self._run += (self._streak - self._run) * _WEIGHT
            self._streak = 0

    def commits_wanted(self) -> int:
        """How many the next turn should be for: as many commands as one may expect at once after this one.

        That is what is left of a run as it usually is, or, if it is longer than usual, as many again.
        """
        return 1 + int(min(max(self._run - self._streak, self._streak), MOST_COMMITS - 1))

    def lease_for(self, commits: int) -> float:
        """How many seconds a turn should last at most."""
        return self.lease if commits == 1 else min(LONGEST_LEASE, _LONGEST_SLICE + self.lease)

    def leave(self) -> None:
        """A command is done."""
        self._left_at = time.monotonic()

    def keep(self, turn: Turn) -> None:
        """For the next command."""
        self._kept.append(turn)

    def kept(self) -> Turn | None:
        """The turn that was kept, if there is one that is not over."""
        try:
            turn = self._kept.pop()
        except IndexError:
            return None
        return None if turn.is_over or time.monotonic() > self._left_at + self.idle else turn


def slice_for(rivals: int) -> float:
    """For how many seconds who has so many rivals may keep a turn."""
    return max(_SHORTEST_SLICE, min(_ROUND / max(1, rivals), _LONGEST_SLICE))


class Rivalries:
    """By stream: those that are remembered. Threads may share them."""

    def __init__(self) -> None:
        self._known: dict[str, Rivalry] = {}

    def get(self, stream: str) -> Rivalry | None:
        """The rivalry on a stream, if there was any lately."""
        return self._known.get(stream)

    def begin(self, stream: str) -> Rivalry:
        """The rivalry on a stream, new if there was none."""
        if (known := self._known.get(stream)) is not None:
            return known
        if len(self._known) >= _MOST_STREAMS:
            self._known.pop([*self._known][0], None)  # noqa: RUF015 (a copy, since another thread may change it)
        return self._known.setdefault(stream, Rivalry())

    def forget(self, stream: str) -> None:
        """There is none any more."""
        self._known.pop(stream, None)
