"""The past of a store: what it was after some commit, to be read like the store itself."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Final

from maestro_shm.cut import Cut
from maestro_shm.cut_reads import CutReads
from maestro_shm.errors import ReadOnlyError
from maestro_shm.projection import Projection
from maestro_shm.records import Event, Snapshot
from maestro_shm.store import Store


class Past(CutReads):
    """What `Store.at` gives. It has nothing to close: it is over with its store."""

    def __init__(self, store: CutReads, position: int, cut: Cut | None = None) -> None:
        """Without a cut, as where it comes by pickle, it takes one when it is first read."""
        self.target = f"{store.target} at position {position:,}"
        self.position: Final = position
        """Of the last event in it."""
        self._store = store
        self._fixed = cut

    def at(self, *, position: int | None = None, time: datetime | int | None = None) -> Store:
        return Past(self._store, *self._past_cut(position, time))

    def commit_events(self, events: Iterable[Event]) -> list[Event]:  # noqa: ARG002 (of the contract)
        raise ReadOnlyError(self.target, "a commit")

    def submit(self, events: Iterable[Event]) -> Future[list[Event]]:  # noqa: ARG002
        raise ReadOnlyError(self.target, "a commit")

    def commit_all(self, events: Iterable[Event], projections: Iterable[Projection] = ()) -> list[Event]:  # noqa: ARG002
        raise ReadOnlyError(self.target, "a commit")

    def transact(self, *_: object, **__: object) -> Any:
        raise ReadOnlyError(self.target, "a transaction")

    def commit_snapshot(self, snapshot: Snapshot) -> bool:  # noqa: ARG002
        raise ReadOnlyError(self.target, "a snapshot")

    def truncate(self, aggregate_id: str, *, before: int) -> None:  # noqa: ARG002
        raise ReadOnlyError(self.target, "a truncation")

    def compact(self) -> None:
        raise ReadOnlyError(self.target, "a compaction")

    def reset(self) -> None:
        raise ReadOnlyError(self.target, "a reset")

    def stats(self) -> dict[str, Any]:
        raise ReadOnlyError(self.target, "figures")

    def wait(self, position: int, timeout: float | None = None) -> bool:  # noqa: ARG002
        raise ReadOnlyError(self.target, "a wait")

    def subscribe(self, *_: object, **__: object) -> Any:
        raise ReadOnlyError(self.target, "a subscription")

    def subscription(self, *_: object, **__: object) -> Any:
        raise ReadOnlyError(self.target, "a subscription")

    def projector(self, *_: object, **__: object) -> Any:
        raise ReadOnlyError(self.target, "a projector")

    def close(self) -> None:
        pass

    def __reduce__(self) -> tuple[Any, ...]:
        return Past, (self._store, self.position)

    def _cut(self) -> Cut:
        self._check_open()
        if self._fixed is None:
            _, self._fixed = self._store._past_cut(self.position, None)
        return self._fixed

    def _check_open(self) -> None:
        self._store._check_open()
