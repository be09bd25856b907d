"""Flying the flights: a pool of processes that share one store and know nothing of each other.

Rules kept here: workers are spawned, so that they share nothing but the store, whose handle is sent to them; each
keeps its roots, and lets them catch up when another worker was faster. An interrupt from the terminal is the parent's
business alone. A pool whose worker was killed would wait for ever, hence the limit on the silence between two results.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.pool import Pool
from typing import NamedTuple

from maestro_shm import Aggregate, Store
from maestro_shm.demo.commands import Request, requests, root_of
from maestro_shm.demo.data import Flight

_CHUNK = 50
_LONGEST_SILENCE = 120.0


class Done(NamedTuple):
    """What came of one chunk of flights."""

    flights: int
    events: int
    conflicts: int


class Worker:
    """Evaluates the commands of flights, on roots that it keeps."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._roots: dict[str, Aggregate] = {}
        self._conflicts = 0

    def fly(self, flights: list[Flight]) -> Done:
        """All commands of these flights, one after the other."""
        before = self._conflicts
        events = sum(self._evaluate(request) for flight in flights for request in requests(flight))
        return Done(len(flights), events, self._conflicts - before)

    def _evaluate(self, request: Request) -> int:
        root = self._roots.get(request.aggregate_id)
        if root is None:
            root = self._roots[request.aggregate_id] = root_of(self._store, request.aggregate_id)
        before = root.conflicts
        events = root.evaluate(request.command)
        self._conflicts += root.conflicts - before
        return len(events)


def replay(store: Store, flights: list[Flight], workers: int) -> Iterator[Done]:
    """Fly the flights in so many processes; yields what is done as soon as it is."""
    chunks = [flights[start : start + _CHUNK] for start in range(0, len(flights), _CHUNK)]
    with _pool(store, workers) as pool:
        results = pool.imap_unordered(_fly, chunks)
        for _ in chunks:
            yield results.next(_LONGEST_SILENCE)
        pool.close()
        pool.join()


def _pool(store: Store, workers: int) -> Pool:
    with _interrupts_held():
        return multiprocessing.get_context("spawn").Pool(workers, _start, (store,))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    # Processes inherit the mask and keep it: no moment is left in which Ctrl-C could reach a worker that is starting.
    # The tracker has to run before, because starting it lifts the mask.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_workers: list[Worker | Exception] = []


def _start(store: Store) -> None:
    # What is raised here would only make the pool start another worker, again and again.
    try:
        _workers.append(Worker(store))
    except Exception as error:  # noqa: BLE001 (it is raised at the first task)
        _workers.append(error)


def _fly(flights: list[Flight]) -> Done:
    worker = _workers[0]
    if isinstance(worker, Exception):
        raise worker
    return worker.fly(flights)
