"""Rows as they come from clients, and the rules that they are held to.

The journal trusts no client, so each row is checked here again, though clients check theirs before they send it.
"""

from __future__ import annotations

from maestro_shm.clock import LARGEST_TIMESTAMP
from maestro_shm.errors import (
    ConflictError,
    InvalidEntryError,
    InvalidEventError,
    SequenceConflictError,
    StaleReadError,
    StoreError,
    TableConflictError,
    shown,
)
from maestro_shm.proposal import Proposal
from maestro_shm.records import MAX_SEQUENCE
from maestro_shm.shared.frame import ENTRY, EVENT, MAX_KEY_BYTES, TABLE

Row = tuple[str, int, int | None, bytes]
"""An event as it comes from a client: aggregate id, sequence, timestamp if it has one, payload."""
ChangeRow = tuple[str, str, int, bytes]
"""A change of an entry: table, key, the version after it, and the packed value, or nothing where it is deleted."""
ReadRow = tuple[int, str, str, int]
"""What a commit was decided by: kind, aggregate id or table, the key in the table, and the sequence or version that it
was found at; -1 where nothing was found."""


def key_of(aggregate_id: str) -> bytes:
    """The key of an aggregate's records. Raises `InvalidEventError`."""
    try:
        return aggregate_id.encode()
    except (AttributeError, UnicodeEncodeError):
        raise InvalidEventError(f"an aggregate id must be a str of valid Unicode, not {shown(aggregate_id)}") from None


def entry_key(table: str, key: str) -> bytes:
    """The key of an entry's records. Raises `InvalidEntryError`."""
    name = table_key(table)
    try:
        return name + b"\0" + key.encode()
    except (AttributeError, UnicodeEncodeError):
        raise InvalidEntryError(f"a key must be a str of valid Unicode, not {shown(key)}", table) from None


def table_key(table: str) -> bytes:
    """The key of the records of which keys a table has. Raises `InvalidEntryError`."""
    try:
        name = table.encode()
    except (AttributeError, UnicodeEncodeError):
        name = b""
    if not name or b"\0" in name:
        raise InvalidEntryError(
            f"the name of a table must be a non-empty str of valid Unicode without NUL, not {shown(table)}"
        )
    return name


def change_refusal(key: bytes, last: int, row: ChangeRow) -> StoreError | None:
    """Why a change cannot follow on this version, or None."""
    table, entry, version, payload = row
    if type(version) is not int or not 0 <= version <= MAX_SEQUENCE:
        reason = f"its version must be an int from 0 to {MAX_SEQUENCE}, not {shown(version)}"
    elif version <= last:
        return TableConflictError(table, entry, version - 1, last)
    elif len(key) > MAX_KEY_BYTES:
        reason = f"the table's name and the key must have at most {MAX_KEY_BYTES - 1:,} bytes, not {len(key) - 1:,}"
    elif type(payload) is not bytes:
        reason = f"its payload must be bytes, not {shown(payload)}"
    else:
        return None
    return InvalidEntryError(reason, table, entry)


def stale(row: ReadRow, last: int) -> ConflictError:
    """The error for a read that others came before, to this sequence or version."""
    kind, name, key, read = row
    if kind == EVENT:
        return StaleReadError(name, None if read < 0 else read, None if last < 0 else last)
    return TableConflictError(name, key if kind == ENTRY else None, read, last)


def read_key(row: ReadRow) -> bytes:
    """The key of the records that were read. Raises `InvalidEventError`, `InvalidEntryError`."""
    kind, name, key, _ = row
    if kind == EVENT:
        return key_of(name)
    if kind == ENTRY:
        return entry_key(name, key)
    if kind == TABLE:
        return table_key(name)
    raise InvalidEventError(f"a read must be of a stream, an entry or a table, not {shown(kind)}")


def refusal(key: bytes, last: int, row: Row) -> StoreError | None:
    """Why a record cannot follow on this sequence number, or None."""
    aggregate_id, sequence, given, payload = row
    if type(sequence) is not int or not 0 <= sequence <= MAX_SEQUENCE:
        reason = f"its sequence must be an int from 0 to {MAX_SEQUENCE}, not {shown(sequence)}"
    elif sequence <= last:
        return SequenceConflictError(aggregate_id, sequence, last)
    elif not 0 < len(key) <= MAX_KEY_BYTES:
        reason = f"its aggregate id must have 1 to {MAX_KEY_BYTES} bytes, not {len(key)}"
    elif type(payload) is not bytes:
        reason = f"its payload must be bytes, not {shown(payload)}"
    elif given is not None and (type(given) is not int or not 0 <= given <= LARGEST_TIMESTAMP):
        reason = f"its timestamp must be None or an int from 0 to {LARGEST_TIMESTAMP}, not {shown(given)}"
    else:
        return None
    return InvalidEventError(reason, aggregate_id, sequence)


def rows_of(proposal: Proposal) -> tuple[list[Row], list[ChangeRow], list[ReadRow]]:
    """What a proposal is sent as."""
    changes = [(table, key, change.version, change.payload or b"") for (table, key), change in proposal.changes.items()]
    reads: list[ReadRow] = [(EVENT, name, "", last) for name, last in proposal.unguarded_streams().items()]
    reads += [(ENTRY, table, key, version) for (table, key), version in proposal.unguarded_entries().items()]
    reads += [(TABLE, table, "", version) for table, version in proposal.tables.items()]
    return proposal.events, changes, reads
