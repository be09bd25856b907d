"""Stores begun and ended in every way: a thousand times by the rules, and by keys, kills and signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial

from campaign.check import Finding, Run, comes_to_light
from campaign.kills import creators, interrupts, opening_cycles
from campaign.kills.kills import besiege_all, is_caught
from campaign.kills.server_kills import told


def check(run: Run) -> Iterator[Finding]:
    """All of them."""
    yield from opening_cycles.check(run)
    yield from interrupts.check(run)
    yield from creators.check(run)
    yield from _check_sigterm(run)


def _check_sigterm(run: Run) -> Iterator[Finding]:
    ends, faulty = run.count(full=50, quick=2), run.count(full=10, quick=1)
    sieges = besiege_all(run, ends, signal.SIGTERM)
    faults = [fault for siege in sieges for fault in siege.faults]
    caught = sum(comes_to_light(partial(is_caught, run, number, signal.SIGTERM)) for number in range(faulty))
    yield Finding(
        f"the server of 8 writers, half the times in shared memory, half on disk, got SIGTERM {told(sieges)}",
        "each server ends, 0 commits lost",
        "; ".join([f"{len(faults)} lost, doubled, torn or unsound", *faults[:3]]),
        met=not faults and sum(siege.kills for siege in sieges) >= 2 * ends,
        planted=f"{caught} of {faulty}",
        caught_all=caught == faulty,
    )
