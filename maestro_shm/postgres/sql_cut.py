"""A cut of a PostgreSQL store: what its rows held after one commit, by the number of that commit.

Each read is one statement, which looks at the store's incarnation, too: after a reset numbers begin again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from maestro_shm import codec
from maestro_shm.cut import NEVER, NO_ENTRY, Cut, Entry, Keys, StoredEvent, StoredSnapshot
from maestro_shm.errors import StoreUnavailableError, TruncatedError
from maestro_shm.postgres.columns import column, prefix_column, text_of
from maestro_shm.postgres.connections import Connections, Row
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot
from maestro_shm.selection import Selection

HEAD: Final = "SELECT incarnation, commits, last_position FROM maestro_head"

_BATCH: Final = 512
_BATCH_BYTES: Final = 1 << 20
"""Events that are fetched at once, and the bytes in which they begin."""
_STORED_BATCH: Final = 4096
_STORED_BATCH_BYTES: Final = 4 << 20
"""The same where they are not unpacked."""
_KNOWN_TABLES: Final = 1 << 16
"""Whose keys a handle remembers."""
_SCANNED: Final = 50_000
"""Positions that one statement looks at, so that none takes long where few events are wanted."""

_READ: Final = "SELECT h.incarnation, r.* FROM maestro_head h LEFT JOIN LATERAL ({}) r ON true {}"
"""One row at least, so that the incarnation comes in any case."""
# With each where its stream begins, for which a store without truncated events looks nowhere.
_EVENTS: Final = _READ.format(
    """SELECT f.first_sequence, e.* FROM (
        SELECT CASE WHEN h.truncated > 0 THEN coalesce((
            SELECT first_sequence FROM maestro_floors WHERE aggregate_id = %s
        ), 0) ELSE 0 END AS first_sequence
    ) f LEFT JOIN LATERAL (
        SELECT sequence, timestamp, position, payload FROM maestro_events
        WHERE aggregate_id = %s AND sequence BETWEEN %s AND %s AND commit <= %s AND length(payload) > 0
    ) e ON true""",
    "ORDER BY r.sequence",
)
_FIRST_SEQUENCE: Final = _READ.format("SELECT first_sequence FROM maestro_floors WHERE aggregate_id = %s", "")
_TRUNCATED: Final = _READ.format("SELECT h.truncated", "")
_SNAPSHOT: Final = _READ.format(
    """SELECT sequence, payload FROM maestro_snapshots WHERE aggregate_id = %s AND commit <= %s
    ORDER BY sequence DESC LIMIT 1""",
    "",
)
_LAST_SEQUENCE: Final = _READ.format(
    "SELECT sequence FROM maestro_events WHERE aggregate_id = %s AND commit <= %s ORDER BY sequence DESC LIMIT 1", ""
)
_POSITION_AT: Final = _READ.format("SELECT maestro_position_at(%s, %s)", "")
_COMMIT_OF: Final = _READ.format(
    """SELECT e.commit, coalesce((
        SELECT l.position FROM maestro_events l WHERE l.position < (
            SELECT n.position FROM maestro_events n WHERE n.position > e.position AND n.commit > e.commit
            ORDER BY n.position LIMIT 1
        ) ORDER BY l.position DESC LIMIT 1
    ), h.last_position) FROM maestro_events e WHERE e.position <= %s ORDER BY e.position DESC LIMIT 1""",
    "",
)
_FEED: Final = _READ.format(
    """SELECT * FROM (
        SELECT aggregate_id, whole, sequence, timestamp, position, payload,
            sum(length(payload)) OVER (ORDER BY position) - length(payload) AS before
        FROM (
            SELECT * FROM maestro_events WHERE position > %s AND position <= %s AND length(payload) > 0{}
            ORDER BY position LIMIT %s
        ) chosen
    ) fitting WHERE before < %s""",
    "ORDER BY r.position",
)
_OF_PREFIX: Final = " AND substring(aggregate_id from 1 for %s) = %s"
_OF_TYPES: Final = (
    " AND EXISTS (SELECT FROM unnest(%s::bytea[]) kind WHERE substring(payload from 1 for length(kind)) = kind)"
)
_ENTRY: Final = _READ.format(
    """SELECT version, payload FROM maestro_entries WHERE table_name = %s AND key = %s AND commit <= %s
    ORDER BY version DESC LIMIT 1""",
    "",
)
_TABLE: Final = _READ.format(
    "SELECT version FROM maestro_tables WHERE name = %s AND commit <= %s ORDER BY version DESC LIMIT 1", ""
)
# From key to key by the index, however often each was changed, and for each the newest that counts.
_PAIRS: Final = """WITH RECURSIVE known AS (
    (SELECT key FROM maestro_entries WHERE table_name = %(table)s AND key >= %(start)s ORDER BY key LIMIT 1)
    UNION ALL
    SELECT (
        SELECT e.key FROM maestro_entries e WHERE e.table_name = %(table)s AND e.key > k.key ORDER BY e.key LIMIT 1
    ) FROM known k WHERE k.key IS NOT NULL
)
""" + _READ.format(
    """SELECT k.key, e.whole, {} FROM known k CROSS JOIN LATERAL (
        SELECT whole, payload FROM maestro_entries
        WHERE table_name = %(table)s AND key = k.key AND commit <= %(commit)s ORDER BY version DESC LIMIT 1
    ) e WHERE k.key IS NOT NULL AND e.payload IS NOT NULL LIMIT %(most)s""",
    "ORDER BY r.key",
)
_KEYS: Final = _PAIRS.format("NULL")
_KEYS_WITH_VALUES: Final = _PAIRS.format("e.payload")

_STORED: Final = _READ.format(
    """SELECT * FROM (
        SELECT aggregate_id, whole, sequence, timestamp, payload, position, commit,
            sum(length(payload)) OVER (ORDER BY position) - length(payload) AS before
        FROM maestro_events WHERE position > %s AND position <= %s AND length(payload) > 0
    ) fitting WHERE before < %s""",
    "ORDER BY r.position",
)
# From one to the next by the index, however often each was changed.
_SNAPSHOTS: Final = """WITH RECURSIVE known AS (
    (SELECT aggregate_id FROM maestro_snapshots WHERE aggregate_id > %(after)s ORDER BY aggregate_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT s.aggregate_id FROM maestro_snapshots s WHERE s.aggregate_id > k.aggregate_id
        ORDER BY s.aggregate_id LIMIT 1
    ) FROM known k WHERE k.aggregate_id IS NOT NULL
)
""" + _READ.format(
    """SELECT * FROM (
        SELECT k.aggregate_id, s.whole, s.sequence, s.payload,
            sum(coalesce(s.size, 0)) OVER (ORDER BY k.aggregate_id) - coalesce(s.size, 0) AS before
        FROM (SELECT aggregate_id FROM known LIMIT %(most)s) k LEFT JOIN LATERAL (
            SELECT whole, sequence, payload, length(payload) AS size FROM maestro_snapshots
            WHERE aggregate_id = k.aggregate_id AND commit <= %(commit)s ORDER BY sequence DESC LIMIT 1
        ) s ON true WHERE k.aggregate_id IS NOT NULL
    ) fitting WHERE before < %(bytes)s""",
    "ORDER BY r.aggregate_id",
)
_TABLE_NAMES: Final = """WITH RECURSIVE known AS (
    (SELECT name FROM maestro_tables ORDER BY name LIMIT 1)
    UNION ALL
    SELECT (SELECT t.name FROM maestro_tables t WHERE t.name > k.name ORDER BY t.name LIMIT 1)
    FROM known k WHERE k.name IS NOT NULL
)
""" + _READ.format(
    """SELECT k.name FROM known k WHERE k.name IS NOT NULL AND EXISTS (
        SELECT FROM maestro_tables t WHERE t.name = k.name AND t.commit <= %s
    )""",
    "",
)
_VERSIONS: Final = _READ.format(
    """SELECT coalesce(e.version, -1), k.place FROM unnest(%s::bytea[]) WITH ORDINALITY k(key, place)
    LEFT JOIN LATERAL (
        SELECT version FROM maestro_entries WHERE table_name = %s AND key = k.key AND commit <= %s
        ORDER BY version DESC LIMIT 1
    ) e ON true""",
    "ORDER BY r.place",
)

Known = dict[str, tuple[int, Keys]]
"""Of tables: the incarnation, and what keys there were at some version."""


class SqlCut(Cut):
    """The reads of one. A reset of the store ends it: `StoreUnavailableError` then."""

    def __init__(self, connections: Connections, known: Known, head: Row = (None, MAX_SEQUENCE, MAX_SEQUENCE)) -> None:
        """`known` is shared by all cuts of a handle. Without a head each read sees what is newest then."""
        self._connections = connections
        self._known = known
        self._incarnation: int
        self._commit: int
        self._last_position: int
        self._incarnation, self._commit, self._last_position = head

    def get_events(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE, complete: bool = False
    ) -> list[Event]:
        if min_sequence > MAX_SEQUENCE:
            return []
        key, bounds = column(aggregate_id), (_within(min_sequence), _within(max_sequence))
        rows = self._read(_EVENTS, key, key, *bounds, self._commit)
        first = rows[0][0]
        if complete and first > max(0, min_sequence) and min_sequence <= max_sequence:
            raise TruncatedError(aggregate_id, min_sequence, first)
        unpack = codec.unpack_event
        return [
            unpack(aggregate_id, sequence, timestamp, position, payload)
            for _, sequence, timestamp, position, payload in rows
            if sequence is not None
        ]

    def get_snapshot(self, aggregate_id: str) -> Snapshot | None:
        for sequence, payload in self._read(_SNAPSHOT, column(aggregate_id), self._commit):
            return Snapshot(aggregate_id, sequence, codec.unpack(payload)[0])
        return None

    def last_sequence(self, aggregate_id: str) -> int | None:
        for (sequence,) in self._read(_LAST_SEQUENCE, column(aggregate_id), self._commit):
            return int(sequence)
        return None

    def first_sequence(self, aggregate_id: str) -> int:
        for (sequence,) in self._read(_FIRST_SEQUENCE, column(aggregate_id)):
            return int(sequence)
        return 0

    @property
    def is_truncated(self) -> bool:
        ((count,),) = self._read(_TRUNCATED)
        return bool(count)

    @property
    def incarnation(self) -> int:
        return self._incarnation

    @property
    def mark(self) -> int:
        return self._commit

    @property
    def last_position(self) -> int:
        return self._last_position

    def position_at(self, timestamp: int) -> int:
        ((position,),) = self._read(_POSITION_AT, _within(timestamp), self._last_position)
        return int(position)

    def until(self, position: int) -> SqlCut:
        if not position:
            return SqlCut(self._connections, {}, (self._incarnation, 0, 0))
        for commit, last_position in self._read(_COMMIT_OF, position):
            return SqlCut(self._connections, {}, (self._incarnation, commit, last_position))
        return self.until(0)  # all that there was by then is truncated

    def feed(self, wanted: Selection) -> Iterator[list[Event]]:
        statement, conditions = _selected(wanted)
        position, left = wanted.after, wanted.limit
        while position < self._last_position and left != 0:
            end = min(position + _SCANNED, self._last_position)
            most = _BATCH if left is None else min(_BATCH, left)
            rows = self._read(statement, position, end, *conditions, most, _BATCH_BYTES)
            events = [
                codec.unpack_event(text_of(key, whole), sequence, timestamp, position, payload)
                for key, whole, sequence, timestamp, position, payload, _ in rows
            ]
            position = events[-1].position or end if events else end
            # A long prefix was cut for the database.
            events = [event for event in events if event.aggregate_id.startswith(wanted.aggregate_prefix)]
            left = None if left is None else left - len(events)
            yield events

    def stored_events(self, after: int) -> Iterator[list[StoredEvent]]:
        position = after
        while position < self._last_position:
            # Not a LIMIT: where the database knows nothing of the table yet, it would sort all that is left.
            end = min(position + _STORED_BATCH, self._last_position)
            rows = self._read(_STORED, position, end, _STORED_BATCH_BYTES)
            events = [StoredEvent(text_of(key, whole), *facts) for key, whole, *facts, _ in rows]
            position = events[-1].position if events else end
            yield events

    def stored_snapshots(self) -> Iterator[StoredSnapshot]:
        bounds = {"commit": self._commit, "most": _BATCH, "bytes": _BATCH_BYTES}
        after = b""
        while rows := self._checked(self._connections.rows(_SNAPSHOTS, {**bounds, "after": after})):
            after = rows[-1][0]
            for key, whole, sequence, payload, _ in rows:
                if payload is not None:
                    yield StoredSnapshot(text_of(key, whole), sequence, payload)

    def table_names(self) -> list[str]:
        return sorted(text_of(name, None) for (name,) in self._read(_TABLE_NAMES, self._commit))

    def versions(self, table: str, keys: Sequence[str]) -> list[int]:
        rows = self._read(_VERSIONS, [column(key) for key in keys], column(table), self._commit)
        return [version for version, _ in rows]

    def entry(self, table: str, key: str) -> Entry:
        for version, payload in self._read(_ENTRY, column(table), column(key), self._commit):
            return Entry(version, payload)
        return NO_ENTRY

    def keys(self, table: str) -> Keys:
        version = next((version for (version,) in self._read(_TABLE, column(table), self._commit)), NEVER)
        incarnation, known = self._known.get(table, (0, Keys(NEVER, [])))
        if (incarnation, known.version) == (self._incarnation, version):
            return known
        found = Keys(version, [key for key, _ in self._in_order(_KEYS, table, "")])
        if len(self._known) >= _KNOWN_TABLES:
            self._known.clear()
        self._known[table] = self._incarnation, found
        return found

    def pairs(self, table: str, start: str | None = None) -> Iterator[tuple[str, bytes]]:
        return self._in_order(_KEYS_WITH_VALUES, table, start or "")

    def _in_order(self, statement: str, table: str, start: str) -> Iterator[tuple[str, Any]]:
        """Keys from `start` on. Long ones with the same beginning come in the order of their hashes."""
        alike: list[tuple[str, Any]] = []
        beginning = b""
        for key, whole, value in self._entries(statement, table, prefix_column(start)):
            if alike and not key.startswith(beginning):
                yield from sorted(alike)
                alike = []
            text = text_of(key, whole)
            if text < start:
                continue
            if whole is None:
                yield text, value
            else:
                beginning = prefix_column(text)
                alike.append((text, value))
        yield from sorted(alike)

    def _entries(self, statement: str, table: str, start: bytes) -> Iterator[Row]:
        named = {"table": column(table), "start": start, "commit": self._commit, "most": _BATCH}
        while rows := self._checked(self._connections.rows(statement, named)):
            yield from rows
            named["start"] = rows[-1][0] + b"\0"  # the next key that there can be

    def _read(self, statement: str, *parameters: object) -> list[Row]:
        return self._checked(self._connections.rows(statement, parameters))

    def _checked(self, rows: list[Row]) -> list[Row]:
        """The rows without what was joined to them."""
        if not rows or self._incarnation not in (None, rows[0][0]):
            raise StoreUnavailableError(self._connections.location, "it was reset while it was read")
        return [] if rows[0][1] is None else [row[1:] for row in rows]


def _within(number: int) -> int:
    """A bound that a column can have."""
    return max(-1, min(number, MAX_SEQUENCE))


def _selected(wanted: Selection) -> tuple[str, tuple[Any, ...]]:
    conditions = ""
    parameters: tuple[Any, ...] = ()
    if wanted.aggregate_prefix:
        prefix = prefix_column(wanted.aggregate_prefix)
        conditions += _OF_PREFIX
        parameters += (len(prefix), prefix)
    if wanted.types is not None:
        conditions += _OF_TYPES
        parameters += ([codec.event_head(kind) for kind in sorted(wanted.types)],)
    return _FEED.format(conditions), parameters
