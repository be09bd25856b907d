"""Processes that all call a store whose server is gone, at the same moment, and tell who answered them."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Final, NamedTuple, Self

from processes import PATIENCE, Fork

import maestro_shm as ms
from campaign.elections.reigns import Answer
from campaign.histories.history_client import IDENTITY_BITS
from maestro_shm.shared.store import SharedStore

_CREDENTIALS: Final = struct.Struct("3i")
_ROUND_SECONDS: Final = 3 * PATIENCE


class Task(NamedTuple):
    """What a racer is to do: so many commits, and to fork meanwhile, if that is not 0 seconds away."""

    commits: int
    fork_after: float = 0
    child_lives: float = 0


class Result(NamedTuple):
    """What came of it: the answers, and what calls failed with before."""

    answers: list[Answer]
    failures: list[str]


class Crowd:
    """Some racers, which live until it is left."""

    def __init__(self, store: SharedStore, racers: int) -> None:
        self._stack = contextlib.ExitStack()
        self._ends: list[Connection[Task | None, Result]] = []
        with contextlib.ExitStack() as stack:
            for number in range(racers):
                ours, theirs = Pipe()
                stack.enter_context(ours)
                with theirs:
                    stack.enter_context(Fork(partial(_race, store, number, theirs, os.getpid())))
                self._ends.append(ours)
            self._stack = stack.pop_all()

    def start(self, tasks: Sequence[Task]) -> None:
        """Let all begin."""
        for end, task in zip(self._ends, tasks, strict=True):
            end.send(task)

    def results(self, pause: float) -> Iterator[list[Result]]:
        """What those that are done say; nothing at least once in so many seconds; ends when all are done."""
        running = list(self._ends)
        deadline = time.monotonic() + _ROUND_SECONDS
        while running:
            ready = [end for end in running if end in wait(running, pause)]
            yield [end.recv() for end in ready]
            running = [end for end in running if end not in ready]
            assert time.monotonic() < deadline, f"{len(running)} racers were not answered in {_ROUND_SECONDS:g} s"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _race(store: SharedStore, number: int, end: Connection[Result, Task | None], parent: int) -> None:
    """A racer's whole life."""
    racer = _Racer(store, number)
    while True:
        while not end.poll(1):
            if os.getppid() != parent:
                return
        task = end.recv()
        if task is None:
            return
        end.send(racer.run(task))


class _Racer:
    def __init__(self, store: SharedStore, number: int) -> None:
        self._store = store
        self._name = f"racer-{number}"
        self._identities = itertools.count(number << IDENTITY_BITS)
        self._children: list[int] = []
        self._child_lives = 0.0
        signal.signal(signal.SIGALRM, self._fork)

    def run(self, task: Task) -> Result:
        self._reap()
        result = Result([], [])
        self._child_lives = task.child_lives
        signal.setitimer(signal.ITIMER_REAL, task.fork_after)
        try:
            for _ in range(task.commits):
                result.answers.append(self._commit(result.failures))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return result

    def _commit(self, failures: list[str]) -> Answer:
        """Commit until it succeeds. What failed with an open outcome may be stored, so each attempt is another one."""
        while True:
            identity = next(self._identities)
            sequence = (self._store.last_sequence(self._name) or 0) + 1
            event = ms.Event(self._name, sequence, "raced", identity)
            start = time.monotonic_ns()
            try:
                stored = self._store.commit_events([event])
            except (ms.StoreUnavailableError, ms.SequenceConflictError) as error:
                failures.append(f"{type(error).__name__}: {error}")
            else:
                end = time.monotonic_ns()
                return Answer(identity, start, end, stored[0].position or 0, *answered_by(self._store))

    def _fork(self, *_: object) -> None:
        """Leave a child that lives on for a while with copies of all that is open, in the midst of whatever it is."""
        pid = os.fork()
        if pid == 0:
            time.sleep(self._child_lives)
            os._exit(0)
        self._children.append(pid)

    def _reap(self) -> None:
        while self._children:
            os.waitpid(self._children.pop(), 0)


def answered_by(store: Any) -> tuple[int, int]:
    """The epoch and the process at the other end of the line that the last reply came through."""
    connection = store._proxy._at_rest[-1]._connection
    _, _, epoch = connection.getpeername().rpartition("-")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(epoch), _CREDENTIALS.unpack(credentials)[0]
