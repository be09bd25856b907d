"""A writer of the whole stack: it commits without pause, and writes down what it sent and what it was told.

Several of them share a store: each has aggregates of its own, where nobody may ever come before it, and all share some
more, where they meet in conflicts.
"""

from __future__ import annotations

import random
from typing import Final, NamedTuple

import maestro_shm as ms
from campaign.kills.audit import Entry, Outcome, Sent, entry_of_event, entry_of_snapshot
from campaign.kills.notebook import Flag

OWN: Final = 4
SHARED: Final = 6
_OPEN: Final = "may or may not have been stored"
_LARGE: Final = 100_000


class Told(NamedTuple):
    """What a writer has to say in the end."""

    sent: list[Sent]
    wrong: list[str]
    """What it was told, or saw, that ought not to be."""
    failures: int
    """Calls that ended in an error because the server was away; of those it was not told that the outcome is open."""


class Writer:
    """Commits to one store until it is told to stop."""

    def __init__(self, store: ms.Store, name: str, choices: random.Random) -> None:
        self._store = store
        self._name = name
        self._choices = choices
        self._number = 0
        self._told = Told([], [], 0)
        self._failures = 0
        self._own_heads: dict[str, int] = {}

    def write(self, stop: Flag, *, at_most: int | None = None) -> Told:
        """Commit until the flag is raised. Whatever goes wrong stops the others, too, since a store may be past use."""
        while not stop.is_raised() and self._number != at_most:
            self._number += 1
            try:
                self._step()
            except ms.StoreError as error:
                self._told.wrong.append(f"{type(error).__name__}: {error}")
            if self._told.wrong:
                stop.raise_it()
        return self._told._replace(failures=self._failures)

    def _step(self) -> None:
        if self._choices.random() < 0.06:
            self._snapshot(self._choices.choice(self._own()))
        else:
            self._commit(self._events())

    def _own(self) -> list[str]:
        return [f"own-{self._name}-{number}" for number in range(OWN)]

    def _events(self) -> list[ms.Event]:
        kind = self._choices.random()
        own = self._choices.choice(self._own())
        shared = [f"shared-{number}" for number in self._choices.sample(range(SHARED), 2)]
        ids = [own] if kind < 0.5 else shared[:1] if kind < 0.7 else [own, *shared]
        events: list[ms.Event] = []
        for aggregate_id in ids:
            first = (self._store.last_sequence(aggregate_id) or 0) + 1
            if first <= self._own_heads.get(aggregate_id, 0):
                self._told.wrong.append(f"{aggregate_id}: read {first - 1} after {self._own_heads[aggregate_id]}")
            count = self._choices.randint(1, 3)
            events.extend(self._event(aggregate_id, first + n, len(events) + n) for n in range(count))
        return events

    def _event(self, aggregate_id: str, sequence: int, part: int) -> ms.Event:
        size = self._choices.randrange(_LARGE) if self._choices.random() < 0.01 else self._choices.randrange(60)
        return ms.Event(aggregate_id, sequence, "written", [self._name, self._number, part, bytes(size)])

    def _commit(self, events: list[ms.Event]) -> None:
        tried = [entry_of_event(event) for event in events]
        try:
            stored = self._store.commit_events(events)
        except ms.SequenceConflictError as conflict:
            if conflict.aggregate_id in self._own():
                self._told.wrong.append(f"a conflict where nobody else writes: {conflict}")
            self._note(Outcome.REFUSED, tried)
        except ms.StoreUnavailableError as error:
            self._note_failure(error, tried)
        else:
            self._note(Outcome.ACKNOWLEDGED, [entry_of_event(event) for event in stored])
            if [entry[:4] for entry in self._told.sent[-1].entries] != [entry[:4] for entry in tried]:
                self._told.wrong.append(f"other events came back than were sent: {stored[:3]}")
            self._own_heads |= {event.aggregate_id: event.sequence for event in events if event.aggregate_id[0] == "o"}

    def _snapshot(self, aggregate_id: str) -> None:
        sequence = self._store.last_sequence(aggregate_id) or 0
        snapshot = ms.Snapshot(aggregate_id, sequence, [self._name, self._number, "snapshot"])
        tried = [entry_of_snapshot(snapshot)]
        try:
            stored = self._store.commit_snapshot(snapshot)
        except ms.StoreUnavailableError as error:
            self._note_failure(error, tried)
        else:
            self._note(Outcome.ACKNOWLEDGED if stored else Outcome.REFUSED, tried)

    def _note_failure(self, error: ms.StoreUnavailableError, tried: list[Entry]) -> None:
        is_open = _OPEN in error.reason
        self._failures += not is_open
        self._note(Outcome.OPEN if is_open else Outcome.REFUSED, tried)

    def _note(self, outcome: Outcome, entries: list[Entry]) -> None:
        self._told.sent.append(Sent(outcome, tuple(entries)))


def write(target: str, name: str, choices: random.Random, stop: Flag, *, at_most: int | None = None) -> Told:
    """What a writer with a connection of its own was told."""
    with ms.connect(target) as store:
        return Writer(store, name, choices).write(stop, at_most=at_most)
