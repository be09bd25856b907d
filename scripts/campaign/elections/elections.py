"""Elections of many racers: whether two servers ever reigned at once, and how long a crowd is without one.

In every other round the server is killed and nothing else is done: these are measured. In the others it is killed or
stopped amid the calls, and there is mischief besides.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from processes import kill, named_target, servers_of, wait_until

import maestro_shm as ms
from campaign.check import Finding, Run
from campaign.elections import rivals
from campaign.elections.election_faults import FAULTS, Scene
from campaign.elections.mischief import Mischief
from campaign.elections.racers import Crowd, Task
from campaign.elections.reigns import Answer, Chronicle, Rule, breaches
from campaign.histories.history_client import IDENTITY_BITS
from campaign.histories.stored import read_commits
from maestro_shm.shared.store import SharedStore

_RACERS: Final = 16
_GOAL_MS: Final = 500
_MOST_COMMITS: Final = 8
_AMID_SECONDS: Final = 0.02
_LATE_SECONDS: Final = 0.8
_FOREVER: Final = 60.0
_HOST: Final = f"host-{_RACERS}"
_HOST_IDENTITIES: Final = _RACERS << IDENTITY_BITS


@dataclass
class _Outcome:
    """What all rounds together came to."""

    answers: list[Answer] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    last_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Of the rounds without mischief: there, each call is to succeed."""
    retried: int = 0
    deeds: int = 0


def check(run: Run) -> Iterator[Finding]:
    """Hold the elections, look at what they left, and spoil that."""
    rounds = run.count(full=1000, quick=12)
    with named_target() as target, SharedStore.shared(target) as store, Crowd(store, _RACERS) as crowd:
        outcome = _Outcome()
        for number in range(rounds):
            _hold_round(store, crowd, outcome, run.random("elections", number), plain=number % 2 == 0)
        late = _Outcome()
        _hold_late_round(store, crowd, late, run.random("elections", "late"))
        outcome.answers += late.answers
        chronicle = Chronicle(outcome.answers, list(read_commits(store.directory)))
    yield _finding_of_overlaps(run, rounds, outcome, chronicle)
    yield _finding_of_time(run, outcome, late)


def _finding_of_overlaps(run: Run, rounds: int, outcome: _Outcome, chronicle: Chronicle) -> Finding:
    found = Counter(breaches(chronicle))
    caught, planted = _spoil(run, chronicle)
    epochs = len({answer.epoch for answer in chronicle.answers})
    return Finding(
        figure=f"{rounds:,} elections of {_RACERS} racers, {outcome.deeds:,} deeds of mischief in half of them, "
        f"{epochs:,} epochs, {len(chronicle.answers):,} commits: epochs that overlap, commits lost or doubled",
        goal="0",
        found=", ".join(f"{count:,} of {rule}" for rule, count in found.items()) or "0",
        met=not found,
        planted=f"{caught} of {planted}",
        caught_all=caught == planted,
    )


def _finding_of_time(run: Run, outcome: _Outcome, late: _Outcome) -> Finding:
    for failure in outcome.failures[:3]:
        print(f"a call failed: {failure}")
    first, last = outcome.first_ms, outcome.last_ms
    return Finding(
        figure=f"{len(first):,} kills of a server that {_RACERS} processes call at once: from the kill to the first "
        f"answer, and to the last ({outcome.retried:,} calls were tried again in the rounds of mischief)",
        goal=f"p99 under {_GOAL_MS} ms{run.unless_judged}, 0 calls that fail",
        found=f"first: p50 {_percentile(first, 50):.0f}, p99 {_percentile(first, 99):.0f} ms; last: "
        f"p50 {_percentile(last, 50):.0f}, p99 {_percentile(last, 99):.0f} ms; {len(outcome.failures)} failed",
        met=(run.quick or _is_in_time(outcome)) and not outcome.failures,
        planted=f"{not _is_in_time(late):d} of 1",
        caught_all=not _is_in_time(late),
    )


def _is_in_time(outcome: _Outcome) -> bool:
    return _percentile(outcome.first_ms, 99) < _GOAL_MS


