"""Acknowledged commits that are lost or doubled when servers are killed: none, whatever moment it is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial

from campaign.check import Finding, Run, comes_to_light
from campaign.kills import faulty_journal, forgeries, journal_kills
from campaign.kills.server_kills import Siege, besiege, told
from campaign.kills.stores import PLACES, new_target, store_in
from maestro_shm import options


def check(run: Run) -> Iterator[Finding]:
    """Kill servers under their writers, then journals alone."""
    yield from _check_servers(run)
    yield from journal_kills.check(run)


def _check_servers(run: Run) -> Iterator[Finding]:
    kills = run.count(full=250, quick=5)
    sieges = besiege_all(run, kills, signal.SIGKILL)
    faults = [fault for siege in sieges for fault in siege.faults]
    forged, faulty = run.count(full=105, quick=21), run.count(full=20, quick=2)
    caught = forgeries.caught(sieges[0].history, forged, run.random("forgeries"))
    caught += sum(comes_to_light(partial(is_caught, run, number, signal.SIGKILL)) for number in range(faulty))
    yield Finding(
        f"whole stack: the server of 8 writers, half the times in shared memory, half on disk, killed {told(sieges)}",
        f"0 in {2 * kills:,} kills",
        "; ".join([f"{len(faults)} lost, doubled, torn or unsound", *faults[:3]]),
        met=not faults and sum(siege.kills for siege in sieges) >= 2 * kills,
        planted=f"{caught} of {forged + faulty}",
        caught_all=caught == forged + faulty,
    )


def besiege_all(run: Run, kills: int, number: signal.Signals) -> list[Siege]:
    """A store in shared memory, one on disk, and one that waits for the disk, whose servers are ended so many times."""
    choices = run.random("siege", number)
    with store_in(PLACES["on disk"]) as path, store_in(PLACES["on disk"]) as lasting:
        return [
            besiege(new_target(), choices, kills=kills, number=number),
            besiege(str(path), choices, kills=kills // 2, number=number),
            besiege(str(lasting), choices, kills=kills - kills // 2, number=number, durability=options.POWER),
        ]


def is_caught(run: Run, fault: int, number: signal.Signals, attempt: int) -> bool:
    """Whether a server whose journal does something wrong at every fifth commit is found out."""
    choices = run.random("faulty", fault, number, attempt)
    with faulty_journal.in_servers(faulty_journal.NAMES[fault % len(faulty_journal.NAMES)], chance=0.2):
        siege = besiege(new_target(), choices, kills=2, writers=2, number=number, moments=("busy",), least=200)
        return bool(siege.faults)
