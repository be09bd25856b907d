"""A worker that commits to streams of its own, takes snapshots of them, and truncates them, without pause.

Before each call it notes what it sends, and afterwards what it was told: so whoever reads its notes when it was killed
knows what has to be there, and what may be there.
"""

from __future__ import annotations

import random
import time
from typing import Final, NamedTuple

import maestro_shm as ms
from campaign.kills.audit import Outcome, Sent, entry_of_event, entry_of_snapshot
from campaign.kills.notebook import Flag, Notebook

STREAMS: Final = 3
_PAUSE: Final = 0.001
"""Seconds between two calls: without them the log would grow faster than it is compacted."""
_OPEN: Final = "may or may not have been stored"
_LARGE: Final = range(20_000, 50_000)
_SMALL: Final = range(200)
_LEFT: Final = 4
"""At most so many events behind a snapshot stay that it covers."""


class Floor(NamedTuple):
    """A truncation, as it was sent or as it was acknowledged."""

    aggregate_id: str
    before: int
    is_acknowledged: bool


class Wrong(NamedTuple):
    """What ought not to have happened."""

    text: str


class Pruner:
    """Works on one store until it is told to stop, or killed."""

    def __init__(self, store: ms.Store, name: str, choices: random.Random, notebook: Notebook) -> None:
        self._store = store
        self._name = name
        self._choices = choices
        self._notebook = notebook
        self._number = 0
        self._heads: dict[str, int] = {}
        self._covered: dict[str, int] = {}
        self._floors: dict[str, int] = {}

    def work(self, stop: Flag) -> None:
        """Whatever goes wrong stops the others, too, since a store may be past use."""
        while not stop.is_raised():
            self._number += 1
            try:
                self._step()
            except ms.StoreError as error:
                self._complain(f"{type(error).__name__}: {error}")
                stop.raise_it()
            time.sleep(_PAUSE)

    def burden(self, size: int) -> None:
        """Commit so many bytes to one stream, and truncate it."""
        stream, *_ = self._own()
        for _ in range(size // _LARGE.stop):
            sequence = (self._store.last_sequence(stream) or 0) + 1
            self._commit([ms.Event(stream, sequence, "burden", self._choices.randbytes(_LARGE.stop))])
        self._snapshot(stream)
        self._truncate(stream)

    def _step(self) -> None:
        stream = self._choices.choice(self._own())
        kind = self._choices.random()
        if kind < 0.1:
            self._snapshot(stream)
        elif kind < 0.2:
            self._truncate(stream)
        else:
            self._commit([event for name in self._some(stream) for event in self._events(name)])

    def _own(self) -> list[str]:
        return [f"{self._name}-{number}" for number in range(STREAMS)]

    def _some(self, stream: str) -> list[str]:
        return [stream] if self._choices.random() < 0.6 else self._choices.sample(self._own(), 2)

    def _events(self, stream: str) -> list[ms.Event]:
        last = self._store.last_sequence(stream) or 0
        if last < self._heads.get(stream, 0):
            self._complain(f"{stream}: read {last} after {self._heads[stream]}")
        return [self._event(stream, last + 1 + number) for number in range(self._choices.randint(1, 2))]

    def _event(self, stream: str, sequence: int) -> ms.Event:
        size = self._choices.choice(_LARGE if self._choices.random() < 0.3 else _SMALL)
        return ms.Event(stream, sequence, "written", [self._number, self._choices.randbytes(size)])

    def _commit(self, events: list[ms.Event]) -> None:
        tried = tuple(map(entry_of_event, events))
        self._notebook.note(Sent(Outcome.OPEN, tried))
        try:
            stored = self._store.commit_events(events)
        except ms.StoreUnavailableError as error:
            if _OPEN not in error.reason:
                self._notebook.note(Sent(Outcome.REFUSED, tried))
            return
        self._notebook.note(Sent(Outcome.ACKNOWLEDGED, tuple(map(entry_of_event, stored))))
        self._heads |= {event.aggregate_id: event.sequence for event in events}

    def _snapshot(self, stream: str) -> None:
        sequence = self._store.last_sequence(stream) or 0
        if sequence <= self._covered.get(stream, 0):
            return
        snapshot = ms.Snapshot(stream, sequence, [self._number, self._choices.randbytes(1000)])
        tried = (entry_of_snapshot(snapshot),)
        self._notebook.note(Sent(Outcome.OPEN, tried))
        try:
            stored = self._store.commit_snapshot(snapshot)
        except ms.StoreUnavailableError:
            return
        if stored:
            self._covered[stream] = sequence
        self._notebook.note(Sent(Outcome.ACKNOWLEDGED if stored else Outcome.REFUSED, tried))

    def _truncate(self, stream: str) -> None:
        before = self._covered.get(stream, 0) + 1 - self._choices.randrange(_LEFT)
        if before <= self._floors.get(stream, 1):
            return
        self._notebook.note(Floor(stream, before, is_acknowledged=False))
        try:
            self._store.truncate(stream, before=before)
        except ms.StoreUnavailableError:
            return
        self._notebook.note(Floor(stream, before, is_acknowledged=True))
        self._floors[stream] = before

    def _complain(self, text: str) -> None:
        self._notebook.note(Wrong(text))


def prune(target: str, name: str, choices: random.Random, notebook: Notebook, stop: Flag) -> None:
    """Work with a connection of its own."""
    with ms.connect(target) as store:
        Pruner(store, name, choices, notebook).work(stop)
