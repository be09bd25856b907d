"""A journal alone, killed some thousand times at any of its instructions, and journals and files with faults."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from processes import PATIENCE, Fork

from campaign.check import Finding, Run, comes_to_light
from campaign.kills import damage, faulty_journal
from campaign.kills.notebook import Notebook
from campaign.kills.stores import PLACES, store_in
from campaign.kills.torment import Counts, Torment

_STEPS_BEFORE: Final = 30
"""So many steps a store has behind it before a fault is planted."""


def check(run: Run) -> Iterator[Finding]:
    """Kill journals in memory and on disk, both at once."""
    kills = run.count(full=2500, quick=30)
    with contextlib.ExitStack() as stack:
        forks = []
        for name, place in PLACES.items():
            directory = stack.enter_context(store_in(place))
            forks.append(stack.enter_context(Fork(partial(torment, directory, run.random("journal", name), kills))))
        results = [fork.result(patience=PATIENCE + kills) for fork in forks]
    planted = run.count(full=120, quick=12)
    found = _caught(planted, run.random("planted"))
    counts = results[0][0].and_those_of(results[1][0])
    faults = [fault for _, some in results for fault in some]
    yield Finding(
        _figure(counts),
        f"0 in {2 * kills:,} kills",
        "; ".join([f"{len(faults)} lost, doubled, torn or unsound", *faults[:3]]),
        met=not faults and counts.kills >= 2 * kills,
        planted=f"{found} of {planted}",
        caught_all=found == planted,
    )


def _figure(counts: Counts) -> str:
    return (
        f"journal alone, half in shared memory and half on disk: {counts.kills:,} kills ({counts.in_recovery:,} in "
        f"recovery, {counts.unpublished:,} with a commit written and not published, {counts.unanswered:,} with one "
        f"published and not acknowledged); {counts.steps:,} steps, {counts.reboots:,} pretended reboots, "
        f"{counts.resets:,} resets, {counts.segments:,} segments and {counts.generations:,} tables begun"
    )


def torment(directory: Path, choices: random.Random, kills: int) -> tuple[Counts, list[str]]:
    """Kill a journal so many times, or until a fault is found; say what was met and what was wrong."""
    with Notebook() as notebook, contextlib.closing(Torment(directory, choices)) as subject:
        while subject.counts.kills < kills and not subject.faults:
            subject.kill_once(notebook)
            chance = choices.random()
            if chance < 0.05:
                subject.reboot()
            if chance < 0.025 or subject.counts.kills % 25 == 0 or subject.counts.kills == kills:
                subject.check_all()
            elif chance > 0.997:
                subject.clear()
            elif chance > 0.993:
                subject.fill_segment()
        return subject.counts, subject.faults


def _caught(count: int, choices: random.Random) -> int:
    """How many of so many planted faults are found: faulty journals and damaged files in turns."""
    return sum(
        comes_to_light(partial(_is_caught, number, random.Random(choices.getrandbits(64)))) for number in range(count)
    )


def _is_caught(number: int, choices: random.Random, _attempt: int) -> bool:
    with (
        store_in(list(PLACES.values())[number // 2 % 2]) as directory,
        Notebook() as notebook,
        contextlib.closing(Torment(directory, choices, resets=False)) as subject,
    ):
        while subject.counts.steps < _STEPS_BEFORE:
            subject.kill_once(notebook)
        subject.check_all()
        if subject.faults:
            raise AssertionError(f"wrong before anything was planted: {subject.faults[:3]}")
        if number % 2:
            damage.KINDS[number // 2 % len(damage.KINDS)](directory, choices)
        else:
            name = faulty_journal.NAMES[number // 2 % len(faulty_journal.NAMES)]
            subject.kill_once(notebook, partial(faulty_journal.plant, name, 0.3))
        subject.check_all()
        return bool(subject.faults)
