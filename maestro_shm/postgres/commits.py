"""Commits as the database's functions take them, and what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from maestro_shm.cut import NEVER, StoredSnapshot
from maestro_shm.errors import ConflictError, SequenceConflictError, StaleReadError, TableConflictError
from maestro_shm.postgres.columns import column, whole_column
from maestro_shm.proposal import Proposal
from maestro_shm.validation import PackedEvent

COMMIT: Final = """SELECT first_position, timestamps, conflict, place, present FROM maestro_commit(
    %s, %s,
    %s::bytea[], %s::bigint[], %s::bigint[], %s::bytea[], %s::bytea[],
    %s::bytea[], %s::bytea[], %s::bigint[], %s::bytea[], %s::bytea[],
    %s::bytea[], %s::bigint[],
    %s::bytea[], %s::bytea[], %s::bigint[],
    %s::bytea[], %s::bigint[]
)"""
"""The id of the commit, whether it may have been sent before, events, changes, and the reads that it was decided by."""
COPIES: Final = """SELECT conflict, place, present FROM maestro_commit_copies(
    %s, %s, %s, %b::bytea[], %b::bigint[], %b::bigint[], %b::bytea[], %b::bytea[], %b::bigint[]
)"""
"""The id of the commits, whether they may have been sent before, the position of the first event, the events, and of
each the number of its commit among these, counted from 1."""
SNAPSHOT_COPIES: Final = """SELECT count(maestro_commit_snapshot(%s, %s, s.name, s.sequence, s.payload, s.whole))
FROM unnest(%b::bytea[], %b::bigint[], %b::bytea[], %b::bytea[]) s(name, sequence, payload, whole)"""
COMMIT_EVENTS: Final = """SELECT first_position, timestamps, conflict, place, present FROM maestro_commit_events(
    %s, %s, %b::bytea[], %b::bigint[], %b::bigint[], %b::bytea[], %b::bytea[]
)"""
"""Of events only, with no more arguments than these: each array costs 10 µs. (Without the `b` they go as text.)"""
SNAPSHOT: Final = "SELECT maestro_commit_snapshot(%s, %s, %s, %s, %s, %s)"
TRUNCATION: Final = "SELECT newest, covered FROM maestro_truncate(%s, %s, %s, %s, %s)"
RESET: Final = "SELECT maestro_reset(%s)"
"""Of this incarnation only."""


def event_arguments(events: Sequence[PackedEvent]) -> tuple[Any, ...]:
    """Of events."""
    given = [timestamp for _, _, timestamp, _ in events]
    return (
        [column(aggregate_id) for aggregate_id, _, _, _ in events],
        [sequence for _, sequence, _, _ in events],
        _some(given),
        [payload for _, _, _, payload in events],
        _some([whole_column(aggregate_id) for aggregate_id, _, _, _ in events]),
    )


def _some(values: list[Any]) -> list[Any] | None:
    """An array of nothing but NULL has no type for the driver; with NULL in place of it `unnest` fills up, too."""
    return None if values.count(None) == len(values) else values


def arguments(proposal: Proposal) -> tuple[Any, ...]:
    """Of a commit of whatever there is."""
    changes = [(*entry, change) for entry, change in proposal.changes.items()]
    streams, entries = proposal.unguarded_streams(), proposal.unguarded_entries()
    return (
        *event_arguments(proposal.events),
        [column(table) for table, _, _ in changes],
        [column(key) for _, key, _ in changes],
        [change.version for _, _, change in changes],
        [change.payload for _, _, change in changes],
        [whole_column(key) for _, key, _ in changes],
        [column(name) for name in streams],
        list(streams.values()),
        [column(table) for table, _ in entries],
        [column(key) for _, key in entries],
        list(entries.values()),
        [column(name) for name in proposal.tables],
        list(proposal.tables.values()),
    )


def snapshot_arguments(aggregate_id: str, sequence: int, payload: bytes) -> tuple[Any, ...]:
    """Of a snapshot."""
    return column(aggregate_id), sequence, payload, whole_column(aggregate_id)


def truncation_arguments(aggregate_id: str, before: int) -> tuple[Any, ...]:
    """Of a truncation."""
    return column(aggregate_id), before, whole_column(aggregate_id)


def copy_arguments(first_position: int, commits: Sequence[Sequence[PackedEvent]]) -> tuple[Any, ...]:
    """Of commits of another store."""
    numbers = [number for number, events in enumerate(commits, 1) for _ in events]
    return first_position, *event_arguments([event for events in commits for event in events]), numbers


def snapshot_copy_arguments(snapshots: Sequence[StoredSnapshot]) -> tuple[Any, ...]:
    """Of snapshots of another store."""
    return (
        [column(aggregate_id) for aggregate_id, _, _ in snapshots],
        [sequence for _, sequence, _ in snapshots],
        [payload for _, _, payload in snapshots],
        _some([whole_column(aggregate_id) for aggregate_id, _, _ in snapshots]),
    )


def conflict(proposal: Proposal, kind: str, place: int, found: int) -> ConflictError:
    """The error for what a commit was refused for."""
    if kind == "event":
        aggregate_id, sequence, _, _ = proposal.events[place - 1]
        return SequenceConflictError(aggregate_id, sequence, found)
    if kind == "stream":
        name, read = list(proposal.unguarded_streams().items())[place - 1]
        return StaleReadError(name, None if read == NEVER else read, None if found == NEVER else found)
    if kind == "table":
        name, version = list(proposal.tables.items())[place - 1]
        return TableConflictError(name, None, version, found)
    if kind == "entry":
        (table, key), version = list(proposal.unguarded_entries().items())[place - 1]
        return TableConflictError(table, key, version, found)
    (table, key), change = list(proposal.changes.items())[place - 1]
    return TableConflictError(table, key, change.version - 1, found)
