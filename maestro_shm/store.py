"""The contract that every store keeps, and nothing of how one keeps it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from maestro_shm.consumer import Consumer
from maestro_shm.projection import Projection
from maestro_shm.projector import Projector
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot
from maestro_shm.retries import DEFAULT_SECONDS, Attempts
from maestro_shm.subscription import Subscription
from maestro_shm.tables import Table

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


class Store(ABC):
    """Streams of events and one snapshot per aggregate, shared by everyone who connects to the same target.

    What is committed is seen whole or not at all, across aggregates too. Every method raises `StoreClosedError` after
    `close`, and `StoreUnavailableError` when the store cannot be reached.
    """

    target: str
    """What the store is called: what `connect` was given, or the directory of a private store."""

    retry_timeout: float = DEFAULT_SECONDS
    """For how many seconds transactions and `commit_all` go on trying while they meet conflicts."""

    @abstractmethod
    def commit_events(self, events: Iterable[Event]) -> list[Event]:
        """Store all of the events or none, and return them as stored, with timestamp and position.

        Raises `InvalidEventError` for what breaks a rule of the data, and `SequenceConflictError` if the sequence
        number of any event is not above the last one stored for its aggregate: catch up and try again. No events at
        all are no error.

        A call that ends without an outcome (a signal's handler raised, a deadline passed) may have stored them. A store
        with a server answers the very same call, made again in the same process, with what became of the first.
        """

    @abstractmethod
    def submit(self, events: Iterable[Event]) -> Future[list[Event]]:
        """The same without waiting: a future of what `commit_events` would return, or raise.

        What breaks a rule of the data is refused at once. What one handle submits is committed in that order, each
        commit by itself: one that is refused holds nothing up. (A commit that is waited for, or a reset, overtakes
        them.) Commits that wait together go to the server together. A program that ends, and `close`, wait until all
        are done; one that is killed loses those that were not. What fails is told by the future only. Its callbacks
        run in another thread. Who submits more than the store takes waits, once 64 MiB are on their way.
        """

    @abstractmethod
    def commit_all(self, events: Iterable[Event], projections: Iterable[Projection] = ()) -> list[Event]:
        """The same with what the projections make of the events in their tables, in one commit: all or nothing.

        What a projection raises comes through, and nothing is committed. Where only entries of tables were changed by
        others meanwhile, the projections run again. Raises as `commit_events` does, and `RetriesExhaustedError`.
        """

    @overload
    def transact(self) -> Callable[[Callable[Concatenate[Any, _Params], _Result]], Callable[_Params, _Result]]: ...

    @overload
    def transact(
        self,
        function: Callable[Concatenate[Any, _Params], _Result],
        *arguments: _Params.args,
        **named: _Params.kwargs,
    ) -> _Result: ...

    @abstractmethod
    def transact(self, function: Callable[..., Any] | None = None, *arguments: Any, **named: Any) -> Any:
        """Call `function(tx, *arguments, **named)`, commit at once what it does with `tx`, and return its result.

        `tx` is a `Transaction`: it has roots, by `tx.root(Account, "alice")`, and tables, by `tx.table("names")`, which
        are all read at one consistent cut of the store. If somebody has changed meanwhile what was read, the function
        runs again: it must have no other effects. Nothing is committed when it raises; that comes through. Without a
        function it is a decorator, `@store.transact()`, of functions that run so whenever they are called.

        Raises `RetriesExhaustedError` if it meets conflicts for `retry_timeout` seconds, and `TransactionError` for a
        transaction within another, a commit past it to the same store, and the use of its roots after its end. One that
        ends with `StoreUnavailableError`, or is interrupted at its end, may have been committed.
        """

    @abstractmethod
    def table(self, name: str) -> Table:
        """A table to be read, empty as long as nobody has put anything there. It is changed by commits only.

        Raises `InvalidEntryError` for what cannot be the name of one.
        """

    @abstractmethod
    def commit_snapshot(self, snapshot: Snapshot) -> bool:
        """Store the snapshot iff its sequence number is strictly above that of the stored one; say whether it was.

        So several processes may write their snapshots without agreement, and the newest stays. Raises
        `InvalidEventError` for what breaks a rule of the data. What a call does that is made again is said in
        `commit_events`.
        """

    @abstractmethod
    def get_events(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE, complete: bool = False
    ) -> list[Event]:
        """The aggregate's events between the bounds, both included, in sequence order.

        `max_sequence` serves to recreate a past state. An aggregate that nobody wrote to has no events. What was
        truncated is not among them; who needs all there have been between the bounds asks for it to be `complete`, and
        gets a `TruncatedError` where some may be missing.
        """

    @abstractmethod
    def get_snapshot(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE
    ) -> Snapshot | None:
        """The aggregate's stored snapshot, if there is one and it lies between the bounds, both included."""

    @abstractmethod
    def last_sequence(self, aggregate_id: str) -> int | None:
        """The sequence number of the aggregate's newest event, or None: the cheapest freshness check."""

    @abstractmethod
    def truncate(self, aggregate_id: str, *, before: int) -> None:
        """Forget the aggregate's events with a sequence number below `before`, for ever.

        Its snapshot has to cover them: `TruncationError` if it is older than the newest of them, and nothing changes.
        Where there is nothing to forget nothing happens. `last_sequence` stays what it is, though all were forgotten.

        They are in no stream and no feed any more, nor in the past; the others keep their positions, so the feed has
        gaps there. What reads at a cut that was taken before, as a transaction, may find them or not. The aggregate
        can be recreated as of what is left only: a root that would need what is gone raises `TruncatedError`.

        Raises `InvalidEventError` for arguments that cannot be any, and `TransactionError` within a transaction. Who
        calls it again does no harm.
        """

    @abstractmethod
    def compact(self) -> None:
        """Give back the space of what nobody can read any more; takes its time, and others work on meanwhile.

        A shared store copies what is live into other files: without truncated events, and snapshots and entries of
        tables that newer ones have replaced. What the newest commits brought stays all the same. It needs the room for
        what is live, and does so by itself where more than half of a large log is dead. Afterwards `at` has no tables
        of the time before: that is an error. Nothing else changes, for nobody: roots, transactions and subscriptions
        go on. Raises `StoreFullError`, and `StoreUnavailableError` if it is compacted already, or reset meanwhile; the
        store is as it was then.

        A store in memory, or in a database, has nothing to do: the rows of truncated events are removed when they are
        truncated, and the database's own vacuum uses their space again.
        """

    @abstractmethod
    def first_sequence(self, aggregate_id: str) -> int:
        """The aggregate's events with sequence numbers below this one were truncated; 0 where none were."""

    @property
    @abstractmethod
    def last_position(self) -> int:
        """The position of the newest event, 0 where there is none. It never lags behind a commit that was told of."""

    @abstractmethod
    def read(
        self,
        after: int = 0,
        *,
        limit: int | None = None,
        types: Collection[str] | None = None,
        aggregate_prefix: str | None = None,
    ) -> Iterator[Event]:
        """The feed: every event behind a position, of all aggregates, in the order in which they were committed.

        It ends at what was the last position when it was called, and leaves nothing out; positions have no gap but
        where events were truncated. Of these events only those are given whose type is among `types` and whose
        aggregate's id begins with `aggregate_prefix`, and at most `limit` of them. It is read on demand, so a large
        store needs no large memory.

        Raises `InvalidEventError` for arguments that cannot be any, and, on the way, `StoreUnavailableError` if the
        store is reset meanwhile.
        """

    @abstractmethod
    def wait(self, position: int, timeout: float | None = None) -> bool:
        """Wait until the store has an event at this position; False when it has none within so many seconds.

        Whoever has committed tells others the position, and they read what was written: at once, wherever they are.
        Raises `StoreUnavailableError` if the store is reset meanwhile, and `InvalidEventError` for no position.
        """

    @abstractmethod
    def subscribe(
        self, after: int = 0, *, types: Collection[str] | None = None, aggregate_prefix: str | None = None
    ) -> Subscription:
        """The feed behind a position, which does not end: it waits for further events, and gets them at once.

        To be used by `for`, and `with`; it ends when somebody closes it. No event is left out or given twice, also
        where the server ends and another one takes over. Raises as `read` does.
        """

    @abstractmethod
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
        """A consumer of a durable subscription, whose events are shared out among all its consumers.

        With a number of partitions it is made, if there is none of this name yet: it begins behind the position
        `after`, and so many consumers at most share it. What it was made with is fixed. Without one it must be there.
        The events of an aggregate are consumed in order, one after the other; each event once if all goes well, and
        again where it was not acknowledged. How it is used says `Consumer`.

        Raises `SubscriptionError` if there is none, or it was made with something else; `ValueError` and
        `InvalidEventError` for arguments that cannot be any.
        """

    @abstractmethod
    def projector(
        self,
        name: str,
        projection: Projection | None = None,
        *,
        after: int = 0,
        types: Collection[str] | None = None,
        aggregate_prefix: str | None = None,
    ) -> Projector:
        """An eventual projection of this name: who runs it, waits for it, or reads its tables.

        It has the events behind `after`, of these types and aggregates, each exactly once; where it had those of others
        until now, whoever runs it gets a `ProjectionError`, but for `rebuild`. Who only waits or reads need not say
        what is projected.
        """

    @abstractmethod
    def at(self, *, position: int | None = None, time: datetime | int | None = None) -> Store:
        """The store as it was after a commit, to be read only: its aggregates, roots, tables, snapshots and feed.

        By `position`: after the commit with the event at this position; a position above the last one gives the newest
        event's. By `time`, an aware `datetime` or a timestamp as events have it: after the last commit before the first
        one that has an event of a later time. 0, or a time before all events, gives an empty store. What changed tables
        or snapshots only belongs to the commit of the event before it, and is not seen there.

        It stays as it is, and is over with the store; it pickles as that and its position. Raises `InvalidEventError`,
        and `ReadOnlyError` for whatever is no read; where a compaction came since, `StoreUnavailableError` for tables.
        """

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Figures of the store: at least `events`, `aggregates` (with events), `last_position` and `bytes`."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything, as between two tests.

        Raises `StoreUnavailableError` unless the store is private, in memory, or connected with `allow_reset=True`.
        Raises `StoreFullError`, and forgets nothing, where there is no room for a new, empty store beside the old one;
        `destroy` needs none.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the store; closing twice is no error."""

    def _attempts(self, timeout: float, stream: str | None = None) -> Attempts:  # noqa: ARG002 (for who has turns)
        """Those of something that may meet conflicts, on this stream if it is known; to be used by `with`."""
        return Attempts(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.target!r}>"
