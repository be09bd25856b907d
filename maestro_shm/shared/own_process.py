"""Whether this process is another one than it was: told without a system call, which is 3 % of a commit.

The system wipes a page in each child, whoever has forked it: some servers fork in C (uWSGI), where no hook of Python
runs. Where it cannot do that (macOS, Linux before 4.14, an emulator), the process id is asked for each time.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

_WIPE_ON_FORK: Final = 18
"""MADV_WIPEONFORK, see madvise(2). Python has no name for it."""
_NO_ADVICE: Final = -1
"""Who takes this takes anything and does nothing (qemu, as a user's process)."""


class _Asked:
    """In place of the page's words."""

    def __getitem__(self, number: int) -> int:
        return os.getpid()

    def __setitem__(self, number: int, process: int) -> None:
        """It is so already."""


def _wiped_on_fork() -> memoryview | _Asked:
    if not hasattr(mmap, "MAP_ANONYMOUS") or not hasattr(mmap.mmap, "madvise"):  # pragma: no cover
        return _Asked()
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _takes(page, _WIPE_ON_FORK) and not _takes(page, _NO_ADVICE):
        return memoryview(page).cast("Q")
    page.close()
    return _Asked()


def _takes(page: mmap.mmap, advice: int) -> bool:
    try:
        page.madvise(advice)
    except OSError:
        return False
    return True


own: Final = _wiped_on_fork()
"""Its first item is the id of this process, or 0 in a child that has not called `note` yet."""


def note() -> int:
    """The id of this process, to be compared with `own[0]` later on."""
    while own[0] != (process := os.getpid()):  # again, since a signal's handler may fork here
        own[0] = process
    return process


os.register_at_fork(after_in_child=note)  # so forks in C are the only ones that depend on the page
