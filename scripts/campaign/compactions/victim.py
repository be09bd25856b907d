"""A process that may be killed, held by a descriptor, so that its number cannot become another's meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Self

from processes import is_gone, wait_until


class Victim:
    """One process."""

    def __init__(self, pid: int) -> None:
        """Raises `ProcessLookupError` if it has gone."""
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    @property
    def is_gone(self) -> bool:
        return is_gone(self.pid)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def wait(self) -> None:
        wait_until(lambda: self.is_gone, f"process {self.pid} has been killed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def victim_of(find: Callable[[Path], list[int]], directory: Path) -> Victim | None:
    """One of the processes that are found for a directory, if there is any."""
    for pid in find(directory):
        with contextlib.suppress(ProcessLookupError):
            victim = Victim(pid)
            if pid in find(directory):
                return victim
            victim.__exit__()
    return None
