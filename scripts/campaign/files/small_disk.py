"""A file system in memory that is nearly always full, in a mount namespace of its own.

The namespace belongs to the process that made it and to those that it starts: with the last of them the file system is
gone, however they end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
from pathlib import Path
from typing import Final

from campaign.check import SkippedError

SIZE: Final = 4 << 20
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_PR_SET_CHILD_SUBREAPER: Final = 36
_PAGE: Final = 4096

_libc: Final = ctypes.CDLL(None, use_errno=True)


def mount(path: Path) -> None:
    """Mount one of `SIZE` bytes for this process and its children. Raises `SkippedError` where that cannot be."""
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWNS | (_CLONE_NEWUSER if user else 0)):
        raise SkippedError(f"no mount namespace for a small file system: {os.strerror(ctypes.get_errno())}")
    if user:
        _be_root(user, group)
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(path))
    # A core of each process that is to end by SIGBUS would help nobody.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def adopt_orphans() -> None:
    """Become the parent of the servers that this process's children start, so that it can tell how they end."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise SkippedError(f"cannot become the servers' parent: {os.strerror(ctypes.get_errno())}")


class Filler:
    """A file that takes the room away and gives it back. Several processes may move it at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "filler"

    def leave(self, pages: int) -> None:
        """Take all room but for so many pages, as far as that can be had."""
        self.leave_all()
        room = self.room() - pages * _PAGE
        if room > 0:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                with contextlib.suppress(OSError):  # somebody else took some of it this moment
                    os.posix_fallocate(descriptor, 0, room)
            finally:
                os.close(descriptor)

    def leave_all(self) -> None:
        """Give everything back."""
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self._path, 0)

    def room(self) -> int:
        """How many bytes are free."""
        usage = os.statvfs(self._directory)
        return usage.f_bavail * usage.f_frsize


def _be_root(user: int, group: int) -> None:
    """Be root in the new user namespace, that is, nobody else outside of it."""
    try:
        for name, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(content, encoding="ascii")
    except OSError as error:
        raise SkippedError(f"cannot be root in a namespace: {error}") from None


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise SkippedError(f"cannot mount a small file system: {error}") from None
    if done.returncode:
        raise SkippedError(f"cannot mount a small file system: {done.stderr.strip()}")
