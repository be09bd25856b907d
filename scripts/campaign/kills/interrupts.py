"""Ctrl-C, and the end of the terminal, in a user's program: it ends by them, and the server of its store never does."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from processes import cleaned_up, is_gone, servers_of

import maestro_shm as ms
from campaign.check import Finding, Run, comes_to_light
from campaign.kills.stores import new_target
from campaign.kills.terminal import CONTROL_C, Terminal
from maestro_shm.shared.store import path_of

_PROGRAM: Final = """
import sys
import maestro_shm as ms
print("begun", flush=True)
with ms.connect(sys.argv[1], timeout=20) as store:
    print("server", store.stats()["server_pid"], flush=True)
    for sequence in range((store.last_sequence("a") or 0) + 1, 1 << 40):
        store.commit_events([ms.Event("a", sequence, "made", None)])
        print("stored", sequence, flush=True)
"""
_IN_THE_FOREGROUND: Final = """
import subprocess
from maestro_shm.shared import launch

class Popen(subprocess.Popen):
    def __init__(self, *arguments, start_new_session, **options):
        super().__init__(*arguments, **options)

subprocess.Popen = Popen
"""
_HEARS_CONTROL_C: Final = """
before, start, end = launch._PROGRAM.partition("main(")
other = "import signal\\nset_signal = signal.signal\\n"
other += "signal.signal = lambda n, to: set_signal(n, signal.SIG_DFL if to is signal.SIG_IGN else to)\\n"
launch._PROGRAM = before + other + start + end
"""
_TOLD: Final = re.compile(r"(server|stored) (\d+)")
_ENDS: Final = ("Ctrl-C", "Ctrl-C three times", "a hang-up")


class _Ended(NamedTuple):
    """What was found after a program was ended at its terminal."""

    connecting: bool
    faults: list[str]


def check(run: Run) -> Iterator[Finding]:
    """End programs at their terminals."""
    choices = run.random("interrupts")
    count, faults = run.count(full=150, quick=4), run.count(full=20, quick=2)
    ended = [_end_a_program(choices, _ENDS[number % len(_ENDS)]) for number in range(count)]
    wrong = [fault for one in ended for fault in one.faults]
    connecting = sum(one.connecting for one in ended)
    caught = sum(
        comes_to_light(partial(_is_caught, number, random.Random(choices.getrandbits(64)))) for number in range(faults)
    )
    yield Finding(
        f"a program ended at its terminal {len(ended)} times by Ctrl-C or a hang-up, {connecting} of them while it "
        "connected",
        "0 servers ended by it, 0 commits lost",
        "; ".join([f"{len(wrong)} servers ended or commits lost", *wrong[:3]]),
        met=not wrong,
        planted=f"{caught} of {faults}",
        caught_all=caught == faults,
    )


def _end_a_program(choices: random.Random, how: str, *, planted: str = "", at_work: bool | None = None) -> _Ended:
    """Let a program make a named store, or find it there, and end it while it connects or commits."""
    target = new_target()
    waits = choices.random() < 0.7 if at_work is None else at_work
    with cleaned_up(path_of(target)):
        if not planted and choices.random() < 0.3:
            ms.connect(target).close()
        servers = servers_of(path_of(target)) if path_of(target).exists() else []
        with Terminal(planted + _PROGRAM, target) as terminal:
            said = _until(terminal, "stored" if waits else "begun")
            time.sleep(choices.uniform(0, 0.03 if waits else 0.15))  # the moment is to be any
            said += _end(terminal, how)
        return _Ended(not waits, _faults(target, servers, said))


def _until(terminal: Terminal, word: str) -> list[str]:
    said: list[str] = []
    while not (said and said[-1].startswith(word)):
        line = terminal.line()
        if line is None:
            raise AssertionError(f"a program ended by itself: {said[-10:]}")
        said.append(line)
    return said


def _end(terminal: Terminal, how: str) -> list[str]:
    if how == "a hang-up":
        terminal.hang_up()
        return []
    terminal.press(CONTROL_C * (3 if "three" in how else 1))
    return terminal.rest()


def _faults(target: str, servers: list[int], said: list[str]) -> list[str]:
    """Servers that were there and are not any more, and commits that were acknowledged and are not there."""
    # The terminal writes "^C" among what the program says, so some lines are others.
    told = [match.groups() for line in said if (match := _TOLD.fullmatch(line))]
    servers = servers + [int(number) for word, number in told if word == "server"]
    acknowledged = [int(number) for word, number in told if word == "stored"]
    faults = [f"server {pid} has ended" for pid in set(servers) if is_gone(pid)]
    try:
        return faults + _faults_of_store(target, servers, acknowledged)
    except ms.StoreError as error:
        return [*faults, f"{type(error).__name__}: {error}"]


def _faults_of_store(target: str, servers: list[int], acknowledged: list[int]) -> list[str]:
    faults = []
    with ms.connect(target) as store:
        stored = [event.sequence for event in store.get_events("a")]
        if stored != list(range(1, len(stored) + 1)) or len(stored) < max(acknowledged, default=0):
            faults.append(f"{acknowledged[-1:]} was acknowledged, {stored[-3:]} is stored")
        if servers and store.stats()["server_pid"] not in servers:
            faults.append(f"another server than {servers} is there")
    return faults


def _is_caught(number: int, choices: random.Random, _attempt: int) -> bool:
    """Whether a server is found out that is in the program's session, and hears what that hears."""
    planted = _IN_THE_FOREGROUND + (_HEARS_CONTROL_C if number % 2 else "")
    how = _ENDS[0] if number % 2 else _ENDS[2]
    return bool(_end_a_program(choices, how, planted=planted, at_work=True).faults)
