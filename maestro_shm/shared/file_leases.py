"""Leases between processes: locks on the bytes of a file, which the system takes back when a process dies.

They need no server, so they hold while servers come and go. The locks belong to the open file and not to the process
(`F_OFD_SETLK`, of Linux 3.15): so two holders in one process keep each other out, too, and nothing that else happens to
be closed in it takes them away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import weakref
from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.leases import Leases

_ON_MACOS: Final = sys.platform == "darwin"
_SET: Final[int] = getattr(fcntl, "F_OFD_SETLK", 90)  # the numbers of macOS, which Python does not name everywhere
_GET: Final[int] = getattr(fcntl, "F_OFD_GETLK", 92)
_LOCK: Final = struct.Struct("qqihh" if _ON_MACOS else "hhqqi4x")
_BUSY: Final = (errno.EAGAIN, errno.EACCES)


class FileLeases(Leases):
    """The leases that are taken by one open file."""

    def __init__(self, path: Path) -> None:
        """The file is made if there is none; it stays empty."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreUnavailableError(str(path.parent), f"cannot open {path.name!r}: {error.strerror}") from None
        self._close_file = weakref.finalize(self, os.close, self._descriptor)
        _open_files.add(self)

    def take(self, number: int) -> bool:
        try:
            fcntl.fcntl(self._descriptor, _SET, _packed(fcntl.F_WRLCK, number, 1))
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def give_back(self, number: int) -> None:
        fcntl.fcntl(self._descriptor, _SET, _packed(fcntl.F_UNLCK, number, 1))

    def taken_by_others(self, start: int, stop: int) -> list[int]:
        found: list[int] = []
        left = [(start, stop)]
        while left:
            start, stop = left.pop()
            lock = fcntl.fcntl(self._descriptor, _GET, _packed(fcntl.F_WRLCK, start, stop - start))
            kind, first, length = _unpacked(lock)
            if kind != fcntl.F_UNLCK:  # any of the locks in the range, not the first
                first, end = max(first, start), min(first + length, stop)
                found += range(first, end)
                left += [part for part in ((start, first), (end, stop)) if part[0] < part[1]]
        return sorted(found)

    def close(self) -> None:
        self._close_file()


_open_files: Final[weakref.WeakSet[FileLeases]] = weakref.WeakSet()


def _close_after_fork() -> None:
    """A child has its parent's open file, and with it would hold the leases on when the parent is dead."""
    for leases in list(_open_files):
        leases.close()


os.register_at_fork(after_in_child=_close_after_fork)


def _packed(kind: int, start: int, length: int) -> bytes:
    if _ON_MACOS:
        return _LOCK.pack(start, length, 0, kind, os.SEEK_SET)
    return _LOCK.pack(kind, os.SEEK_SET, start, length, 0)


def _unpacked(lock: bytes) -> tuple[int, int, int]:
    if _ON_MACOS:
        start, length, _, kind, _ = _LOCK.unpack(lock)
    else:
        kind, _, start, length, _ = _LOCK.unpack(lock)
    return kind, start, length
