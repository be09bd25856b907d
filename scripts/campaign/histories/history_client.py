"""A client of the store under torture: it does as it likes, and writes down what it asked, when, and what came of it.

Its commits follow on the newest sequences that it has seen. Some aggregates are hot, so that it is often behind.
"""

from __future__ import annotations

import random
import time
import traceback
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import maestro_shm as ms
from campaign.histories.operations import Kind, Operation, Outcome, digest, pack_facts

IDENTITY_BITS: Final = 32
_HOT: Final = 6
_COLD: Final = 3000
_HOT_SHARE: Final = 0.25
_RECENT: Final = 5
"""How many events a client that is up to date reads again."""
_KINDS: Final = {
    Kind.LAST_SEQUENCE: 30,
    Kind.EVENTS: 20,
    Kind.COMMIT: 35,
    Kind.SNAPSHOT: 10,
    Kind.COMMIT_SNAPSHOT: 5,
}
_OPEN: Final = "may or may not have been stored"

_Answer = tuple[int, int, int]
"""Version, position, digest."""
_Wanted = list[tuple[int, int]]
"""Aggregates and sequences."""


class _Request(NamedTuple):
    kind: Kind
    aggregate: int
    argument: int
    wanted: _Wanted
    """What is to be stored."""
    call: Callable[[], Any]
    answer: Callable[[Any], _Answer]


