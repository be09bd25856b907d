"""The process that a private store belongs to: who it is, whether it lives, and a way to hear of its end.

A process id alone may be taken by a later process, so the time of the process's start goes with it where the system
tells it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_START_TIME_FIELD: Final = 19
"""Field 22 of /proc/PID/stat, counted behind the command's closing bracket (proc(5))."""


def identity(pid: int) -> str:
    """A name of the process that no later one will have."""
    return f"{pid}:{_start_time(pid)}"


def is_alive(creator: str) -> bool:
    """Whether the process of this name still runs."""
    pid = _pid(creator)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's: perhaps a later process of the same number
    return identity(pid) == creator


def watch(creator: str) -> int | None:
    """A descriptor that becomes readable when the process ends; None where there is none: ask `is_alive` then."""
    if not hasattr(os, "pidfd_open"):  # pragma: no cover (not Linux)
        return None
    try:
        return os.pidfd_open(_pid(creator))
    except OSError:
        return None


def _pid(creator: str) -> int:
    return int(creator.partition(":")[0])


def _start_time(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    # A zombie is dead for us: it runs no more, only its parent has not asked for it yet.
    return "" if state == "Z" else rest[_START_TIME_FIELD - 1]
