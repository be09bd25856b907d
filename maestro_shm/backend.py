"""What all stores do alike, over what each kind does for itself: to take a cut, and to commit a proposal."""

from __future__ import annotations

import functools
import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from maestro_shm import options, validation
from maestro_shm import transaction as transactions
from maestro_shm.arrival import check_position, has_arrived
from maestro_shm.consumer import Consumer
from maestro_shm.cut import Cut, StoredSnapshot
from maestro_shm.cut_reads import CutReads
from maestro_shm.durable_subscription import DurableSubscription
from maestro_shm.errors import (
    ConflictError,
    RetriesExhaustedError,
    SequenceConflictError,
    StaleReadError,
    StoreError,
    StoreUnavailableError,
    TransactionError,
    TruncatedError,
    shown,
)
from maestro_shm.leases import Leases
from maestro_shm.past import Past
from maestro_shm.progress import checked
from maestro_shm.projection import Projection
from maestro_shm.projector import Projector
from maestro_shm.proposal import Proposal
from maestro_shm.records import Event, Snapshot
from maestro_shm.retries import Attempts
from maestro_shm.selection import selection
from maestro_shm.store import Store
from maestro_shm.submissions import Outcome, Submissions
from maestro_shm.subscription import Subscription
from maestro_shm.tables import Tables
from maestro_shm.transaction import Transaction
from maestro_shm.validation import PackedEvent
from maestro_shm.vigil import Vigil
from maestro_shm.workspace import Workspace

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


