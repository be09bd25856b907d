"""What the server has to say, in its file `server.log`: never too much, and never a reason to fail."""

from __future__ import annotations

import contextlib
import os
import traceback
from pathlib import Path
from typing import Final

_LARGEST_FILE: Final = 1 << 18
_LARGEST_SHARE: Final = 1 << 16
"""Bytes that one server writes, since the file may lie in shared memory and a client may be hostile."""


def redirect_output(file: Path) -> None:
    """Let standard output and error go to the file, behind what earlier servers said if that is not too much."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600)
    if os.fstat(descriptor).st_size > _LARGEST_FILE:
        os.ftruncate(descriptor, 0)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)


class Complaints:
    """Writes to standard error as long as its share lasts."""

    def __init__(self) -> None:
        self._left = _LARGEST_SHARE

    def about(self, text: str) -> None:
        """One line."""
        self._write(f"{text}\n")

    def about_exception(self) -> None:
        """The traceback of the exception that is being handled."""
        if self._left:  # it takes longer to tell a traceback than to refuse most of what a hostile client sends
            self._write(traceback.format_exc())

    def _write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")[: self._left]
        self._left -= len(data)
        with contextlib.suppress(OSError):  # a full disk is no reason to end
            os.write(2, data)
