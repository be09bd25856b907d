"""How long a store is without a server, by the number of its events: the same, since nothing is scanned."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

from books import pretend_reboot
from processes import kill, named_target

import maestro_shm as ms
from campaign.check import Finding, Run
from maestro_shm.shared.store import SharedStore

_SMALL: Final = 1_000
_STREAMS: Final = 1_000
_PER_COMMIT: Final = 500
_GOAL: Final = 1.5
_PATIENCE: Final = 300.0
"""The scan of a large store takes its time."""


def check(run: Run) -> Iterator[Finding]:
    """Measure both stores in turns; then again where the recovery has to scan, which has to show."""
    large = run.count(full=1_000_000, quick=50_000)
    with ExitStack() as stack:
        stores = [_filled(stack, events) for events in (_SMALL, large)]
        restarts = run.count(full=51, quick=9)
        small_ms, large_ms = _medians(stores, restarts, scan=False)
        small_scan_ms, large_scan_ms = _medians(stores, run.count(full=3, quick=3), scan=True)
    grows = large_scan_ms / small_scan_ms >= _GOAL
    yield Finding(
        figure=f"kill of the server to the first acknowledged commit, medians of {restarts} each, "
        f"with {_SMALL:,} and with {large:,} events (planted: a recovery that has to scan)",
        goal=f"a ratio under {_GOAL}{run.unless_judged}",
        found=f"{small_ms:.0f} and {large_ms:.0f} ms: {large_ms / small_ms:.2f} (with a scan {small_scan_ms:.0f} and "
        f"{large_scan_ms:,.0f} ms: {large_scan_ms / small_scan_ms:.1f})",
        met=run.quick or large_ms / small_ms < _GOAL,
        planted=f"{grows:d} of 1",
        caught_all=grows,
    )


def _filled(stack: ExitStack, events: int) -> SharedStore:
    store = stack.enter_context(SharedStore.shared(stack.enter_context(named_target()), timeout=_PATIENCE))
    for first in range(0, events, _PER_COMMIT):
        numbers = range(first, first + _PER_COMMIT)
        store.commit_events(
            [ms.Event(f"stream-{number % _STREAMS}", 1 + number // _STREAMS, "filled", number) for number in numbers]
        )
    assert store.stats()["events"] == events
    return store


def _medians(stores: Sequence[SharedStore], restarts: int, *, scan: bool) -> list[float]:
    """In ms, of each store; they take turns, so that what the machine does besides meets both."""
    times = [[_restart(store, number, scan=scan) for store in stores] for number in range(restarts)]
    return [statistics.median(of_one) for of_one in zip(*times, strict=True)]


def _restart(store: SharedStore, number: int, *, scan: bool) -> float:
    aggregate_id = f"restart-{'scan' if scan else 'plain'}"
    server = store.stats()["server_pid"]
    if scan:
        kill(server)
        pretend_reboot(store.directory)
    killed = time.monotonic()
    if not scan:
        os.kill(server, signal.SIGKILL)
    store.commit_events([ms.Event(aggregate_id, number + 1, "restarted", number)])
    return (time.monotonic() - killed) * 1000
