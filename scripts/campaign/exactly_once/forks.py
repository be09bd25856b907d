"""Raw forks that ask by the handle that they inherit, made at the worst moments."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Self

from processes import Fork, wait_until

import maestro_shm as ms
from campaign.exactly_once.asker import Asker, Notes, at_once

_fork_in_c: Final = ctypes.PyDLL(None).fork
"""No hook of Python runs."""
_CALLS: Final = 6
_LOOKS: Final = 3
"""So often threads have to be seen waiting; one that waits for its turn only goes on in between."""


class Forks:
    """Children of this process, three at a time; what they note is taken from them."""

    def __init__(self, store: ms.Store, parent: Asker, random: random.Random) -> None:
        self.notes = Notes()
        self.counts: Counter[str] = Counter()
        self._store = store
        self._parent = parent
        self._random = random
        self._living: list[Fork[Notes]] = []

    def fork(self) -> None:
        """Between two calls of this thread, whatever the others do."""
        self._fork(os.fork)

    def fork_among_waiting_threads(self) -> None:
        """In C, while all other threads wait for their replies.

        Not while one waits for its turn: CPython itself waits for that thread then, in the child that has none.
        """
        server = self._store.stats()["server_pid"]
        os.kill(server, signal.SIGSTOP)
        try:
            looks = Counter[bool]()
            wait_until(lambda: _all_wait(looks), "all threads wait for their replies")
            self._fork(_fork_in_c)
        finally:
            os.kill(server, signal.SIGCONT)

    def fork_in_a_call(self, fork: Callable[[], int] = os.fork) -> None:
        """By the handler of a signal, in the midst of this thread's own call."""
        before = self.count

        def handle(*_: object) -> None:
            self.counts["in the midst of a call"] += 1
            self._fork(fork)

        former = signal.signal(signal.SIGALRM, handle)
        try:
            signal.setitimer(signal.ITIMER_REAL, self._random.uniform(5e-6, 1e-4))
            while self.count == before:
                self._parent.ask(at_once)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)

    def fork_in_c_in_a_call(self) -> None:
        """The same in C, where there is no other thread."""
        self.fork_in_a_call(_fork_in_c)

    @property
    def count(self) -> int:
        """How many there were."""
        return self.counts["children"]

    def reap(self, most: int = 2) -> None:
        """Go on asking beside the children, and take what they noted until no more than so many live."""
        self._parent.ask(at_once)
        while len(self._living) > most:
            self.notes += self._living[0].result()
            self._living.pop(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._living:
            child.kill()

    def _fork(self, fork: Callable[[], int]) -> None:
        self.counts["children"] += 1
        self.counts["forked in C"] += fork is _fork_in_c
        self._living.append(Fork(partial(self._ask, f"child-{self.count}"), fork))

    def _ask(self, name: str) -> Notes:
        asker = Asker(self._store, name, self._random.random())
        for _ in range(_CALLS):
            asker.ask(at_once)
        asker.notes.reads.append(self._parent.read_of(self._store))
        return asker.notes


def _all_wait(looks: Counter[bool]) -> bool:
    """Whether all other threads were seen waiting often enough in a row."""
    frames = sys._current_frames()
    others = [thread.ident for thread in threading.enumerate() if thread is not threading.main_thread()]
    waiting = all(ident in frames and frames[ident].f_code.co_name == "_wait" for ident in others if ident)
    looks[True] = looks[True] + 1 if waiting else 0
    return looks[True] >= _LOOKS
