"""Stores and handles opened and closed a thousand times, in programs whose footprint is looked at before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Final

from processes import PATIENCE, Program, cleaned_up

import maestro_shm as ms
from campaign.check import Finding, Run, comes_to_light
from campaign.kills import openings
from campaign.kills.stores import PLACES, new_target, store_in
from maestro_shm.shared.store import path_of

_PROGRAM: Final = """
import sys
from campaign.kills import openings
openings.main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
"""
_HASTE: Final = 0.5
"""Seconds to wait for what a planted fault keeps: no time would be long enough."""


def check(run: Run) -> Iterator[Finding]:
    """Open and close, and count what is left."""
    cycles = {"private": run.count(full=1000, quick=4), "named": run.count(full=1000, quick=50)}
    cycles["path"] = cycles["named"]
    done, left = _cycle_all(cycles)
    faults = run.count(full=10 * len(openings.FAULTS), quick=3)
    names = run.random("openings").sample(list(openings.FAULTS) * 10, faults)
    caught = sum(comes_to_light(partial(_is_caught, run, name, number)) for number, name in enumerate(names))
    yield Finding(
        "open, commit, read, close: "
        + ", ".join(f"{done[kind]:,} times a {kind} {'store' if kind == 'private' else 'one'}" for kind in cycles),
        "0 processes, files, descriptors, mappings, threads, warnings left",
        "; ".join([f"{len(left)} left", *left[:3]]),
        met=not left and done == cycles,
        planted=f"{caught} of {faults}",
        caught_all=caught == faults,
    )


def _cycle_all(cycles: dict[str, int]) -> tuple[dict[str, int], list[str]]:
    """Private ones in two programs, and the others in one each."""
    half = cycles["private"] // 2
    with ExitStack() as stack:
        targets = {
            "named": new_target(),
            "path": str(stack.enter_context(store_in(PLACES["on disk"]))),
        }
        for target in targets.values():
            stack.enter_context(cleaned_up(path_of(target)))
        works = [("private", "", half), ("private", "", cycles["private"] - half)]
        works += [(kind, target, cycles[kind]) for kind, target in targets.items()]
        programs = [(kind, stack.enter_context(_open_and_close(target, count))) for kind, target, count in works]
        done, left = dict.fromkeys(cycles, 0), []
        for kind, program in programs:
            count, some = _outcome(program, PATIENCE + sum(cycles.values()))
            done[kind] += count
            left += some
        return done, left + _left_of_destroyed(list(targets.values()))


def _open_and_close(target: str, cycles: int, *, patience: float = PATIENCE, fault: str = "") -> Program:
    return Program(_PROGRAM, target, cycles, str(patience), fault)


def _outcome(program: Program, patience: float) -> tuple[int, list[str]]:
    """How often it opened and closed, and what was left then, or said about it."""
    said = program.line(patience=patience)
    count, left = json.loads(said)
    code, _, complaints = program.outcome()
    return count, left + complaints.splitlines() + ([f"it ended with {code}"] if code else [])


def _left_of_destroyed(targets: list[str]) -> list[str]:
    for target in targets:
        ms.destroy(target)
    return [f"{path_of(target)} is there after it was destroyed" for target in targets if path_of(target).exists()]


def _is_caught(run: Run, fault: str, number: int, attempt: int) -> bool:
    choices = run.random("opening", number, attempt)
    with ExitStack() as stack:
        target = choices.choice(("", new_target()))
        if target:
            stack.enter_context(cleaned_up(path_of(target)))
        program = stack.enter_context(_open_and_close(target, 2, patience=_HASTE, fault=fault))
        return bool(_outcome(program, PATIENCE)[1])
