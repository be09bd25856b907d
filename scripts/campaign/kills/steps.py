"""What a lone writer is to do to a journal: commits of every size, over many keys; snapshots; now and then a reset."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import maestro_shm as ms
from campaign.kills.audit import Frame, Outcome, Sent, entry_of_event, entry_of_snapshot
from maestro_shm import validation
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.rows import Row

CAP: Final = 1 << 20
_LARGE: Final = (300_000, 900_000)
"""Bytes of a large commit: some of these fill a segment of the log, and a kill has time to tear them."""
_HOT_KEYS: Final = 40
_KEYS: Final = 12_000
_PARTS: Final = 16
"""Sequences that belong to one step: they rise from step to step, whichever of them become commits."""


class Step(NamedTuple):
    """One call of the journal. The sender's copy of what it sends has no positions yet; a reset sends nothing."""

    commit_id: bytes
    rows: list[Row]
    snapshot: ms.Snapshot | None
    entries: Frame

    @property
    def is_reset(self) -> bool:
        return not self.entries

    def do(self, journal: Journal, *, resent: bool) -> Any:
        """What the journal says; None where it refused."""
        try:
            if self.snapshot is not None:
                packed = validation.pack_snapshot(self.snapshot, CAP)
                return journal.commit_snapshot(
                    self.commit_id, self.snapshot.aggregate_id, self.snapshot.sequence, packed, resent
                )
            return journal.commit_events(self.commit_id, self.rows, resent) if self.rows else journal.reset()
        except ms.SequenceConflictError:
            return None

    def as_open(self) -> Sent:
        """How it is written down as long as nothing is known of what became of it."""
        return Sent(Outcome.OPEN, self.entries)

    def as_told(self, said: Any) -> Sent:
        """How it is written down when the journal has said this."""
        if said is None or said is False:
            return Sent(Outcome.REFUSED, self.entries)
        if said is True:
            return Sent(Outcome.ACKNOWLEDGED, self.entries)
        first, timestamps = said
        told = (
            entry._replace(position=position, timestamp=timestamp)
            for entry, position, timestamp in zip(self.entries, itertools.count(first), timestamps, strict=False)
        )
        return Sent(Outcome.ACKNOWLEDGED, tuple(told))


def steps(choices: random.Random, *, resets: bool) -> Iterator[Step]:
    """Steps without end."""
    for number in itertools.count(1):
        kind = choices.random()
        if resets and kind < 0.005:
            yield Step(b"", [], None, ())
        elif kind < 0.08:
            yield _snapshot(choices, number)
        else:
            yield _commit(choices, number, stale=kind > 0.98)


def large_steps() -> Iterator[Step]:
    """Steps without end that fill the log, on a stream of their own."""
    for number in itertools.count(1):
        events = [ms.Event("filled", number, "did", ["large", number, bytes(_LARGE[1])])]
        yield Step(os.urandom(16), validation.pack_events(events, CAP), None, tuple(map(entry_of_event, events)))


def _commit(choices: random.Random, number: int, *, stale: bool) -> Step:
    first = 0 if stale else number * _PARTS
    count = choices.choice((1, 1, 1, 2, 2, 3, 5, 9))
    events = [ms.Event(_key(choices), first + part, "did", _body(choices, number, part)) for part in range(count)]
    rows = validation.pack_events(events, CAP)
    return Step(os.urandom(16), rows, None, tuple(map(entry_of_event, events)))


def _snapshot(choices: random.Random, number: int) -> Step:
    stale = choices.random() < 0.1
    snapshot = ms.Snapshot(_key(choices), 0 if stale else number * _PARTS, _body(choices, number, 0))
    return Step(os.urandom(16), [], snapshot, (entry_of_snapshot(snapshot),))


def _key(choices: random.Random) -> str:
    if choices.random() < 0.3:
        return f"hot-{choices.randrange(_HOT_KEYS)}"
    number = choices.randrange(_KEYS)
    return f"key-{number}" + "-long" * (number % 200 == 0) * 300


def _body(choices: random.Random, number: int, part: int) -> list[Any]:
    """Unique by its numbers; mostly small."""
    size = choices.randrange(*_LARGE) if part == 0 and choices.random() < 0.04 else choices.randrange(80)
    return [number, part, bytes(size)]
