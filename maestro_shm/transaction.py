"""Transactions: several aggregates and tables, decided by one consistent cut and committed at once.

The function of a transaction may run several times: after a conflict it is run again, on a newer cut. It commits
nothing itself: its roots and tables only collect. While it runs, its thread may not commit to the same store past it,
since that would be done anew with each run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, NoReturn, Protocol, TypeVar

from maestro_shm import validation
from maestro_shm.errors import TransactionError
from maestro_shm.projection import Projection
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot, in_range
from maestro_shm.store import Store
from maestro_shm.tables import Tables, WritableTable
from maestro_shm.workspace import Workspace


class _Forgetful(Protocol):
    """A root, as far as its transaction has to do with it."""

    def _forget(self) -> None:
        """Have no state any more."""


_Root = TypeVar("_Root", bound=_Forgetful)


class Transaction:
    """What the function of a transaction works with. It ends with the function."""

    def __init__(self, store: Store, workspace: Workspace) -> None:
        self.store: Final = store
        self.workspace: Final = workspace
        self._bound = _BoundStore(store.target, workspace)
        self._roots: dict[tuple[Any, str], Any] = {}

    def root(self, kind: Callable[[Store, str], _Root], aggregate_id: str) -> _Root:
        """The root of an aggregate as it is at the transaction's cut, the same whenever it is asked for.

        What it evaluates is committed with the transaction; until then its events have no position.
        """
        if (kind, aggregate_id) not in self._roots:
            self._roots[kind, aggregate_id] = kind(self._bound, aggregate_id)
        root: _Root = self._roots[kind, aggregate_id]
        return root

    def table(self, name: str) -> WritableTable:
        """A table, to be read at the transaction's cut and changed with its commit."""
        return WritableTable(name, self.workspace)

    def end(self) -> None:
        """Let nobody use it, its roots or its tables any more."""
        self.workspace.end()
        for root in self._roots.values():
            root._forget()


class _BoundStore(Store):
    """What the roots of a transaction take for their store."""

    def __init__(self, target: str, workspace: Workspace) -> None:
        self.target = target
        self._workspace = workspace

    def commit_events(self, events: Iterable[Event]) -> list[Event]:
        return self._workspace.add_events(events)

    def submit(self, events: Iterable[Event]) -> Future[list[Event]]:  # noqa: ARG002 (of the contract)
        raise TransactionError("a transaction commits at its end: let its roots evaluate commands")

    def commit_all(self, events: Iterable[Event], projections: Iterable[Projection] = ()) -> list[Event]:
        added = self._workspace.add_events(events)
        project(added, projections, Tables(self._workspace))
        return added

    def commit_snapshot(self, snapshot: Snapshot) -> bool:
        return self._workspace.add_snapshot(snapshot)

    def get_events(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE, complete: bool = False
    ) -> list[Event]:
        validation.check_aggregate_id(aggregate_id)
        validation.check_bounds(min_sequence, max_sequence)
        return self._workspace.get_events(aggregate_id, min_sequence, max_sequence, complete=complete)

    def get_snapshot(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE
    ) -> Snapshot | None:
        validation.check_aggregate_id(aggregate_id)
        validation.check_bounds(min_sequence, max_sequence)
        snapshot = self._workspace.get_snapshot(aggregate_id)
        return snapshot if snapshot and in_range(snapshot, min_sequence, max_sequence) else None

    def last_sequence(self, aggregate_id: str) -> int | None:
        validation.check_aggregate_id(aggregate_id)
        return self._workspace.last_sequence(aggregate_id)

    def first_sequence(self, aggregate_id: str) -> int:
        validation.check_aggregate_id(aggregate_id)
        return self._workspace.first_sequence(aggregate_id)

    def truncate(self, *_: object, **__: object) -> NoReturn:
        raise TransactionError("a transaction cannot truncate anything, since it may run again; truncate after it")

    def compact(self) -> NoReturn:
        raise TransactionError("a transaction cannot compact its store")

    def table(self, name: str) -> WritableTable:
        return WritableTable(name, self._workspace)

    def transact(self, *_: object, **__: object) -> NoReturn:
        raise TransactionError("a transaction cannot begin within another; call its function with the same transaction")

    @property
    def last_position(self) -> int:
        raise TransactionError("the events of a transaction have no position yet; ask its store")

    def read(self, *_: object, **__: object) -> NoReturn:
        raise TransactionError("a transaction cannot read the feed, since every commit would conflict; ask its store")

    def wait(self, *_: object, **__: object) -> NoReturn:
        raise TransactionError("a transaction reads one state, so nothing new comes; wait before it, at its store")

    def subscribe(self, *_: object, **__: object) -> NoReturn:
        raise TransactionError("a transaction reads one state, so nothing new comes; subscribe to its store")

    def subscription(self, *_: object, **__: object) -> NoReturn:
        raise TransactionError("a transaction reads one state, so nothing new comes; subscribe to its store")

    def projector(self, *_: object, **__: object) -> NoReturn:
        raise TransactionError("a transaction reads one state, so nothing new comes; ask its store for a projector")

    def at(self, **_: object) -> NoReturn:
        raise TransactionError("a transaction reads one state, the newest; for another one ask its store")

    def stats(self) -> dict[str, Any]:
        raise TransactionError("a transaction has no figures of its own; ask its store")

    def reset(self) -> None:
        raise TransactionError("a transaction cannot reset its store")

    def close(self) -> None:
        raise TransactionError("a transaction's store is closed by whoever opened it")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a root of a transaction belongs to it and cannot be pickled; make one with the store")


_running: ContextVar[Mapping[int, str]] = ContextVar("_running", default=MappingProxyType({}))
"""The stores, by identity, that a transaction of this thread or task works on, with the names of the functions."""
all_running: Final[Callable[[], Mapping[int, str]]] = _running.get
"""The names of the transactions that the caller is in, by the `id` of their stores."""


@contextlib.contextmanager
def running(transaction: Transaction, name: str) -> Iterator[None]:
    """While its function runs; afterwards it has ended."""
    token = _running.set({**all_running(), id(transaction.store): name})
    try:
        yield
    finally:
        _running.reset(token)
        transaction.end()


def refuse_within(store: Store, what: str) -> None:
    """Raise `TransactionError` if the caller is the function of a transaction on this store."""
    name = all_running().get(id(store))
    if name is not None:
        raise TransactionError(
            f"{what} within the transaction {name!r}, which may run several times; use its own roots and tables, "
            "from tx.root(…) and tx.table(…)"
        )


def project(events: Iterable[Event], projections: Iterable[Projection], tables: Tables) -> None:
    """Show each event to each projection."""
    projections = list(projections)
    for event in events:
        for projection in projections:
            projection.project(event, tables)
