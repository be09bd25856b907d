"""Processes that hold every import already and have never met a store.

They are forked from one that was forked before any store was opened, so nothing of an open handle reaches them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from benchmarks.child import Child


class FreshProcesses:
    """Make it before anything else is opened."""

    def __init__(self) -> None:
        self._origin = Child(_serve, parent=True)

    def call(self, function: Callable[..., Any], *args: object) -> Any:
        """What the function returns in a process of its own."""
        self._origin.send((function, args))
        return self._origin.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._origin.close()


def _serve(line: Connection) -> None:
    with suppress(EOFError):  # there is nobody left to ask
        while True:
            function, args = line.recv()
            with Child(partial(_answer, function, args)) as child:
                line.send(child.receive())


def _answer(function: Callable[..., Any], args: tuple[object, ...], line: Connection) -> None:
    line.send(function(*args))
