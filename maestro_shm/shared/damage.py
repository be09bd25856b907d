"""What a repair found and did: the facts of its report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Damage(NamedTuple):
    """Bytes of a file, from `start` up to `end`, that are not what was written there."""

    path: str
    start: int
    end: int
    reason: str
    may_lose: bool
    """Whether commits may have been in it; the others can be built anew from the log."""


class Refusal(NamedTuple):
    """A whole commit that breaks a rule of the data where it stands, and so could not be saved."""

    path: str
    offset: int
    reason: str


class Hole(NamedTuple):
    """A place in a stream where events are lost: above one sequence number (or from its start), below another."""

    above: int | None
    below: int


class Shift(NamedTuple):
    """From this position on, as it was before, each event's position is lower by this number."""

    position: int
    by: int


@dataclass
class Report:
    """What a repair found and did.

    What was lost is told as far as it can be: snapshots have no positions, and nothing tells what had been the last
    event of a stream.
    """

    directory: Path
    damages: list[Damage]
    end_is_known: bool = True
    """Whether the header told where the log had ended. If not, commits that came last may be lost without a trace."""
    commits: int = 0
    """Saved ones, of events and of snapshots."""
    events: int = 0
    """Saved ones."""
    lost_events: int = 0
    lost_places: int = 0
    """Places in the order of events where some are missing: at least so many commits are lost."""
    refusals: list[Refusal] = field(default_factory=list)
    holes: dict[str, list[Hole]] = field(default_factory=dict)
    """By aggregate id, where streams are known to lack events."""
    shifts: list[Shift] = field(default_factory=list)
    replaced: Path | None = None
    """Where the files are that the repair replaced."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was damaged, and so nothing was done."""
        return not self.damages

    @property
    def may_have_lost(self) -> bool:
        """Whether commits are lost, or may be."""
        return bool(self.lost_events or self.refusals) or any(damage.may_lose for damage in self.damages)
