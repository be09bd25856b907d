"""How far something is, on one line of a terminal; where there is none, a plain line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self, TextIO

_CELLS: Final = 24
_REDRAWN: Final = 0.1
_REPEATED: Final = 5.0
"""Seconds between two states on a terminal, and between two plain lines."""
_CLEAR: Final = "\r\x1b[K"


class Bar:
    """Of several stages, one after the other."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._stage = ""
        self._started = self._shown = 0.0
        self._before = 0
        self._is_drawn = False

    def tell(self, what: str, done: int, of: int | None) -> None:
        """So many are done of a stage, of so many where that is known."""
        now = time.monotonic()
        is_new, is_over = what != self._stage, done == of
        if is_new:
            self._stage, self._started, self._before = what, now, done
        if not is_new and not is_over and now - self._shown < (_REDRAWN if self._is_terminal else _REPEATED):
            return
        self._shown = now
        line = _line(what, done, of, (done - self._before) / max(now - self._started, 1e-3))
        if not self._is_terminal:
            self._stream.write(f"{line}\n")
        else:
            self._stream.write(f"{_CLEAR}{_drawn(done, of)}{line}")
            self._is_drawn = True
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_drawn:
            self._stream.write("\n")
            self._stream.flush()


def _line(what: str, done: int, of: int | None, rate: float) -> str:
    if of is None:
        return f"{what}: {done:,}" if done else what
    return f"{what}: {done:,} of {of:,}" + f", {rate:,.0f}/s" * (rate >= 1)


def _drawn(done: int, of: int | None) -> str:
    if not of:
        return ""
    filled = _CELLS * done // of
    return f"[{'#' * filled}{'.' * (_CELLS - filled)}] "
