"""The processor that a thread runs on, and how to go to another one."""

from __future__ import annotations

import os
import resource
from typing import Final

_THREAD: Final = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_STAT: Final = "/proc/thread-self/stat"
_PROCESSOR: Final = 36
"""The field of that name, counted from behind the name of the program, as proc(5) has it (there it is 39)."""


def times_put_off() -> int:
    """How often this thread was ready to go on and another one was put on its processor."""
    return resource.getrusage(_THREAD).ru_nivcsw


def leave() -> bool:
    """Let this thread go on, on another one of the processors that it may use; False where that cannot be done.

    It may use all of them again afterwards: the system leaves it where it is, unless there is a reason. (What somebody
    else changes at this very moment is undone, and processors that a container is given later are not used: for the
    system these are the ones that the thread has asked for.)
    """
    if not hasattr(os, "sched_setaffinity"):  # pragma: no cover (macOS)
        return False
    try:
        allowed = os.sched_getaffinity(0)
        others = allowed - {_current()}
        if not others:
            return False
        try:
            os.sched_setaffinity(0, others)
        finally:
            os.sched_setaffinity(0, allowed)
    except (OSError, LookupError, ValueError):  # another /proc, a sandbox, or the processors are others by now
        return False
    return True


def _current() -> int:
    descriptor = os.open(_STAT, os.O_RDONLY | os.O_CLOEXEC)  # what `Path` does besides takes twice as long
    try:
        stat = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    return int(stat.rpartition(b")")[2].split()[_PROCESSOR])
