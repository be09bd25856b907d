"""Whether one store holds what a cut of another one does, to the last byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Final

from maestro_shm import copy_mark
from maestro_shm.ahead import ahead
from maestro_shm.cut import Cut, StoredEvent, StoredSnapshot
from maestro_shm.errors import shown
from maestro_shm.side_by_side import side_by_side
from maestro_shm.transfer import Tell

_SAMPLES: Final = 8
_FIELDS: Final = ("aggregate", "sequence", "timestamp", "payload")


@dataclass
class Totals:
    """What was compared."""

    events: int = 0
    position: int = 0
    snapshots: int = 0
    entries: int = 0
    tables: int = 0


class Verification:
    """Of two cuts. What each has behind a position, or its own mark of a copy, does not count."""

    def __init__(self, source: Cut, target: Cut, tell: Tell) -> None:
        self.totals = Totals()
        self._source = source
        self._target = target
        self._tell = tell

    def first_difference(self) -> str | None:
        """The first thing that is not the same in both; None if there is none. The totals hold then."""
        return next(chain(self._event_differences(), self._snapshot_differences(), self._table_differences()), None)

    def first_in_prefix(self) -> str | None:
        """The first event of the target that is not the source's, as far as some samples tell."""
        last = self._target.last_position
        if last > self._source.last_position:
            return f"it has events up to position {last:,}, and the source up to {self._source.last_position:,} only"
        if all(self._is_same_behind(after) for after in _samples(last)):
            return None
        return next(self._event_differences(), None)

    def _is_same_behind(self, after: int) -> bool:
        ours, theirs = (next(cut.stored_events(after), []) for cut in (self._source, self._target))
        return all(one[:5] == other[:5] for one, other in zip(ours, theirs, strict=False))

    def _event_differences(self) -> Iterator[str]:
        source, target = (chain.from_iterable(ahead(cut.stored_events(0))) for cut in (self._source, self._target))
        of = min(self._source.last_position, self._target.last_position)
        before: tuple[int, int] | None = None
        for position, (one, other) in enumerate(zip(source, target, strict=False), 1):
            if one[:5] != other[:5]:
                yield f"position {position:,}: {_different_fields(one, other)}"
            if before is not None and (one.commit == before[0]) != (other.commit == before[1]):
                yield f"position {position:,}: a commit begins in only one of both"
            before = one.commit, other.commit
            if position % 10_000 == 0:
                self._tell("verified events", position, of)
        if self._source.last_position != self._target.last_position:
            yield f"it ends at position {self._target.last_position:,} and not at {self._source.last_position:,}"
        self.totals.events = self.totals.position = of

    def _snapshot_differences(self) -> Iterator[str]:
        left = {snapshot.aggregate_id: _digest(snapshot) for snapshot in self._target.stored_snapshots()}
        for number, snapshot in enumerate(self._source.stored_snapshots(), 1):
            if left.pop(snapshot.aggregate_id, None) != _digest(snapshot):
                yield f"the snapshot of {shown(snapshot.aggregate_id)}, at sequence {snapshot.sequence:,} in the source"
            self.totals.snapshots = number
        yield from (f"it has a snapshot of {shown(name)}, and the source has none" for name in left)

    def _table_differences(self) -> Iterator[str]:
        names = {name for cut in (self._source, self._target) for name in copy_mark.names_of_tables(cut)}
        for table in sorted(names):
            entries = 0
            for key, ours, theirs in side_by_side(self._source.pairs(table), self._target.pairs(table)):
                if ours != theirs:
                    yield f"table {shown(table)}, key {shown(key)}: {_whose(ours, theirs)}"
                entries += 1
            self.totals.entries += entries
            self.totals.tables += entries > 0


def is_empty(cut: Cut) -> bool:
    """Whether there is nothing that would be lost."""
    has_entries = any(cut.keys(name).keys for name in cut.table_names())
    return not cut.last_position and not has_entries and next(cut.stored_snapshots(), None) is None


def _samples(last: int) -> Iterable[int]:
    """Behind which positions to look: the first, the last, and some in between."""
    return sorted({last * number // (_SAMPLES - 1) for number in range(_SAMPLES - 1)} | {max(0, last - 1)})


def _digest(snapshot: StoredSnapshot) -> tuple[int, bytes]:
    return snapshot.sequence, blake2b(snapshot.payload, digest_size=16).digest()


def _different_fields(one: StoredEvent, other: StoredEvent) -> str:
    named = zip(_FIELDS, one, other, strict=False)
    return ", ".join(
        f"another {name}" if name == "payload" else f"{name} {shown(theirs)} and not {shown(ours)}"
        for name, ours, theirs in named
        if ours != theirs
    )


def _whose(ours: bytes | None, theirs: bytes | None) -> str:
    if ours is None:
        return "the source has none"
    return "it is missing" if theirs is None else "another value"
