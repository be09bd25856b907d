"""From the cut of one store into another one: what is there already stays, what is missing is committed.

Payloads go as they are stored, so that nothing is unpacked on the way. Everything is idempotent: who was interrupted
begins again, and finds what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby
from operator import attrgetter
from typing import Final, TypeVar

from maestro_shm import copy_mark
from maestro_shm.ahead import ahead
from maestro_shm.backend import Backend
from maestro_shm.cut import NEVER, Cut, StoredEvent, StoredSnapshot
from maestro_shm.errors import ConflictError, InvalidEventError, StoreUnavailableError, shown
from maestro_shm.proposal import Change, Proposal
from maestro_shm.side_by_side import side_by_side
from maestro_shm.validation import PackedEvent, entry_size, record_size

Tell = Callable[[str, int, int | None], None]
"""Is told what is going on, how many are done, and how many there are where that is known."""

_MOST_EVENTS: Final = 4_000
_MOST_OTHERS: Final = 500
"""How many events, snapshots and entries go together."""
_MOST_BYTES: Final = 4 << 20
_MOST_ENTRY_BYTES: Final = 1 << 19
"""Of the entries of a table in one commit. In a shared store the keys that come count once more."""

_Commit = tuple[list[PackedEvent], int, int]
"""Its events, the position of the last one, and its size."""
_Change = tuple[str, bytes | None]
"""A key and what it gets, None where it is deleted."""
_Part = TypeVar("_Part")


class Transfer:
    """From a cut of the source to a target that nobody else writes to.

    Raises `StoreUnavailableError` if somebody does, and where something is larger than a commit to the target may be.
    """

    def __init__(self, source: Cut, target: Backend, tell: Tell) -> None:
        self._source = source
        self._target = target
        self._tell = tell

    def run(self) -> None:
        """Bring over what the target has not: events first, then snapshots and tables."""
        try:
            self._bring_events()
            self._bring_snapshots()
            self._bring_tables()
        except ConflictError as error:
            raise StoreUnavailableError(self._target.target, f"somebody else writes to it: {error}") from None

    def _bring_events(self) -> None:
        last = self._source.last_position
        done = self._target.last_position
        self._tell("events", done, last)
        commits = map(self._checked, _commits(self._source.stored_events(done)))
        for batch in ahead(_batches(commits, lambda commit: (len(commit[0]), commit[2]), _MOST_EVENTS, _MOST_BYTES)):
            self._target._commit_copies(done + 1, [events for events, _, _ in batch])
            done = batch[-1][1]
            self._tell("events", done, last)

    def _checked(self, commit: _Commit) -> _Commit:
        events, position, size = commit
        first = position - len(events) + 1
        self._check_size(f"the commit at position {first:,}, with {len(events):,} events,", size)
        return commit

    def _bring_snapshots(self) -> None:
        known = {snapshot.aggregate_id: snapshot.sequence for snapshot in self._target._cut().stored_snapshots()}
        missing = (
            snapshot
            for snapshot in self._source.stored_snapshots()
            if known.get(snapshot.aggregate_id, NEVER) < snapshot.sequence
        )
        done = 0
        for batch in _batches(missing, lambda one: (1, self._snapshot_size(one)), _MOST_OTHERS, _MOST_BYTES):
            self._target._commit_snapshot_copies(batch)
            done += len(batch)
            self._tell("snapshots", done, None)

    def _snapshot_size(self, snapshot: StoredSnapshot) -> int:
        size = record_size(snapshot.aggregate_id, snapshot.payload)
        self._check_size(f"the snapshot of {shown(snapshot.aggregate_id)}", size)
        return size

    def _bring_tables(self) -> None:
        most_bytes = min(_MOST_ENTRY_BYTES, self._target._max_commit_bytes // 2)
        cut = self._target._cut()
        there = copy_mark.names_of_tables(cut)
        done = 0
        for table in sorted({*copy_mark.names_of_tables(self._source), *there}):
            pairs = side_by_side(self._source.pairs(table), cut.pairs(table))
            changes = ((key, wanted) for key, wanted, found in pairs if wanted != found)

            def measure(change: _Change, table: str = table) -> tuple[int, int]:
                return 1, self._entry_size(table, *change)

            for batch in _batches(changes, measure, _MOST_OTHERS, most_bytes):
                known = cut.versions(table, [key for key, _ in batch]) if table in there else [NEVER] * len(batch)
                self._change(table, batch, known)
                done += len(batch)
                self._tell("entries", done, None)

    def _entry_size(self, table: str, key: str, payload: bytes | None) -> int:
        size = entry_size(table, key, payload)
        self._check_size(f"the entry {shown(key)} of table {shown(table)}", size)
        return size

    def _change(self, table: str, batch: list[_Change], known: list[int]) -> None:
        proposal = Proposal()
        for (key, payload), version in zip(batch, known, strict=True):
            proposal.entries[table, key] = version
            proposal.changes[table, key] = Change(version + 1, payload)
        try:
            self._target._commit(proposal)
        except InvalidEventError:
            if len(batch) == 1:
                reason = f"the entry {shown(batch[0][0])} of table {shown(table)} with its key comes to more than"
                raise self._too_large(reason) from None
            half = len(batch) // 2
            self._change(table, batch[:half], known[:half])
            self._change(table, batch[half:], known[half:])

    def _check_size(self, what: str, size: int) -> None:
        if size > self._target._max_commit_bytes:
            raise self._too_large(f"{what} has {size:,} bytes, over")

    def _too_large(self, what: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            self._target.target,
            f"{what} the {self._target._max_commit_bytes:,} that its commits may have; "
            "destroy it, and copy with a larger --max-commit-bytes",
        )


def _commits(found: Iterable[list[StoredEvent]]) -> Iterator[_Commit]:
    for _, committed in groupby(chain.from_iterable(found), attrgetter("commit")):
        events = list(committed)
        size = sum(record_size(event.aggregate_id, event.payload) for event in events)
        yield [event[:4] for event in events], events[-1].position, size


def _batches(
    parts: Iterable[_Part], measure: Callable[[_Part], tuple[int, int]], most: int, most_bytes: int
) -> Iterator[list[_Part]]:
    """What goes together: at least one, and as many as come to no more than so many and so many bytes."""
    batch: list[_Part] = []
    count = size = 0
    for part in parts:
        more, larger = measure(part)
        if batch and (count + more > most or size + larger > most_bytes):
            yield batch
            batch, count, size = [], 0, 0
        batch.append(part)
        count, size = count + more, size + larger
    if batch:
        yield batch
