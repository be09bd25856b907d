"""Connections that are kept for the next call, and how many there may be.

Who finds none at rest connects itself: so it learns at once why it cannot, and tries again as soon as it likes, where a
pool with threads of its own would wait longer and longer after a server that is away. Nothing here has a lock that a
signal's handler could meet.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

import psycopg

from maestro_shm.turns import NoTurnError, Turns

LONGEST_REST: Final = 120.0
"""Seconds after which a connection that nobody used is closed when another one comes back."""


class Connection(psycopg.Connection):
    """One that gives up at a deadline, whatever the server does: it may hang, or wait for a replica that is gone."""

    deadline: float = float("inf")

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        _open_ones.add(self)

    def wait(self, gen: Any, *given: Any, **named: Any) -> Any:
        return super().wait(_bounded(gen, self), *given, **named)


class Pool:
    """Of one process. Threads may share it."""

    def __init__(self, most: int) -> None:
        self._resting: deque[tuple[float, Connection]] = deque()
        """Each with the time since when it has been there, the newest at the right."""
        self._turns: Final = Turns(most)
        self._is_closed = False

    @contextlib.contextmanager
    def connection(self, connect: Callable[[float], Connection], deadline: float) -> Iterator[Connection]:
        """One that nobody else uses meanwhile; `connect` makes it. Raises `NoTurnError`, and what that does."""
        turn = self._turns.take(deadline)
        try:
            connection = self._at_rest() or connect(deadline)
            connection.deadline = deadline
            try:
                yield connection
            finally:
                self._put(connection)
        finally:
            self._turns.give_back(turn)
            self._hang_up_unused()

    def forget(self) -> None:
        """Close what is at rest: where one connection broke, the others most likely did."""
        with contextlib.suppress(IndexError):
            while True:
                self._resting.popleft()[1].close()

    def close(self) -> None:
        """Close what is at rest, and what is in use when it comes back."""
        self._is_closed = True
        self.forget()

    def _at_rest(self) -> Connection | None:
        with contextlib.suppress(IndexError):
            return self._resting.pop()[1]
        return None

    def _put(self, connection: Connection) -> None:
        """It goes to rest before its user's turn ends, so that there are never more than turns."""
        if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            self._resting.append((time.monotonic(), connection))
        else:  # broken, or interrupted in the middle of something
            connection.close()
        if self._is_closed:
            self.forget()

    def _hang_up_unused(self) -> None:
        """Close the connection that has rested for longest, if that is long."""
        with contextlib.suppress(NoTurnError, IndexError):
            turn = self._turns.take(0)
            try:
                since, connection = self._resting.popleft()
                if since < time.monotonic() - LONGEST_REST:
                    connection.close()
                else:
                    self._resting.appendleft((since, connection))
            finally:
                self._turns.give_back(turn)
            if self._is_closed:
                self.forget()


_open_ones: Final[weakref.WeakSet[Connection]] = weakref.WeakSet()


def _let_go_after_fork() -> None:
    """A child has its parent's sockets, and with them would keep its sessions, and their leases, when it is dead."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for connection in list(_open_ones):
        if not connection.closed:
            os.dup2(nothing, connection.fileno(), inheritable=False)
    os.close(nothing)


os.register_at_fork(after_in_child=_let_go_after_fork)


def _bounded(steps: Generator[Any, Any, Any], connection: Connection) -> Generator[Any, Any, Any]:
    """The driver's steps, which are told ten times a second where nothing has come, up to the deadline."""
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > connection.deadline:
                raise psycopg.OperationalError("the server did not answer in time")
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value