class Client:
    """One process's part of a history."""

    def __init__(self, store: ms.Store, number: int, choices: random.Random) -> None:
        self._store = store
        self._random = choices
        self._seen: dict[int, int] = {}
        self._identities = iter(range(number << IDENTITY_BITS, (number + 1) << IDENTITY_BITS))
        self._identity = 0
        self._recent = 0
        self._numbers = array("q")
        self.failures: list[str] = []
        self._requests: dict[Kind, Callable[[], _Request]] = {
            Kind.COMMIT: self._commit,
            Kind.LAST_SEQUENCE: self._last_sequence,
            Kind.EVENTS: self._events,
            Kind.SNAPSHOT: self._snapshot,
            Kind.COMMIT_SNAPSHOT: self._commit_snapshot,
        }

    def work(self, operations: int) -> None:
        """Do so many of them."""
        for kind in self._random.choices(list(_KINDS), list(_KINDS.values()), k=operations):
            self._identity = next(self._identities)
            self._do(self._requests[kind]())

    def write(self, path: Path) -> None:
        """Leave what was noted."""
        path.write_bytes(self._numbers.tobytes())

    def _do(self, request: _Request) -> None:
        call = request.call
        start = time.monotonic_ns()
        try:
            answer = call()
        except Exception as error:  # noqa: BLE001 (what a store may raise is the checker's to say)
            self._note_error(request, start, time.monotonic_ns(), error)
        else:
            end = time.monotonic_ns()
            try:
                self._note_answer(request, start, end, answer)
            except Exception as error:  # noqa: BLE001 (an answer that nobody can read is a fault of the store)
                self._note_error(request, start, end, error)

    def _note_answer(self, request: _Request, start: int, end: int, answer: Any) -> None:
        done = Outcome.CONFLICT if answer is False else Outcome.DONE
        self._note(request, done, request.aggregate, start, end, request.argument, *request.answer(answer))

    def _note_error(self, request: _Request, start: int, end: int, error: Exception) -> None:
        if isinstance(error, ms.SequenceConflictError):
            aggregate, argument = _number(error.aggregate_id), error.sequence
            if (aggregate, argument) in request.wanted:
                self._seen[aggregate] = error.last_sequence
                self._note(request, Outcome.CONFLICT, aggregate, start, end, argument, error.last_sequence, 0, 0)
                return
        outcome, asked = Outcome.FAILED, 0
        if isinstance(error, ms.StoreUnavailableError) and request.wanted:
            outcome = Outcome.OPEN if _OPEN in error.reason else Outcome.REFUSED
            asked = digest(b"".join(pack_facts(*wanted, 0, 0, self._identity) for wanted in request.wanted))
        else:
            self.failures.append("".join(traceback.format_exception(error)))
        self._note(request, outcome, request.aggregate, start, end, request.argument, 0, 0, asked)

    def _note(
        self,
        request: _Request,
        outcome: Outcome,
        aggregate: int,
        start: int,
        end: int,
        argument: int,
        version: int,
        position: int,
        content: int,
    ) -> None:
        self._numbers.extend(
            Operation(
                self._identity,
                request.kind,
                outcome,
                aggregate,
                start,
                end,
                argument,
                version,
                position,
                content,
            )
        )

    def _commit(self) -> _Request:
        wanted = list(self._wanted())
        events = [ms.Event(_name(aggregate), sequence, "told", self._identity) for aggregate, sequence in wanted]

        def answer(stored: list[ms.Event]) -> _Answer:
            self._seen |= wanted
            return stored[0].sequence, stored[0].position or 0, _digest(stored)

        return _Request(Kind.COMMIT, *wanted[0], wanted, lambda: self._store.commit_events(events), answer)

    def _wanted(self) -> Iterator[tuple[int, int]]:
        """What to commit: mostly one event, some over several aggregates, some with several events of one."""
        first = self._recent if self._random.random() < 0.6 else self._choose()
        others = [self._choose() for _ in range(self._random.choice((0, 0, 0, 1, 2)))]
        for aggregate in dict.fromkeys((first, *others)):
            sequence = self._seen.get(aggregate, 0) + self._random.choice((1,) * 19 + (3,))
            for more in range(self._random.choice((1,) * 9 + (2,))):
                yield aggregate, sequence + more

    def _last_sequence(self) -> _Request:
        aggregate = self._choose()

        def answer(found: int | None) -> _Answer:
            self._seen[aggregate] = found or 0
            return found or 0, 0, 0

        name = _name(aggregate)
        return _Request(Kind.LAST_SEQUENCE, aggregate, 0, [], lambda: self._store.last_sequence(name), answer)

    def _events(self) -> _Request:
        aggregate = self._choose()
        least = max(0, self._seen.get(aggregate, 0) + 1 - _RECENT)

        def answer(found: list[ms.Event]) -> _Answer:
            if found:
                self._seen[aggregate] = found[-1].sequence
            return found[-1].sequence if found else 0, 0, _digest(found)

        name = _name(aggregate)
        return _Request(Kind.EVENTS, aggregate, least, [], lambda: self._store.get_events(name, least), answer)

    def _snapshot(self) -> _Request:
        aggregate = self._choose()

        def answer(found: ms.Snapshot | None) -> _Answer:
            if found is None:
                return 0, 0, 0
            content = digest(pack_facts(_number(found.aggregate_id), found.sequence, 0, 0, found.body))
            return found.sequence, 0, content

        name = _name(aggregate)
        return _Request(Kind.SNAPSHOT, aggregate, 0, [], lambda: self._store.get_snapshot(name), answer)

    def _commit_snapshot(self) -> _Request:
        aggregate = self._recent
        sequence = self._seen.get(aggregate, 0) or 1
        snapshot = ms.Snapshot(_name(aggregate), sequence, self._identity)

        def answer(stored: bool) -> _Answer:  # noqa: FBT001 (what the store answers)
            return sequence if stored else 0, 0, 0

        wanted = [(aggregate, sequence)]
        call = lambda: self._store.commit_snapshot(snapshot)  # noqa: E731 (as of the others)
        return _Request(Kind.COMMIT_SNAPSHOT, aggregate, sequence, wanted, call, answer)

    def _choose(self) -> int:
        """An aggregate, hot or cold."""
        hot = self._random.random() < _HOT_SHARE
        self._recent = self._random.randrange(_HOT) if hot else _HOT + self._random.randrange(_COLD)
        return self._recent


def _name(aggregate: int) -> str:
    return f"told-{aggregate}"


def _number(aggregate_id: str) -> int:
    return int(aggregate_id.rpartition("-")[2])


def _digest(events: Iterable[ms.Event]) -> int:
    """Of what a read gave; raises where an event lacks something or has a body of another kind."""
    return digest(
        b"".join(
            pack_facts(_number(e.aggregate_id), e.sequence, e.position or 0, e.timestamp or 0, e.body) for e in events
        )
    )
