"""Creators of private stores killed at any moment, also while they create: neither server nor files stay behind."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from processes import PATIENCE, Fork, kill

import maestro_shm as ms
from campaign.check import Finding, Run, comes_to_light
from campaign.kills.footprint import private_directories, servers_of_creator
from campaign.kills.notebook import Notebook
from campaign.planting import servers_begin_with
from maestro_shm.shared import creator as identities

_CONNECTED: Final = "connected"
_HASTE: Final = 2.5
"""Seconds to wait for a server that never ends; a good one looks each second whether its creator lives."""
_BLIND: Final = """
from maestro_shm.shared import creator
creator.watch = lambda name: None
creator.is_alive = lambda name: True
"""


class _Killed(NamedTuple):
    """What was found after a creator had been killed."""

    creating: bool
    swept: bool
    """There were files that only the next private store removed."""
    faults: list[str]


def check(run: Run) -> Iterator[Finding]:
    """Kill creators, at first good ones, then some whose server does not see it."""
    choices = run.random("creators")
    count, faults = run.count(full=200, quick=5), run.count(full=10, quick=1)
    killed = [
        _kill_a_creator(choices.uniform(0, 0.3), PATIENCE, when_connected=choices.random() < 0.3) for _ in range(count)
    ]
    creating, swept = sum(one.creating for one in killed), sum(one.swept for one in killed)
    wrong = [fault for one in killed for fault in one.faults]
    caught = sum(comes_to_light(partial(_is_caught, random.Random(choices.getrandbits(64)))) for _ in range(faults))
    yield Finding(
        f"the creator of a private store killed {len(killed)} times, {creating} of them while it connected; {swept} "
        "times it left files that the next one swept",
        "0 servers or files left",
        "; ".join([f"{len(wrong)} left", *wrong[:3]]),
        met=not wrong,
        planted=f"{caught} of {faults}",
        caught_all=caught == faults,
    )


def _kill_a_creator(delay: float, patience: float, *, when_connected: bool = False) -> _Killed:
    with Notebook() as notebook, Fork(partial(_create, notebook)) as creator:
        identity = identities.identity(creator.pid)
        while when_connected and _CONNECTED not in notebook.notes():
            time.sleep(0.002)
        time.sleep(delay)  # the moment is to be any
        creator.kill()
        creating = _CONNECTED not in notebook.notes()
    return _look_for_leavings(identity, creating, patience)


def _create(notebook: Notebook) -> None:
    with ms.connect() as store:
        notebook.note(_CONNECTED)
        sequence = 0
        while True:
            sequence += 1
            store.commit_events([ms.Event("a", sequence, "made", None)])


def _look_for_leavings(creator: str, creating: bool, patience: float) -> _Killed:  # noqa: FBT001 (a fact, no option)
    deadline = time.monotonic() + patience
    swept = False
    while (left := _leavings(creator)) and time.monotonic() < deadline:
        if not servers_of_creator(creator):
            swept = True
            ms.connect().close()
        time.sleep(0.005)
    return _Killed(creating, swept, left)


def _leavings(creator: str) -> list[str]:
    servers = [f"server {pid}" for pid in servers_of_creator(creator)]
    return servers + [str(path) for path in private_directories(creator)]


def _is_caught(choices: random.Random, _attempt: int) -> bool:
    """Whether a server is found out that goes on without its creator."""
    with servers_begin_with(_BLIND):
        killed = _kill_a_creator(choices.uniform(0, 0.1), _HASTE, when_connected=True)
    for fault in killed.faults:
        if fault.startswith("server "):
            kill(int(fault.removeprefix("server ")))
    ms.connect().close()
    return bool(killed.faults)
