"""Acknowledged commits that are lost or doubled when servers are killed: none, whatever moment it is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from uuid import uuid4

from campaign.check import Finding, Run
from campaign.kills import faulty_journal, forgeries, journal_kills
from campaign.kills.journal_kills import PLACES, store_in
from campaign.kills.server_kills import Siege, besiege, told


def check(run: Run) -> Iterator[Finding]:
    """Kill servers under their writers, then journals alone."""
    yield from _check_servers(run)
    yield from journal_kills.check(run)


def _check_servers(run: Run) -> Iterator[Finding]:
    kills = run.count(full=250, quick=5)
    sieges = besiege_both(run, kills, signal.SIGKILL)
    faults = [fault for siege in sieges for fault in siege.faults]
    forged, faulty = run.count(full=105, quick=21), run.count(full=20, quick=2)
    caught = forgeries.caught(sieges[0].history, forged, run.random("forgeries"))
    caught += sum(is_caught(run, number, signal.SIGKILL) for number in range(faulty))
    yield Finding(
        f"whole stack: 8 writers in shared memory, and 8 on disk, whose server was killed {told(sieges)}",
        f"0 in {2 * kills:,} kills",
        "; ".join([f"{len(faults)} lost, doubled, torn or unsound", *faults[:3]]),
        met=not faults and sum(siege.kills for siege in sieges) >= 2 * kills,
        planted=f"{caught} of {forged + faulty}",
        caught_all=caught == forged + faulty,
    )


def besiege_both(run: Run, kills: int, number: signal.Signals) -> list[Siege]:
    """A store in shared memory and one on disk, whose servers are ended so many times."""
    with store_in(PLACES["on disk"]) as path:
        targets = (_new_target(), str(path))
        return [
            besiege(target, run.random("siege", number, place), kills=kills, number=number)
            for target, place in zip(targets, PLACES, strict=True)
        ]


def is_caught(run: Run, fault: int, number: signal.Signals) -> bool:
    """Whether a server whose journal does something wrong at every fifth commit is found out."""
    choices = run.random("faulty", fault, number)
    with faulty_journal.in_servers(faulty_journal.NAMES[fault % len(faulty_journal.NAMES)], chance=0.2):
        siege = besiege(_new_target(), choices, kills=2, writers=2, number=number, moments=("busy",), least=200)
        return bool(siege.faults)


def _new_target() -> str:
    return f"shm:campaign-{uuid4().hex[:12]}"
