"""Threads that go on with something all the time."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

_INTERVAL: Final = 1e-4
"""Seconds after which threads take turns; Python's own 5 ms keep each from its work, and let less happen at once."""


@contextlib.contextmanager
def threads_at_work(*works: Callable[[], object]) -> Iterator[None]:
    """Do each work again and again, in a thread of its own, while the `with` lasts. Raises what one raised."""
    stop = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_INTERVAL)

    def go_on(work: Callable[[], object]) -> None:
        while not stop.is_set():
            work()

    with ThreadPoolExecutor(len(works)) as threads:
        try:
            ends = [threads.submit(go_on, work) for work in works]
            yield
        finally:
            stop.set()
            sys.setswitchinterval(interval)
        for end in ends:
            end.result()
