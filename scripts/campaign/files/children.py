"""Work in forked children, so that both cores have something to do, and a signal ends a child and not the campaign.

A child that is not wanted any more is told so by SIGTERM, which it meets as a `KeyboardInterrupt`: what it has started
it can end.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_LAST_SECONDS: Final = 15.0
"""How long a child that is to end may take to clean up."""


@dataclass(frozen=True)
class Ending(Generic[T]):
    """How a child ended: by a signal (or 0), with a result, or with what it raised as text."""

    signal: int
    results: Sequence[T]
    """The result, or nothing."""
    error: str

    def result(self) -> T:
        """What the child returned; raises what is known of why there is nothing."""
        if not self.results:
            raise RuntimeError(f"a forked child ended by signal {self.signal}: {self.error}")
        return self.results[0]


class _Child(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self.pipe, end = os.pipe()
        self.said = b""
        self.has_ended = False
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            _work(work, end)
        os.close(end)

    def listen(self) -> None:
        """Take what the child says; its end is the end of what it says."""
        data = os.read(self.pipe, 1 << 16)
        self.said += data
        self.has_ended = not data

    def ending(self) -> Ending[T]:
        code = os.waitstatus_to_exitcode(self._reap())
        if not self.has_ended:
            return Ending(max(0, -code), (), "it took too long")
        if not self.said or code:
            return Ending(max(0, -code), (), f"exit code {code}")
        good, outcome = pickle.loads(self.said)
        return Ending(0, (outcome,), "") if good else Ending(0, (), outcome)

    def end(self) -> None:
        """End it if it still runs, and let go of it."""
        self.stop()
        os.close(self.pipe)

    def stop(self) -> None:
        """Tell it to end, and kill it if it does not."""
        deadline = time.monotonic() + _LAST_SECONDS
        if self._status is None:
            os.kill(self.pid, signal.SIGTERM)
        while self._status is None and time.monotonic() < deadline:
            self._look()
            time.sleep(0.005)
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def _look(self) -> None:
        ended, status = os.waitpid(self.pid, os.WNOHANG)
        self._status = status if ended else None

    def _reap(self) -> int:
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        return self._status


def in_children(works: Sequence[Callable[[], T]], *, seconds: float) -> list[Ending[T]]:
    """Do all of them at once, each in a fork of this process; whichever is not done in time is ended."""
    deadline = time.monotonic() + seconds
    children: list[_Child[T]] = []
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for work in works:
            child = _Child(work)
            stack.callback(child.end)
            children.append(child)
            selector.register(child.pipe, selectors.EVENT_READ, child)
        while any(not child.has_ended for child in children) and time.monotonic() < deadline:
            _listen(selector, deadline)
        for child in children:
            if not child.has_ended:
                child.stop()
        return [child.ending() for child in children]


def in_child(work: Callable[[], T], *, seconds: float) -> Ending[T]:
    """Do it in a fork of this process."""
    return in_children([work], seconds=seconds)[0]


def on_all_cores(work: Callable[[int, int], T], *, seconds: float) -> Iterator[T]:
    """The results of shares of a work: each core gets the number of its share, and how many shares there are."""
    shares = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    works = [lambda number=number: work(number, shares) for number in range(shares)]
    return (ending.result() for ending in in_children(works, seconds=seconds))


def _listen(selector: selectors.BaseSelector, deadline: float) -> None:
    for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
        child: _Child[object] = key.data
        child.listen()
        if child.has_ended:
            selector.unregister(child.pipe)


def _end_on_signals() -> None:
    """Let the first signal to end be a `KeyboardInterrupt`, and the next ones not disturb what it leads to."""
    told = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal told
        if not told:
            told = True
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _work(work: Callable[[], object], end: int) -> None:
    code = 1
    try:
        _end_on_signals()
        try:
            said = pickle.dumps((True, work()))
        except BaseException:  # noqa: BLE001 (whatever it is, the parent is to hear of it)
            said = pickle.dumps((False, traceback.format_exc()))
        with os.fdopen(end, "wb") as pipe:
            pipe.write(said)
        code = 0
    finally:
        os._exit(code)
