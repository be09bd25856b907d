"""Runners, consumers and tellers are killed, and servers too: each event once, in order, and no money comes or goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from campaign.check import Finding, Run, comes_to_light
from campaign.views import view_plants
from campaign.views.banking import Bank
from campaign.views.consuming import Consumption
from campaign.views.projecting import Projecting

Plant = Callable[[], AbstractContextManager[object]]
_SHOWN: Final = 3


def check(run: Run) -> Iterator[Finding]:
    """All three."""
    yield _check_projecting(run)
    yield _check_consuming(run)
    yield _check_bank(run)


def _check_projecting(run: Run) -> Finding:
    events, kills = run.count(full=100_000, quick=4_000), run.count(full=50, quick=4)
    trial = Projecting(run.random("projecting"), events, kills)
    faults = trial.faults()
    return _finding(
        run,
        f"exactly-once projection of {events:,} events, rebuilt once meanwhile; {trial.kills} times its runner is "
        f"killed, {trial.servers} times the server",
        faults,
        view_plants.OF_PROJECTIONS,
        lambda *number: Projecting(run.random("projecting", *number), 3_000, 12).faults(),
    )


def _check_consuming(run: Run) -> Finding:
    events, kills = run.count(full=20_000, quick=800), run.count(full=60, quick=4)
    trial = Consumption(run.random("consuming"), events, kills)
    faults = trial.faults()
    return _finding(
        run,
        f"{events:,} events of 64 aggregates, done by 4 competing consumers of 8 partitions; {trial.kills} times one "
        f"is killed, {trial.servers} times the server",
        faults,
        view_plants.OF_CONSUMERS,
        lambda *number: Consumption(run.random("consuming", *number), 1_500, 12).faults(),
    )


def _check_bank(run: Run) -> Finding:
    seconds, kills = run.count(full=60, quick=4), run.count(full=60, quick=4)
    trial = Bank(run.random("bank"), seconds, kills)
    faults = trial.faults()
    return _finding(
        run,
        f"{trial.transfers:,} transfers between 100 accounts by 8 tellers, {trial.kills} times one is killed, "
        f"{trial.servers} times the server; the money was counted {trial.counts:,} times meanwhile",
        faults,
        view_plants.OF_BANKS,
        lambda *number: Bank(run.random("bank", *number), 3, 3).faults(),
    )


def _finding(
    run: Run, figure: str, faults: list[str], plants: Sequence[Plant], attempt: Callable[[int, int], list[str]]
) -> Finding:
    each = run.count(full=5, quick=1)
    caught = 0
    for number, plant in enumerate(plant for plant in plants for _ in range(each)):
        with plant():
            caught += comes_to_light(partial(attempt, number))
    planted = len(plants) * each
    return Finding(
        figure,
        goal="each event once, in order; the same money in each count",
        found="; ".join([f"{len(faults)} faults", *faults[:_SHOWN]]),
        met=not faults,
        planted=f"{caught} of {planted}",
        caught_all=caught == planted,
    )
