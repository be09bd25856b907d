"""A pool of processes that share one store and know nothing of each other.

Rules kept here: workers are spawned, so that they share nothing but the store, whose handle is sent to them. An
interrupt from the terminal is the parent's business alone. A pool whose worker was killed would wait for ever, hence
the limit on the silence between two results.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.pool import Pool
from typing import Any, TypeVar

from maestro_shm import Store

_LONGEST_SILENCE = 120.0

_Task = TypeVar("_Task")
_Done = TypeVar("_Done")


def results(
    store: Store, workers: int, worker: Callable[[Store], Callable[[_Task], _Done]], tasks: Sequence[_Task]
) -> Iterator[_Done]:
    """What so many processes make of the tasks, as soon as it is there; each has a worker of its own for its store."""
    with _pool(store, workers, worker) as pool:
        done = pool.imap_unordered(_work, tasks)
        for _ in tasks:
            yield done.next(_LONGEST_SILENCE)
        pool.close()
        pool.join()


def _pool(store: Store, workers: int, worker: Callable[[Store], Callable[[Any], Any]]) -> Pool:
    with _interrupts_held():
        return multiprocessing.get_context("spawn").Pool(workers, _start, (store, worker))


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


_workers: list[Callable[[Any], Any] | Exception] = []


def _start(store: Store, worker: Callable[[Store], Callable[[Any], Any]]) -> None:
    # What is raised here would only make the pool start another worker, again and again.
    try:
        _workers.append(worker(store))
    except Exception as error:  # noqa: BLE001 (it is raised at the first task)
        _workers.append(error)


def _work(task: Any) -> Any:
    worker = _workers[0]
    if isinstance(worker, Exception):
        raise worker
    return worker(task)
