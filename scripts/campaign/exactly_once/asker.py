"""Somebody who asks a store for what only he can know, and takes down what he is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

import maestro_shm as ms
from campaign.exactly_once.drafts import Drafter, told_by
from campaign.exactly_once.outcomes import Abandoned, Commit

_NEWEST: Final = 5

T = TypeVar("T")
Call = Callable[[Callable[[], T]], T | None]


@dataclass(frozen=True)
class Read:
    """What was to be read, and what was."""

    expected: Any
    answered: Any


@dataclass
class Notes:
    """All that was asked and answered."""

    commits: list[Commit] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)

    def __iadd__(self, others: Notes) -> Self:
        self.commits += others.commits
        self.reads += others.reads
        return self


def wrong_reads(reads: list[Read]) -> int:
    """How many reads gave anything but what was to be read."""
    return sum(read.answered != read.expected for read in reads)


class Asker:
    """Owns a stream: nobody else commits to it. Every call may be interrupted; a commit is made until it is told of."""

    def __init__(self, store: ms.Store, name: str, seed: object) -> None:
        self.notes = Notes()
        self._store = store
        self._stream = name
        self._random = random.Random(f"{name} {seed}")
        self._drafter = Drafter(self._random, store, name, [name])
        self._events: list[ms.Event] = []
        self._snapshot: ms.Snapshot | None = None
        self._abandoned = 0

    def ask(self, call: Call[Any]) -> None:
        """One call of any kind."""
        self._random.choice((self._commit, self._commit, self._commit_snapshot, self._abandon, self._read))(call)

    def read_of(self, store: ms.Store) -> Read:
        """What somebody else reads of the newest events of the stream."""
        expected = self._events[-_NEWEST:]
        most = len(self._events)
        return Read(expected, store.get_events(self._stream, most - len(expected) + 1, max_sequence=most))

    def _commit(self, call: Call[Any]) -> None:
        first = len(self._events) + 1
        keys = [(self._stream, first + step) for step in range(self._random.choice((1, 1, 4)))]
        draft = self._drafter.events(*keys)
        told = _until_told(call, lambda: told_by(self._store, draft))
        self.notes.commits.append(draft.told(told))
        if isinstance(told, list):
            self._events += told

    def _commit_snapshot(self, call: Call[Any]) -> None:
        draft = self._drafter.snapshot(self._stream, self._snapshot.sequence + 1 if self._snapshot else 0)
        told = _until_told(call, lambda: told_by(self._store, draft))
        self.notes.commits.append(draft.told(told))
        assert isinstance(draft.made, ms.Snapshot)
        self._snapshot = draft.made

    def _abandon(self, call: Call[Any]) -> None:
        """A commit that is not made again when it is interrupted: the next call follows upon it."""
        self._abandoned += 1
        draft = self._drafter.events((f"{self._stream}-abandoned-{self._abandoned}", 1))
        told = call(lambda: told_by(self._store, draft))
        self.notes.commits.append(draft.came_to(Abandoned()) if told is None else draft.told(told))

    def _read(self, call: Call[Any]) -> None:
        least = self._random.randint(0, len(self._events) + 1)
        most = least + self._random.randrange(4)
        wanted: tuple[tuple[Any, Callable[[], Any]], ...] = (
            (
                [event for event in self._events if least <= event.sequence <= most],
                lambda: self._store.get_events(self._stream, least, max_sequence=most),
            ),
            (len(self._events) or None, lambda: self._store.last_sequence(self._stream)),
            (self._snapshot, lambda: self._store.get_snapshot(self._stream)),
        )
        expected, ask = self._random.choice(wanted)
        # In a tuple, since nothing may be the right answer.
        answered = _until_told(call, lambda: (ask(),))
        self.notes.reads.append(Read((expected,), answered))


def at_once(ask: Callable[[], T]) -> T:
    """A call that nothing interrupts."""
    return ask()


def _until_told(call: Call[T], ask: Callable[[], T]) -> T | None:
    for told in (call(ask) for _ in range(3)):
        if told is not None:
            return told
    return ask()
