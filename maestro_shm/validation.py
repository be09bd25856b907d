"""The rules of the data: what may go into a store. Every store packs by these functions before it changes anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from maestro_shm import codec
from maestro_shm.clock import MAX_TIMESTAMP
from maestro_shm.errors import InvalidEntryError, InvalidEventError, shown
from maestro_shm.options import RECORD_OVERHEAD
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot

MAX_TABLE_BYTES: Final = 255
"""The longest name of a table, in UTF-8."""
MAX_ID_BYTES: Final = 2**16 - 1
"""The longest aggregate id, in UTF-8: the shared store's log has 16 bits for its length."""


_PLAIN_ID_LENGTH: Final = 64
_BESIDE_PLAIN_PAYLOAD: Final = 4 * _PLAIN_ID_LENGTH + RECORD_OVERHEAD
"""What else of a plain event may count towards the size of its commit, with the longest id in UTF-8."""
_PLAIN: Final = (int, bool, float, str, type(None))


PackedEvent = tuple[str, int, int | None, bytes]
"""A valid event, ready to be stored: aggregate id, sequence, timestamp if one was given, and a payload that is opaque
to whoever stores it. (As a `NamedTuple` it would make packing a tenth slower.)"""


def pack_events(events: Iterable[Event], limit: int) -> list[PackedEvent]:
    """Check and pack the events of one commit. Raises `InvalidEventError` for the first that breaks a rule.

    Rules: non-empty `str` id and type; sequence numbers from 0 to `MAX_SEQUENCE` that rise per aggregate; a body and
    metadata that can be stored; at most `limit` bytes altogether.
    """
    last: dict[str, int] = {}
    packed: list[PackedEvent] = []
    size = 0
    for event in events:
        size += _check_event(event)
        aggregate_id, sequence = event.aggregate_id, event.sequence
        if aggregate_id in last and sequence <= last[aggregate_id]:
            raise _refuse(event, f"its sequence does not rise above {last[aggregate_id]} within the commit")
        last[aggregate_id] = sequence
        try:
            payload = codec.pack_event(event)
        except codec.UnstorableError as error:
            raise _refuse(event, str(error)) from None
        size += len(payload) + RECORD_OVERHEAD
        if size > limit:
            raise _refuse(event, f"with it the commit {over_limit(size, limit)}")
        packed.append((aggregate_id, sequence, event.timestamp, payload))
    return packed


def pack_plain(event: Event, limit: int) -> PackedEvent | None:
    """Check and pack an event that is committed alone, if it is plain; else None, and `pack_events` has to look at it.

    Plain is one without timestamp that breaks no rule, with a short id, and within `limit` bytes whatever that is. Most
    commits are of one of these, and what they cost a process is how much code they touch: so this is one function.
    """
    if type(event) is not Event:
        return None
    aggregate_id, sequence, kind, metadata = event.aggregate_id, event.sequence, event.type, event.metadata
    if (
        type(aggregate_id) is not str
        or not 0 < len(aggregate_id) <= _PLAIN_ID_LENGTH
        or type(sequence) is not int
        or not 0 <= sequence <= MAX_SEQUENCE
        or type(kind) is not str
        or not kind
        or event.timestamp is not None
        or (metadata is not None and type(metadata) is not dict)
    ):
        return None
    try:
        aggregate_id.encode()
        payload = codec.pack_event(event)
    except (codec.UnstorableError, UnicodeEncodeError):
        return None
    return (aggregate_id, sequence, None, payload) if len(payload) + _BESIDE_PLAIN_PAYLOAD <= limit else None


def pack_snapshot(snapshot: Snapshot, limit: int) -> bytes:
    """Check a snapshot and pack its body. Raises `InvalidEventError`, as `pack_events` does."""
    if type(snapshot) is not Snapshot:
        msg = f"not a Snapshot: {shown(snapshot)}"
        raise InvalidEventError(msg)
    check_aggregate_id(snapshot.aggregate_id)
    if type(snapshot.sequence) is not int or not 0 <= snapshot.sequence <= MAX_SEQUENCE:
        raise _refuse_sequence(snapshot)
    try:
        payload = codec.pack_body(snapshot.body)
    except codec.UnstorableError as error:
        raise _refuse(snapshot, str(error)) from None
    if (size := record_size(snapshot.aggregate_id, payload)) > limit:
        raise _refuse(snapshot, f"with it the commit {over_limit(size, limit)}")
    return payload


def record_size(aggregate_id: str, payload: bytes) -> int:
    """What one record counts towards the size of its commit, in bytes."""
    return len(aggregate_id.encode()) + len(payload) + RECORD_OVERHEAD


def check_aggregate_id(aggregate_id: object) -> int:
    """The size of an aggregate id in bytes.

    Raises `InvalidEventError` unless it is a non-empty `str` of valid Unicode and at most `MAX_ID_BYTES`.
    """
    if type(aggregate_id) is not str or not aggregate_id:
        msg = f"an aggregate id must be a non-empty str, not {shown(aggregate_id)}"
        raise InvalidEventError(msg)
    try:
        size = len(aggregate_id.encode())
    except UnicodeEncodeError as error:
        msg = f"an aggregate id must be valid Unicode, not {shown(aggregate_id)}: {error.reason}"
        raise InvalidEventError(msg) from None
    if size > MAX_ID_BYTES:
        msg = f"an aggregate id must have at most {MAX_ID_BYTES:,} bytes, not {size:,}: {shown(aggregate_id)}"
        raise InvalidEventError(msg)
    return size


