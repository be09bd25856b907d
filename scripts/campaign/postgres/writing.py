"""Writers that commit all the time, and make each call again until they are told what became of it."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self

from processes import PATIENCE, Fork

import maestro_shm as ms
from campaign.exactly_once.at_work import threads_at_work
from campaign.exactly_once.drafts import Draft, Drafter, Told
from campaign.exactly_once.outcomes import Commit
from campaign.kills.notebook import Flag

PATIENT: Final = 30.0
"""Seconds that a call may take: longer than any server is away."""
HASTY: Final = 0.04
"""Seconds after which many calls end without an outcome."""
_AGGREGATES: Final = [f"aggregate-{number}" for number in range(8)]


@dataclass
class Done:
    """What was committed, and how often a call ended without an outcome, by what it said; first of the patient ones."""

    commits: list[Commit] = field(default_factory=list)
    given_up: Counter[str] = field(default_factory=Counter)
    unresolved: Counter[str] = field(default_factory=Counter)

    def __iadd__(self, other: Done) -> Self:
        self.commits += other.commits
        self.given_up += other.given_up
        self.unresolved += other.unresolved
        return self


class Writers:
    """Processes with threads, at work while the `with` lasts; `done` is there afterwards."""

    def __init__(self, url: str, choices: random.Random, processes: int, patiences: Sequence[float]) -> None:
        """In each process there is a thread for each of the patiences: the seconds that its calls may take."""
        self.done = Done()
        self._stack = contextlib.ExitStack()
        self._url = url
        self._seeds = [choices.randrange(2**32) for _ in range(processes)]
        self._patiences = patiences

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._stop = stack.enter_context(Flag())
            works = [partial(_write, self._url, seed, self._patiences, self._stop) for seed in self._seeds]
            self._forks = [stack.enter_context(Fork(work)) for work in works]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            self._stop.raise_it()
            if kind is None:
                for fork in self._forks:
                    self.done += fork.result(patience=2 * PATIENCE)


def _write(url: str, seed: int, patiences: Sequence[float], stop: Flag) -> Done:
    """Threads of the same patience share a handle. What is read is read by a patient one."""
    done = Done()
    with contextlib.ExitStack() as stack:
        stores = {timeout: stack.enter_context(_connected(url, timeout)) for timeout in {PATIENT, *patiences}}
        writers = [
            _Writer(stores[PATIENT], stores[timeout], random.Random(f"{seed} {number}"), f"{seed}-{number}", done)
            for number, timeout in enumerate(patiences)
        ]
        with threads_at_work(*(writer.commit for writer in writers)):
            while not stop.is_raised():
                time.sleep(0.01)
    return done


@contextlib.contextmanager
def _connected(url: str, timeout: float) -> Iterator[ms.Store]:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            store = ms.connect(url, timeout=timeout)
        except ms.StoreUnavailableError:
            if time.monotonic() > deadline:
                raise
        else:
            break
    with store:
        yield store


class _Writer:
    """Of one thread."""

    def __init__(self, reader: ms.Store, store: ms.Store, choices: random.Random, name: str, done: Done) -> None:
        self._store = store
        self._drafter = Drafter(choices, reader, name, _AGGREGATES)
        self._done = done
        self._complaints = done.given_up if reader is store else done.unresolved

    def commit(self) -> None:
        draft = self._drafter.draft()
        self._done.commits.append(draft.told(self._told(draft)))

    def _told(self, draft: Draft) -> Told | None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                return draft.commit_to(self._store)
            except ms.SequenceConflictError as conflict:
                return conflict
            except ms.StoreUnavailableError as error:
                self._complaints[error.reason] += 1
        return None
