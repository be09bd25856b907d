"""The process that a private store belongs to: who it is, whether it lives, and a way to hear of its end.

A process id alone may be taken by a later process, and means another process in another container, so the time of the
process's start and its id namespace go with it where the system tells them. Where it does not tell, the process counts
as alive: a store that is kept too long costs memory, one that is removed too early costs its user's data.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_IDENTITY: Final = re.compile(r"[0-9]{1,9}-[0-9]*-[0-9]*")
_START_TIME_FIELD: Final = 19
"""Field 22 of /proc/PID/stat, counted behind the command's closing bracket (proc(5))."""
_ZOMBIE: Final = "zombie"


def identity(pid: int) -> str:
    """A name of the process that no later one will have: its id, its start, its id namespace."""
    return f"{pid}-{_start_time(pid) or ''}-{_namespace()}"


def is_identity(name: object) -> bool:
    """Whether this is the name of a process."""
    return type(name) is str and _IDENTITY.fullmatch(name) is not None


def pid_of(creator: str) -> int:
    """The process id in the name."""
    return int(creator.partition("-")[0])


def is_alive(creator: str) -> bool:
    """Whether the process of this name still runs, as far as can be told."""
    _, started, namespace = creator.split("-")
    if namespace != _namespace():
        return True
    try:
        os.kill(pid_of(creator), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's: perhaps a later process of the same number
    now = _start_time(pid_of(creator))
    return now != _ZOMBIE and (not now or not started or now == started)


def watch(creator: str) -> int | None:
    """A descriptor that becomes readable when the process ends; None where there is none: ask `is_alive` then."""
    if not hasattr(os, "pidfd_open") or creator.split("-")[2] != _namespace():
        return None
    try:
        descriptor = os.pidfd_open(pid_of(creator))
    except OSError:
        return None
    if is_alive(creator):
        return descriptor
    os.close(descriptor)  # it may be of a later process of the same number
    return None


def _start_time(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    # A zombie is dead for us: it runs no more, only its parent has not asked for it yet.
    return _ZOMBIE if state == "Z" else rest[_START_TIME_FIELD - 1]


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""