def check_table(name: object) -> None:
    """Raise `InvalidEntryError` unless it is a non-empty `str` without NUL of at most `MAX_TABLE_BYTES`."""
    size = _size_of(name)
    if not size or "\0" in str(name):
        raise InvalidEntryError(
            f"the name of a table must be a non-empty str of valid Unicode without NUL, not {shown(name)}"
        )
    if size > MAX_TABLE_BYTES:
        raise InvalidEntryError(
            f"the name of a table must have at most {MAX_TABLE_BYTES} bytes, not {size:,}: {shown(name)}"
        )


def name_fault(name: object, longest: int, without: str) -> str | None:
    """Why something cannot be a name that is part of a table's name or key, or None."""
    size = _size_of(name)
    if size and size <= longest and not {*str(name)} & {*without}:
        return None
    return f"a name must be a str of valid Unicode of 1 to {longest} bytes, without {' and '.join(map(repr, without))}"


def shown_name(name: object) -> str:
    """A name, or what was given for one, as an error tells it."""
    return name if type(name) is str else shown(name)


def check_key(table: str, key: object) -> str:
    """The key of an entry. Raises `InvalidEntryError` unless it is a `str` that fits into a record beside its table."""
    size = _size_of(key)
    if size is None or type(key) is not str:
        raise InvalidEntryError(f"a key must be a str of valid Unicode, not {shown(key)}", table)
    if size > (most := MAX_ID_BYTES - MAX_TABLE_BYTES - 1):
        raise InvalidEntryError(f"a key must have at most {most:,} bytes, not {size:,}: {shown(key)}", table)
    return key


def entry_size(table: str, key: str, payload: bytes | None) -> int:
    """What a change of an entry counts towards the size of its commit, in bytes."""
    return len(table.encode()) + 1 + len(key.encode()) + len(payload or b"") + RECORD_OVERHEAD


def pack_value(table: str, key: str, value: object) -> bytes:
    """Pack the value of an entry. Raises `InvalidEntryError`."""
    try:
        return codec.pack([value], ("value",))
    except codec.UnstorableError as error:
        raise InvalidEntryError(str(error), table, key) from None


def _size_of(text: object) -> int | None:
    """The size of a `str` in UTF-8; None for what is none, or not valid Unicode."""
    try:
        return len(text.encode()) if type(text) is str else None
    except UnicodeEncodeError:
        return None


def check_bounds(min_sequence: object, max_sequence: object) -> None:
    """Raise `InvalidEventError` unless both bounds of a read are integers."""
    if type(min_sequence) is not int or type(max_sequence) is not int:
        msg = f"the bounds of a read must be integers, not {shown(min_sequence)} and {shown(max_sequence)}"
        raise InvalidEventError(msg)


def check_before(before: object) -> None:
    """Raise `InvalidEventError` unless it is a sequence number that events may be truncated below."""
    if type(before) is not int or not 0 <= before <= MAX_SEQUENCE:
        raise InvalidEventError(
            f"before must be a sequence number, an int from 0 to {MAX_SEQUENCE}, not {shown(before)}"
        )


def _check_event(event: Event) -> int:
    if type(event) is not Event:
        msg = f"not an Event: {shown(event)}"
        raise InvalidEventError(msg)
    id_size = check_aggregate_id(event.aggregate_id)
    if type(event.sequence) is not int or not 0 <= event.sequence <= MAX_SEQUENCE:
        raise _refuse_sequence(event)
    if type(event.type) is not str or not event.type:
        raise _refuse(event, f"its type must be a non-empty str, not {shown(event.type)}")
    timestamp = event.timestamp
    if timestamp is not None and (type(timestamp) is not int or not 0 <= timestamp <= MAX_TIMESTAMP):
        raise _refuse(event, f"its timestamp must be None or an int from 0 to {MAX_TIMESTAMP}, not {shown(timestamp)}")
    if event.metadata is not None and type(event.metadata) is not dict:
        raise _refuse(event, f"its metadata must be None or a dict, not {shown(event.metadata)}")
    return id_size


def _refuse_sequence(record: Event | Snapshot) -> InvalidEventError:
    return _refuse(record, f"its sequence must be an int from 0 to {MAX_SEQUENCE}, not {shown(record.sequence)}")


def over_limit(size: int, limit: int) -> str:
    """How a commit that is too large is refused."""
    return (
        f"has {size:,} bytes, over the cap of {limit:,}; "
        "commit less at once, or create the store with a larger max_commit_bytes"
    )


def _refuse(record: Event | Snapshot, reason: str) -> InvalidEventError:
    sequence: object = record.sequence
    # What is no number may be anything, also what cannot be pickled with the error.
    return InvalidEventError(reason, record.aggregate_id, sequence if type(sequence) in _PLAIN else shown(sequence))
