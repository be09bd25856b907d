"""Histories of many clients whose server is killed all along: whether they can have been (see `linearizability`)."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from processes import Fork, is_gone, named_target, servers_of, wait_until

import maestro_shm as ms
from campaign.check import Finding, Run
from campaign.histories.history_client import Client
from campaign.histories.history_faults import FAULTS, Fault
from campaign.histories.history_scene import Scene
from campaign.histories.history_windows import Windows
from campaign.histories.linearizability import Checker, History
from campaign.histories.operations import Kind, Operations, Outcome
from campaign.histories.stored import read_commits
from maestro_shm.shared.store import path_of

_CLIENTS: Final = 64
_HASTY: Final = 8
"""So many clients give up early, so that outcomes stay open while the server is stopped."""
_HASTE: Final = 0.4
_LONGEST_RUN: Final = 1800.0
_WINDOW: Final = 400
"""Commits of a part that is to be spoilt."""
_ATTEMPTS: Final = 50
"""Parts that are looked at for an opportunity of one kind."""
_SHOWN: Final = 5


def check(run: Run) -> Iterator[Finding]:
    """Record a history, check it, then spoil parts of it and check those."""
    with tempfile.TemporaryDirectory() as scratch:
        history, kills, failures = _record(run, Path(scratch))
    checked = Checker(history)
    caught, planted = _spoil(run, Windows(history, checked))
    for text in failures[:_SHOWN]:
        print(text)
    for rule, row in checked.violations[:_SHOWN]:
        print(f"{rule}: {history.operations[row] if row >= 0 else 'the log'}")
    yield Finding(
        figure=f"{len(history.operations):,} operations of {_CLIENTS} processes, the server killed {kills} times: "
        f"a history that cannot have been ({_told(history)})",
        goal="0 violations",
        found=f"{len(checked.violations):,} violations",
        met=not checked.violations,
        planted=f"{caught} of {planted}",
        caught_all=caught == planted,
    )


def _told(history: History) -> str:
    outcomes = Counter(zip(history.operations.kind, history.operations.outcome, strict=True))
    done, conflicts, unanswered = (outcomes[Kind.COMMIT, o] for o in (Outcome.DONE, Outcome.CONFLICT, Outcome.OPEN))
    return f"{done:,} commits acknowledged, {conflicts:,} conflicts, {unanswered:,} with open outcome"


def _record(run: Run, scratch: Path) -> tuple[History, int, list[str]]:
    """The history of all clients, how often their server was killed, and what they could not make sense of."""
    with named_target() as target, contextlib.ExitStack() as stack:
        with ms.connect(target) as patient, ms.connect(target, timeout=_HASTE) as hasty:
            stores = [hasty] * _HASTY + [patient] * (_CLIENTS - _HASTY)
            work = [partial(_work, run, store, number, scratch) for number, store in enumerate(stores)]
            forks = [stack.enter_context(Fork(part)) for part in work]
            kills = _torment(run, patient, forks)
            failures = [text for fork in forks for text in fork.result()]
        with ms.connect(target):  # so that what the last server left is recovered
            commits = list(read_commits(path_of(target)))
    return History(Operations.read(sorted(scratch.iterdir())), commits), kills, failures


def _work(run: Run, store: ms.Store, number: int, scratch: Path) -> list[str]:
    """What a client does, as a process of its own."""
    client = Client(store, number, run.random("histories", number))
    client.work(run.count(full=15_700, quick=250))
    client.write(scratch / str(number))
    return client.failures


def _torment(run: Run, store: ms.Store, forks: list[Fork[list[str]]]) -> int:
    """Kill the server at any moment until all clients are done; say how often."""
    choices = run.random("histories", "kills")
    deadline = time.monotonic() + _LONGEST_RUN
    longest = run.count(full=40, quick=5) / 10
    kills = 0

    def are_done() -> bool:
        assert time.monotonic() < deadline, f"the clients were not done after {_LONGEST_RUN:g} s"
        return all(is_gone(fork.pid) for fork in forks)

    while not are_done():
        time.sleep(choices.uniform(0.02, longest))
        for server in servers_of(store.stats()["directory"]):
            kills += _hit(server, choices)
            if choices.random() < 0.9:  # or the next is killed while it starts
                wait_until(lambda: not is_gone(store.stats()["server_pid"]) or are_done(), "there is a server again")
    return kills


def _hit(server: int, choices: random.Random) -> bool:
    """Kill the server, or stop it first until some clients give up; then it may go on with what they had asked for."""
    stopped, killed = choices.random() < 0.1, choices.random() < 0.9
    with contextlib.suppress(ProcessLookupError):
        if stopped:
            os.kill(server, signal.SIGSTOP)
            time.sleep(choices.uniform(0.5, 1.5) * _HASTE * 1.5)
        os.kill(server, signal.SIGKILL if killed else signal.SIGCONT)
        return killed
    return False


def _spoil(run: Run, windows: Windows) -> tuple[int, int]:
    """How many planted faults were found by their rule, and how many there were."""
    planted = run.count(full=300, quick=44)
    caught = 0
    for number, (fault, rule) in zip(range(planted), itertools.cycle(FAULTS.items()), strict=False):
        choices = run.random("histories", "fault", number)
        history = next(filter(None, (_spoilt(windows, fault, choices) for _ in range(_ATTEMPTS))), None)
        assert history is not None, f"no opportunity for {fault.__name__} in {_ATTEMPTS} parts of the history"
        if rule in {violation.rule for violation in Checker(history).violations}:
            caught += 1
        else:
            print(f"not caught: {fault.__doc__}")
    return caught, planted


def _spoilt(windows: Windows, fault: Fault, choices: random.Random) -> History | None:
    """A part of the history with the fault in it, if there is an opportunity. The part itself is right."""
    history = windows.choose(choices, _WINDOW)
    checked = Checker(history)
    assert not checked.violations, f"a part of a history that is right is not: {checked.violations[:_SHOWN]}"
    scene = Scene(history, checked, choices)
    return scene.history() if fault(scene) else None
