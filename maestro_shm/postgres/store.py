"""The handle of a store in a PostgreSQL database.

A handle pickles as its URL and connects once per process: whoever unpickles it there again gets the same one.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from maestro_shm import options
from maestro_shm.backend import Backend
from maestro_shm.cut import Cut, StoredSnapshot
from maestro_shm.errors import StoreClosedError, StoreUnavailableError, TruncationError
from maestro_shm.leases import Leases
from maestro_shm.open_calls import OpenCalls, carry_out
from maestro_shm.postgres import commits
from maestro_shm.postgres.advisory_leases import AdvisoryLeases
from maestro_shm.postgres.commits import (
    COMMIT,
    COMMIT_EVENTS,
    COPIES,
    RESET,
    SNAPSHOT,
    SNAPSHOT_COPIES,
    TRUNCATION,
)
from maestro_shm.postgres.connections import Connections, Row
from maestro_shm.postgres.listener import Head, Listener
from maestro_shm.postgres.sql_cut import HEAD, Known, SqlCut
from maestro_shm.proposal import Proposal, as_stored
from maestro_shm.records import Event
from maestro_shm.transaction import refuse_within
from maestro_shm.validation import PackedEvent
from maestro_shm.vigil import Vigil

_Made = TypeVar("_Made")
_Result = TypeVar("_Result")
_OPEN_OUTCOME: Final = (
    "; the commit that was under way may or may not have been stored; to learn it make the same call again"
)
_CHANNEL: Final = "SELECT channel FROM maestro_head"
_STATS: Final = """SELECT last_position - truncated, last_position, aggregates, (
    SELECT sum(pg_total_relation_size(relation)) FROM (
        SELECT relid FROM pg_partition_tree('maestro_events') UNION SELECT 'maestro_events'
        UNION SELECT name::regclass
        FROM unnest(ARRAY[
            'maestro_snapshots', 'maestro_entries', 'maestro_tables', 'maestro_floors', 'maestro_head'
        ]) name
    ) relations(relation)
)::bigint FROM maestro_head"""


class PostgresStore(Backend):
    """`connect("postgresql://…")`: see `Store`. Processes, threads and forks may share it."""

    def __init__(self, url: str, *, timeout: float, allow_reset: bool, max_commit_bytes: int) -> None:
        """A handle that connects when it is first used."""
        self._url = url
        self._max_commit_bytes = max_commit_bytes
        self._timeout = timeout
        self._allow_reset = allow_reset
        self._connections = Connections(url, timeout)
        self.target = self._connections.location
        self._known: Known = {}
        self._newest = SqlCut(self._connections, self._known)
        self._open_calls = OpenCalls()
        self._process = os.getpid()
        self._listeners: dict[int, Listener] = {}
        """By process."""
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str,
        *,
        timeout: float = options.DEFAULT_TIMEOUT,
        allow_reset: bool = False,
        max_commit_bytes: int = options.DEFAULT_COMMIT_BYTES,
    ) -> PostgresStore:
        """The store in a database that has its tables. The cap of a commit's size is this handle's."""
        store = cls(
            url,
            timeout=options.timeout(timeout),
            allow_reset=allow_reset,
            max_commit_bytes=options.commit_bytes(max_commit_bytes),
        )
        store._connections.check()
        _handles[store._key] = store
        return store

    def stats(self) -> dict[str, Any]:
        ((events, last_position, aggregates, size),) = self._connections.rows(_STATS)
        return {"events": events, "aggregates": aggregates, "last_position": last_position, "bytes": size}

    def reset(self) -> None:
        self._check_open()
        refuse_within(self, "a reset")
        if not self._allow_reset:
            raise StoreUnavailableError(self.target, "reset() forgets everything; connect with allow_reset=True for it")
        ((incarnation, _, _),) = self._connections.rows(HEAD)
        self._connections.rows(RESET, (incarnation,))

    def close(self) -> None:
        if not self._closed:
            self._finish_submissions()
        self._closed = True
        try:
            while self._listeners:
                self._listeners.popitem()[1].close()
        finally:
            self._connections.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return _handle, self._key

    def _at_newest(self, read: Callable[[Cut], _Result]) -> _Result:
        return read(self._newest)  # of one statement, which sees one state by itself

    def _cut(self) -> Cut:
        self._check_open()
        (head,) = self._connections.rows(HEAD)
        return SqlCut(self._connections, self._known, head)

    def _commit(self, proposal: Proposal) -> Callable[[], list[Event]]:
        self._check_open()
        proposal.check_size(self._max_commit_bytes)
        call = ("commit", tuple(proposal.events), *((*entry, *new) for entry, new in proposal.changes.items()))
        return self._store(COMMIT, proposal, commits.arguments(proposal), call, partial(partial, as_stored))

    def _commit_events(self, events: list[PackedEvent]) -> list[Event]:
        self._check_open()
        arguments = commits.event_arguments(events)
        return self._store(COMMIT_EVENTS, Proposal(events), arguments, ("commit_events", *events), as_stored)

    def _commit_snapshot(self, aggregate_id: str, sequence: int, payload: bytes) -> bool:
        arguments = commits.snapshot_arguments(aggregate_id, sequence, payload)
        return self._once(
            ("commit_snapshot", aggregate_id, sequence, payload), SNAPSHOT, arguments, lambda row: bool(row[0])
        )

    def _truncate(self, aggregate_id: str, before: int) -> None:
        def check(row: Row) -> None:
            newest, covered = row
            if newest is not None:
                raise TruncationError(aggregate_id, newest, covered)

        arguments = commits.truncation_arguments(aggregate_id, before)
        self._once(("truncate", aggregate_id, before), TRUNCATION, arguments, check)

    def _commit_copies(self, first_position: int, copied: Sequence[Sequence[PackedEvent]]) -> None:
        self._check_open()

        def check(row: Row) -> None:
            conflict, place, found = row
            if conflict == "position":
                raise self._written_to(found, first_position - 1)
            if conflict is not None:
                raise commits.conflict(Proposal([event for one in copied for event in one]), conflict, place, found)

        arguments = commits.copy_arguments(first_position, copied)
        self._once(("commit_copies", first_position, *map(tuple, copied)), COPIES, arguments, check)

    def _commit_snapshot_copies(self, snapshots: Sequence[StoredSnapshot]) -> None:
        self._check_open()
        arguments = commits.snapshot_copy_arguments(snapshots)
        self._once(("commit_snapshot_copies", *snapshots), SNAPSHOT_COPIES, arguments, lambda _: None)

    def _store(
        self,
        statement: str,
        proposal: Proposal,
        arguments: tuple[Any, ...],
        call: tuple[Any, ...],
        made: Callable[[Sequence[PackedEvent], int, list[int]], _Made],
    ) -> _Made:
        def outcome(row: Row) -> _Made:
            first_position, timestamps, conflict, place, found = row
            if conflict is not None:
                raise commits.conflict(proposal, conflict, place, found)
            return made(proposal.events, first_position, timestamps)

        return self._once(call, statement, arguments, outcome)

    def _once(
        self, call: tuple[Any, ...], statement: str, arguments: tuple[Any, ...], made: Callable[[Row], _Made]
    ) -> _Made:
        """What `made` makes of the row that a statement answers with, which is carried out once."""
        if self._process != os.getpid():  # a fork: what its parent has under way is its parent's
            self._open_calls, self._process = OpenCalls(), os.getpid()

        def send(commit_id: bytes, is_open: bool) -> _Made:  # noqa: FBT001 (called by place)
            (row,) = self._connections.call(
                statement, lambda is_again: (commit_id, is_open or is_again, *arguments), _OPEN_OUTCOME
            )
            return made(row)

        return carry_out(self._open_calls, call, os.urandom(16), send)

    def _wait(self, incarnation: int, position: int, deadline: float, vigil: Vigil) -> None:
        self._wait_until(lambda head: head[0] != incarnation or head[1] >= position, deadline, vigil)

    def _wait_for_commit(self, incarnation: int, mark: int, deadline: float, vigil: Vigil) -> None:
        self._wait_until(lambda head: head[0] != incarnation or head[2] > mark, deadline, vigil)

    def _wait_until(self, is_there: Callable[[Head], bool], deadline: float, vigil: Vigil) -> None:
        self._check_open()
        self._listening().wait_until(is_there, deadline, vigil)
        self._check_open()

    def _listening(self) -> Listener:
        known = self._listeners.get(os.getpid())
        if known is not None:
            return known
        ((channel,),) = self._connections.rows(_CHANNEL)
        fresh = Listener(self._connections, channel)
        weakref.finalize(self, fresh.close)
        used = self._listeners.setdefault(os.getpid(), fresh)
        if used is not fresh:  # another thread was faster
            fresh.close()
        elif self._closed:  # by another thread, which did not see this one
            fresh.close()
            self._check_open()
        return used

    def _leases(self, name: str) -> Leases:
        self._check_open()
        ((channel,),) = self._connections.rows(_CHANNEL)
        return AdvisoryLeases(self._connections, f"{channel} {name}")

    @property
    def _key(self) -> tuple[str, float, bool, int]:
        return self._url, self._timeout, self._allow_reset, self._max_commit_bytes

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self.target)


_handles: weakref.WeakValueDictionary[tuple[str, float, bool, int], PostgresStore] = weakref.WeakValueDictionary()
_unpickled: dict[tuple[str, float, bool, int], PostgresStore] = {}
"""Handles that came by pickle; kept, so that the tasks of a pool's worker connect once and not each."""


def _handle(url: str, timeout: float, allow_reset: bool, max_commit_bytes: int) -> PostgresStore:  # noqa: FBT001 (of pickle)
    """The handle of these facts in this process. It connects when it is used, where an error can be handled."""
    key = (url, timeout, allow_reset, max_commit_bytes)
    known = _handles.get(key)
    if known is not None and not known._closed:
        return known
    fresh = PostgresStore(url, timeout=timeout, allow_reset=allow_reset, max_commit_bytes=max_commit_bytes)
    used = _unpickled.get(key)
    if used is None or used._closed:
        used = _unpickled[key] = fresh
    return used
