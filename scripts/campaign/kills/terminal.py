"""A program in the foreground of a terminal of its own, where keys can be pressed and which can be hung up."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import time
from typing import Final, Self

from processes import PATIENCE, WARNINGS, is_gone, wait_until

CONTROL_C: Final = b"\x03"


class Terminal:
    """Runs a source in a fresh interpreter; what that prints is read line by line."""

    def __init__(self, source: str, *arguments: str) -> None:
        command = [sys.executable, *WARNINGS, "-c", source, *arguments]
        self._said = b""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            try:
                for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                    signal.signal(
                        number, signal.SIG_DFL
                    )  # who runs in the background may ignore them, and so would this
                os.execv(sys.executable, command)
            finally:
                os._exit(127)

    def line(self) -> str | None:
        """The next line, or None when there is none any more."""
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._said:
            if not select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"a program at a terminal said nothing for {PATIENCE:g} s")
            try:
                data = os.read(self._terminal, 1 << 16)
            except OSError:  # the last process at the terminal has ended
                return None
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return line.decode(errors="replace").strip()

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def rest(self) -> list[str]:
        """All that the program says until its end, which comes by itself."""
        said = list(iter(self.line, None))
        wait_until(lambda: is_gone(self.pid), "the program at the terminal has ended")
        return said

    def hang_up(self) -> None:
        """Close the terminal: its foreground hears SIGHUP."""
        os.close(self._terminal)
        self._terminal = -1
        wait_until(lambda: is_gone(self.pid), "the program without its terminal has ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        if self._terminal >= 0:
            os.close(self._terminal)
