"""Things timed side by side, round by round each in turn, so that noise hits all alike. The first round warms up."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.settings import Settings
from benchmarks.timing import Timing, summarize, time_calls

Bind = Callable[[], Callable[[], object]]
"""Makes the next call, with its arguments, before the clock starts."""


def time_in_turns(figure: str, binds: Mapping[str, Bind], settings: Settings) -> list[Timing]:
    """One line for each, in their order."""
    durations: dict[str, list[int]] = {name: [] for name in binds}
    for turn in range(settings.rounds + 1):
        for name, bind in binds.items():
            timed = time_calls([bind() for _ in range(settings.calls)])
            if turn:
                durations[name] += timed
    return [summarize(figure, name, timed) for name, timed in durations.items()]
