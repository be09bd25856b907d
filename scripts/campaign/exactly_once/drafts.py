"""Commits that are still to be made, each with a content that no other has."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import maestro_shm as ms
from campaign.exactly_once.outcomes import Commit, Conflict, NotNewer, Outcome, Stored
from maestro_shm.shared.frame import EVENT, SNAPSHOT

Told = list[ms.Event] | bool | ms.SequenceConflictError
"""What a store says to a commit: its events as stored, whether a snapshot was, or that there is a conflict."""

_LARGE: Final = 100_000


@dataclass(frozen=True)
class Draft:
    """What is to be committed."""

    content: str
    made: tuple[ms.Event, ...] | ms.Snapshot

    def commit_to(self, store: ms.Store) -> list[ms.Event] | bool:
        """Make the commit. Whoever is interrupted in here has not been told."""
        made = self.made
        if type(made) is tuple:
            return store.commit_events(made)
        assert type(made) is ms.Snapshot
        return store.commit_snapshot(made)

    def told(self, told: Told | None) -> Commit:
        """The commit with what came of it."""
        if isinstance(self.made, ms.Snapshot):
            return self.came_to(None if told is None else Stored(((0, 0),)) if told else NotNewer())
        if told is None or isinstance(told, bool):
            return self.came_to(None)
        if isinstance(told, ms.SequenceConflictError):
            return self.came_to(Conflict(told.aggregate_id, told.sequence, told.last_sequence))
        is_ours = len(told) == len(self.made) and all(map(_is_as_asked, told, self.made))
        places = tuple((event.position or 0, event.timestamp or 0) for event in told)
        return self.came_to(Stored(places if is_ours else ()))

    def came_to(self, outcome: Outcome) -> Commit:
        """The commit with an outcome."""
        if isinstance(self.made, ms.Snapshot):
            return Commit(SNAPSHOT, self.content, ((self.made.aggregate_id, self.made.sequence),), outcome)
        return Commit(EVENT, self.content, tuple((event.aggregate_id, event.sequence) for event in self.made), outcome)


def _is_as_asked(told: ms.Event, asked: ms.Event) -> bool:
    return (told.aggregate_id, told.sequence, told.type, told.body) == (
        asked.aggregate_id,
        asked.sequence,
        asked.type,
        asked.body,
    ) and asked.timestamp in (None, told.timestamp)


def told_by(store: ms.Store, draft: Draft) -> Told | None:
    """What a store says to a draft; None where it says nothing."""
    try:
        return draft.commit_to(store)
    except ms.SequenceConflictError as conflict:
        return conflict
    except ms.StoreUnavailableError:
        return None


class Drafter:
    """Makes up commits on some aggregates, by what it reads of them."""

    def __init__(self, random: random.Random, store: ms.Store, name: str, aggregates: Sequence[str]) -> None:
        self._random = random
        self._store = store
        self._name = name
        self._aggregates = aggregates
        self._numbers = itertools.count(1)

    def draft(self) -> Draft:
        """Events of one or some aggregates, or a snapshot that may be newer than the stored one or not."""
        if self._random.random() < 0.2:
            aggregate_id = self._random.choice(self._aggregates)
            stored = self._store.get_snapshot(aggregate_id)
            return self.snapshot(aggregate_id, (stored.sequence if stored else 0) + self._random.randrange(3))
        count = min(len(self._aggregates), self._random.choice((1, 1, 2, 3)))
        return self.events(
            *(
                (aggregate_id, (self._store.last_sequence(aggregate_id) or 0) + 1 + step)
                for aggregate_id in self._random.sample(self._aggregates, count)
                for step in range(self._random.choice((1, 1, 3)))
            )
        )

    def rival_of(self, draft: Draft) -> Draft:
        """A commit that takes the place of one of this one's records."""
        if isinstance(draft.made, ms.Snapshot):
            return self.snapshot(draft.made.aggregate_id, draft.made.sequence)
        event = self._random.choice(draft.made)
        return self.events((event.aggregate_id, event.sequence))

    def events(self, *keys: tuple[str, int]) -> Draft:
        """Events of these sequence numbers."""
        content, body = self._content()
        given = 10**9 if self._random.random() < 0.1 else None
        return Draft(content, tuple(ms.Event(*key, "made", body, given) for key in keys))

    def snapshot(self, aggregate_id: str, sequence: int) -> Draft:
        """A snapshot of this sequence number."""
        content, body = self._content()
        return Draft(content, ms.Snapshot(aggregate_id, sequence, body))

    def _content(self) -> tuple[str, Any]:
        content = f"{self._name}-{next(self._numbers)}-{self._random.getrandbits(64):x};"
        return content, [content, bytes(_LARGE if self._random.random() < 0.03 else self._random.randrange(100))]
