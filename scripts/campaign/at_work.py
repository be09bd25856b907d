"""Threads that go on with something all the time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor


@contextlib.contextmanager
def threads_at_work(*works: Callable[[], object]) -> Iterator[None]:
    """Do each work again and again, in a thread of its own, while the `with` lasts. Raises what one raised."""
    stop = threading.Event()

    def go_on(work: Callable[[], object]) -> None:
        while not stop.is_set():
            work()

    with ThreadPoolExecutor(len(works)) as threads:
        try:
            ends = [threads.submit(go_on, work) for work in works]
            yield
        finally:
            stop.set()
        for end in ends:
            end.result()