def _percentile(values: Sequence[float], percent: int) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, len(ranked) * percent // 100)]


def _hold_round(store: SharedStore, crowd: Crowd, outcome: _Outcome, choices: random.Random, *, plain: bool) -> None:
    server = _only_server(store)
    if plain:
        _hold_plain_round(lambda: os.kill(server, signal.SIGKILL), crowd, outcome)
    else:
        mischief = Mischief(store.directory, store.stats()["epoch"], choices)
        _hold_wild_round(server, crowd, outcome, mischief, choices)


def _only_server(store: SharedStore) -> int:
    """The server, once no other is left that might have been about to start; mischief may have killed the last one."""
    sequence = (store.last_sequence(_HOST) or 0) + 1
    store.commit_events([ms.Event(_HOST, sequence, "hosted", _HOST_IDENTITIES + sequence)])
    server: int = store.stats()["server_pid"]
    wait_until(lambda: servers_of(store.directory) == [server], f"process {server} is the only server")
    return server


def _hold_plain_round(end_reign: Callable[[], None], crowd: Crowd, outcome: _Outcome) -> None:
    killed = time.monotonic_ns()
    end_reign()
    crowd.start([Task(commits=1)] * _RACERS)
    results = [result for ready in crowd.results(_FOREVER) for result in ready]
    ends = [(result.answers[0].end - killed) / 1e6 for result in results]
    outcome.first_ms.append(min(ends))
    outcome.last_ms.append(max(ends))
    for result in results:
        outcome.answers += result.answers
        outcome.failures += result.failures


def _hold_late_round(store: SharedStore, crowd: Crowd, outcome: _Outcome, choices: random.Random) -> None:
    """As a plain round, but somebody takes the directory as soon as the server is dead, and keeps it for too long."""
    server = _only_server(store)
    mischief = Mischief(store.directory, store.stats()["epoch"], choices)

    def end_reign() -> None:
        kill(server)
        mischief.keep_directory(_LATE_SECONDS)

    _hold_plain_round(end_reign, crowd, outcome)
    mischief.end()


def _hold_wild_round(server: int, crowd: Crowd, outcome: _Outcome, mischief: Mischief, choices: random.Random) -> None:
    """Kill or stop the server before the calls or amid them, and let mischief be done until all are answered."""
    killed, amid = choices.random() < 0.75, choices.random() < 0.5
    if not amid:
        _end_reign(server, mischief, killed=killed)
    mischief.plan(server_is_dead=killed and not amid)
    tasks = [Task(choices.randint(1, _MOST_COMMITS), mischief.forks_after, mischief.child_lives)] * _RACERS
    crowd.start(tasks)
    if amid:
        time.sleep(choices.uniform(0, _AMID_SECONDS))
        _end_reign(server, mischief, killed=killed)
    for ready in crowd.results(0.005):
        mischief.do_due()
        for result in ready:
            outcome.answers += result.answers
            outcome.retried += len(result.failures)
    mischief.end()
    outcome.deeds += mischief.deeds


def _end_reign(server: int, mischief: Mischief, *, killed: bool) -> None:
    if killed:
        kill(server)
    else:
        mischief.stop_server(server)


def _spoil(run: Run, chronicle: Chronicle) -> tuple[int, int]:
    """How many faults were found by their rules, and how many there were: in what was recorded, and two real ones."""
    planted = run.count(full=300, quick=70)
    caught = 0
    for number, (fault, rule) in zip(range(planted), itertools.cycle(FAULTS.items()), strict=False):
        scene = Scene(chronicle, run.random("elections", "fault", number))
        fault(scene)
        caught += _is_caught(scene.chronicle(), {rule}, str(fault.__doc__))
    caught += rivals.refuse_each_other()
    caught += _is_caught(rivals.chronicle_of_both(), {Rule.LOST, Rule.OVERLAP}, "Two servers on one directory.")
    return caught, planted + 2


def _is_caught(chronicle: Chronicle, rules: set[Rule], what: str) -> bool:
    found = rules <= set(breaches(chronicle))
    if not found:
        print(f"not caught: {what}")
    return found