class Backend(CutReads):
    """A store that can take a cut and commit a proposal."""

    _max_commit_bytes: int
    _submissions: Submissions | None = None

    @abstractmethod
    def _wait(self, incarnation: int, position: int, deadline: float, vigil: Vigil) -> None:
        """Return when there may be an event at this position, or another incarnation, or the vigil is over."""

    @abstractmethod
    def _wait_for_commit(self, incarnation: int, mark: int, deadline: float, vigil: Vigil) -> None:
        """Return when there may be a commit behind this mark of a cut, or another incarnation, or the vigil is over."""

    @abstractmethod
    def _leases(self, name: str) -> Leases:
        """The leases of one name, for one holder, who has to close them."""

    @abstractmethod
    def _commit(self, proposal: Proposal) -> Callable[[], list[Event]]:
        """Store all of it, and return what makes its events as stored. Raises `ConflictError` if a read is stale."""

    @abstractmethod
    def _commit_events(self, events: list[PackedEvent]) -> list[Event]:
        """Store valid events, one at least; see `Store.commit_events`."""

    @abstractmethod
    def _commit_snapshot(self, aggregate_id: str, sequence: int, payload: bytes) -> bool:
        """Store a packed snapshot that was checked; see `Store.commit_snapshot`."""

    def commit_events(self, events: Iterable[Event]) -> list[Event]:
        self._check_open()
        transactions.refuse_within(self, "a commit")
        packed = validation.pack_events(events, self._max_commit_bytes)
        return self._commit_events(packed) if packed else []

    def submit(self, events: Iterable[Event]) -> Future[list[Event]]:
        self._check_open()
        transactions.refuse_within(self, "a commit")
        packed = validation.pack_events(events, self._max_commit_bytes)
        if not packed:
            done: Future[list[Event]] = Future()
            done.set_result([])
            return done
        if self._submissions is None:
            self.__dict__.setdefault("_submissions", Submissions(self._max_commit_bytes))  # threads may race for it
        assert self._submissions is not None  # noqa: S101 (for the type checker)
        return self._submissions.submit(packed, self._commit_each)

    def commit_snapshot(self, snapshot: Snapshot) -> bool:
        self._check_open()
        transactions.refuse_within(self, "a snapshot")
        payload = validation.pack_snapshot(snapshot, self._max_commit_bytes)
        return self._commit_snapshot(snapshot.aggregate_id, snapshot.sequence, payload)

    @abstractmethod
    def _truncate(self, aggregate_id: str, before: int) -> None:
        """Do what `Store.truncate` says; the arguments are right."""

    def truncate(self, aggregate_id: str, *, before: int) -> None:
        self._check_open()
        transactions.refuse_within(self, "a truncation")
        validation.check_aggregate_id(aggregate_id)
        validation.check_before(before)
        self._truncate(aggregate_id, before)

    def compact(self) -> None:
        self._check_open()
        transactions.refuse_within(self, "a compaction")
        self._compact()

    def _compact(self) -> None:
        """Do what `Store.compact` says; for overriding, where there is anything to do."""

    @overload
    def transact(self) -> Callable[[Callable[Concatenate[Any, _Params], _Result]], Callable[_Params, _Result]]: ...

    @overload
    def transact(
        self,
        function: Callable[Concatenate[Any, _Params], _Result],
        *arguments: _Params.args,
        **named: _Params.kwargs,
    ) -> _Result: ...

    def transact(self, function: Callable[..., Any] | None = None, *arguments: Any, **named: Any) -> Any:
        if function is None:
            return self._decorator
        _check_function(function)
        name = getattr(function, "__qualname__", shown(function))
        transactions.refuse_within(self, "a transaction begins")
        with self._attempts(self.retry_timeout) as attempts:
            call = functools.partial(_call, function, arguments, named)
            while (outcome := self._attempt(attempts, name, call)) is None:
                pass
        result, snapshots = outcome
        self._store_snapshots(snapshots)
        return result

    def commit_all(self, events: Iterable[Event], projections: Iterable[Projection] = ()) -> list[Event]:
        transactions.refuse_within(self, "a commit")
        events, projections = list(events), list(projections)
        if not projections:
            return self.commit_events(events)
        attempts = Attempts(self.retry_timeout)
        while True:
            transaction = Transaction(self, Workspace(self._cut(), self._max_commit_bytes))
            with transactions.running(transaction, "commit_all"):
                added = transaction.workspace.add_events(events)
                transactions.project(added, projections, Tables(transaction.workspace))
            try:
                return self._commit(transaction.workspace.proposal)() if added else []
            except SequenceConflictError:
                raise
            except ConflictError:
                if not attempts.pause():
                    raise RetriesExhaustedError(None, "commit_all", attempts.count, attempts.seconds()) from None

    def wait(self, position: int, timeout: float | None = None) -> bool:
        transactions.refuse_within(self, "a wait")
        deadline = options.deadline(timeout)
        check_position(position)
        return has_arrived(self, position, deadline, Vigil())

    def subscribe(
        self, after: int = 0, *, types: Collection[str] | None = None, aggregate_prefix: str | None = None
    ) -> Subscription:
        transactions.refuse_within(self, "a subscription")
        return Subscription(self, selection(after, None, types, aggregate_prefix))

    def subscription(
        self,
        name: str,
        partitions: int | None = None,
        *,
        after: int = 0,
        types: Collection[str] | None = None,
        aggregate_prefix: str | None = None,
        most_attempts: int = 5,
    ) -> Consumer:
        transactions.refuse_within(self, "a subscription")
        wanted = None if partitions is None else checked(partitions, after, types, aggregate_prefix, most_attempts)
        consumer = DurableSubscription(self, name)
        consumer.begin(wanted)
        return consumer

    def projector(
        self,
        name: str,
        projection: Projection | None = None,
        *,
        after: int = 0,
        types: Collection[str] | None = None,
        aggregate_prefix: str | None = None,
    ) -> Projector:
        transactions.refuse_within(self, "a projector")
        return Projector(self, name, projection, selection(after, None, types, aggregate_prefix))

    def at(self, *, position: int | None = None, time: datetime | int | None = None) -> Store:
        return Past(self, *self._past_cut(position, time))

    def _decorator(self, function: Callable[Concatenate[Any, _Params], _Result]) -> Callable[_Params, _Result]:
        _check_function(function)

        @functools.wraps(function)
        def run(*arguments: _Params.args, **named: _Params.kwargs) -> _Result:
            return self.transact(function, *arguments, **named)

        return run

    def _commit_each(self, commits: Sequence[list[PackedEvent]]) -> Sequence[Outcome]:
        """What becomes of some commits that are carried out one after the other."""

        def outcome(events: list[PackedEvent]) -> Outcome:
            try:
                return self._commit_events(events)
            except StoreError as error:
                return error

        return [outcome(events) for events in commits]

    def _finish_submissions(self) -> None:
        """For who closes."""
        if self._submissions is not None:
            self._submissions.finish()

    def _attempt(
        self, attempts: Attempts, name: str, call: Callable[[Transaction], _Result]
    ) -> tuple[_Result, Iterable[Snapshot]] | None:
        """The result of a transaction that is committed, and the snapshots that came of it; None to try again."""
        cut = self._cut()
        transaction = Transaction(self, Workspace(cut, self._max_commit_bytes))
        try:
            with transactions.running(transaction, name):
                result = call(transaction)
        except TruncatedError as error:
            if not _is_older(cut, error) or not attempts.pause():
                raise
            return None
        try:
            if not transaction.workspace.proposal.is_empty:
                self._commit(transaction.workspace.proposal)
        except ConflictError as conflict:
            if not attempts.pause(_stream_of(conflict)):
                raise RetriesExhaustedError(None, name, attempts.count, attempts.seconds()) from None
            return None
        return result, transaction.workspace.snapshots.values()

    def _commit_copies(self, first_position: int, commits: Sequence[Sequence[PackedEvent]]) -> None:
        """Store commits of another store as they were there; the first event is to have this position.

        Each is whole or not there, whatever happens. Raises `StoreUnavailableError` if another event comes between,
        and `ConflictError`.
        """
        self._check_ends_at(first_position - 1)
        for events in commits:
            self._commit(Proposal(list(events)))
        self._check_ends_at(first_position - 1 + sum(map(len, commits)))

    def _commit_snapshot_copies(self, snapshots: Sequence[StoredSnapshot]) -> None:
        """Store those of another store that are newer than what is here."""
        for snapshot in snapshots:
            self._commit_snapshot(*snapshot)

    def _check_ends_at(self, position: int) -> None:
        if (last := self.last_position) != position:
            raise self._written_to(last, position)

    def _written_to(self, last: int, expected: int) -> StoreUnavailableError:
        reason = f"somebody else writes to it: its last position is {last:,} instead of {expected:,}"
        return StoreUnavailableError(self.target, reason)

    def _store_snapshots(self, snapshots: Iterable[Snapshot]) -> None:
        for snapshot in snapshots:
            try:
                self.commit_snapshot(snapshot)
            except Exception as error:  # noqa: BLE001 (the transaction has succeeded, whatever becomes of it)
                message = f"no snapshot of {snapshot.aggregate_id!r}, though its transaction is committed: {error!r}"
                warnings.warn(message, RuntimeWarning, stacklevel=3)


def _is_older(cut: Cut, error: TruncatedError) -> bool:
    """Whether a cut was taken before the snapshot was there that covers what was truncated since.

    A database does not keep what is truncated for the cuts that are held.
    """
    snapshot = cut.get_snapshot(error.aggregate_id)
    return snapshot is None or snapshot.sequence < error.first_sequence - 1


def _stream_of(conflict: ConflictError) -> str | None:
    """The stream that others have written to; None if it was a table."""
    return conflict.aggregate_id if isinstance(conflict, (SequenceConflictError, StaleReadError)) else None


def _call(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], transaction: Transaction
) -> Any:
    return function(transaction, *arguments, **named)


def _check_function(function: object) -> None:
    if not callable(function):
        raise TransactionError(f"a transaction needs a function, as in transact(function, …), not {shown(function)}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TransactionError(f"the function of a transaction must be a plain one, not {shown(function)}")
