"""Stores truncated and compacted while processes are killed: what was not truncated stays, and nothing else comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from campaign.check import Finding, Run, comes_to_light
from campaign.compactions import faulty_copies
from campaign.compactions.siege import Outcome, besiege
from campaign.compactions.stage import Stage
from campaign.kills.stores import PLACES, new_target, store_in
from maestro_shm import options

_LOOKS: Final = 5
"""Compactions by which a planted fault has to show."""
_HASTE: Final = 4.0
"""Seconds to wait for what a planted fault keeps: no time would be long enough."""


def check(run: Run) -> Iterator[Finding]:
    """Besiege stores in shared memory and on disk; then some whose compactions do something wrong."""
    kills = run.count(full=15, quick=3)
    outcomes = [outcome for number in range(run.count(full=3, quick=1)) for outcome in _besiege_all(run, number, kills)]
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    planted = _planted(run)
    missed = [name for number, name in enumerate(planted) if not comes_to_light(partial(_is_caught, run, number, name))]
    stages = sum((outcome.stages for outcome in outcomes), Counter[Stage]())
    is_all_hit = run.quick or all(stages[stage] for stage in (Stage.COPY, Stage.SWITCH))
    yield Finding(
        f"stores truncated and compacted again and again, in shared memory, on disk, and with the disk waited for, "
        f"{_told(outcomes)}",
        "0 lost, changed, shown below a floor, or left over",
        "; ".join([f"{len(faults)} lost, changed, shown or left over", *faults[:3], *missed]),
        met=not faults and sum(stages.values()) == len(outcomes) * kills and is_all_hit,
        planted=f"{len(planted) - len(missed)} of {len(planted)}",
        caught_all=not missed,
    )


def _besiege_all(run: Run, number: int, kills: int) -> Iterator[Outcome]:
    """A store in shared memory, one on disk, and one that waits for the disk."""
    choices = run.random("compactions", number)
    yield besiege(new_target(), options.PROCESS, choices, kills=kills)
    for durability in (options.PROCESS, options.POWER):
        with store_in(PLACES["on disk"]) as path:
            yield besiege(str(path), durability, choices, kills=kills)


def _planted(run: Run) -> list[str]:
    """Each fault twice; a quick run has two of them."""
    return run.random("planted").sample(2 * faulty_copies.NAMES, run.count(full=2 * len(faulty_copies.NAMES), quick=2))


def _is_caught(run: Run, number: int, name: str, attempt: int) -> bool:
    choices = run.random("faulty copies", number, attempt)
    with faulty_copies.in_copies(name):
        outcome = besiege(new_target(), options.PROCESS, choices, looks=_LOOKS, patience=_HASTE)
    return bool(outcome.faults)


def _told(outcomes: Sequence[Outcome]) -> str:
    kills = sum((outcome.kills for outcome in outcomes), Counter[str]())
    stages = sum((outcome.stages for outcome in outcomes), Counter[Stage]())
    killed = ", ".join(f"{who} ({count:,})" for who, count in sorted(kills.items()))
    hit = ", ".join(f"{stages[stage]:,} {stage.value}" for stage in Stage)
    compactions, back = (sum(getattr(one, name) for one in outcomes) for name in ("compactions", "given_back"))
    events, floors = (sum(getattr(one, name) for one in outcomes) for name in ("events", "floors"))
    return (
        f"while somebody is killed: {killed}; {hit}; {compactions:,} compactions completed, which gave back "
        f"{back >> 20:,} MiB; {events:,} events and {floors:,} truncations acknowledged"
    )
