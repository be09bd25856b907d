"""A forked process with a line to it.

Rules: a child takes no notice of Ctrl-C, which a terminal sends to all at once; it ends when its owner closes it,
whatever it is doing. `receive` raises EOFError if the child died, so nobody waits for the dead. Signals wait while a
fork is under way: Python runs hooks after it, and drops what is raised in them, a KeyboardInterrupt too.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Self

FORK: Final = multiprocessing.get_context("fork")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Child:
    """Runs `main(line)`; `send` and `receive` are the owner's end of the line.

    A parent may have children of its own, but nobody ends it if its owner is interrupted before closing it.
    """

    def __init__(self, main: Callable[[Connection], None], *, parent: bool = False) -> None:
        self._line, theirs = FORK.Pipe()
        self._process = FORK.Process(target=_run, args=(main, theirs), daemon=not parent)
        with _held_signals():
            self._process.start()
        theirs.close()
        self.send = self._line.send

    def receive(self) -> Any:
        return self._line.recv()

    def close(self) -> None:
        self._line.close()
        self._process.terminate()
        self._process.join()
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _held_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(main: Callable[[Connection], None], line: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    main(line)
