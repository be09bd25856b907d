"""A commit on its way into the log: its rows as they come from a client, the rules that they are held to, its frame.

The journal trusts no client, so each row is checked here again, though clients check theirs before they send it.
"""

from __future__ import annotations

from typing import Final

from maestro_shm.clock import MAX_TIMESTAMP
from maestro_shm.errors import InvalidEventError, SequenceConflictError, StoreError, shown
from maestro_shm.records import MAX_SEQUENCE
from maestro_shm.shared import frame as frames
from maestro_shm.shared.frame import MAX_KEY_BYTES

Row = tuple[str, int, int | None, bytes]
"""An event as it comes from a client: aggregate id, sequence, timestamp if it has one, payload."""

Head = tuple[int, int, int]
"""The newest record of a key: the word of the index that points to it (or 0), its offset, its sequence."""
NO_HEAD: Final[Head] = (0, 0, -1)


class Draft:
    """A frame under construction: records of one kind, and the heads that they leave behind."""

    __slots__ = ("end", "heads", "kind", "new_keys", "offset", "offsets", "packed", "timestamps")

    def __init__(self, kind: int, offset: int) -> None:
        self.kind = kind
        self.offset = offset
        self.end = offset + frames.FRAME_HEADER.size
        self.packed: list[bytes] = []
        self.offsets: list[int] = []
        self.heads: dict[bytes, Head] = {}
        self.timestamps: list[int] = []
        self.new_keys = 0

    def add(self, key: bytes, before: Head, sequence: int, position: int, timestamp: int, payload: bytes) -> None:
        """Append a record that follows on this head."""
        offset = self.end
        word, previous, _ = before
        packed = frames.pack_record(
            self.offset, offset, self.kind, key, sequence, previous, position, timestamp, payload
        )
        if not previous:
            self.new_keys += 1
        self.packed.append(packed)
        self.offsets.append(offset)
        self.timestamps.append(timestamp)
        self.heads[key] = (word, offset, sequence)
        self.end = offset + len(packed)


def key_of(aggregate_id: str) -> bytes:
    """The key of an aggregate's records. Raises `InvalidEventError`."""
    try:
        return aggregate_id.encode()
    except (AttributeError, UnicodeEncodeError):
        raise InvalidEventError(f"an aggregate id must be a str of valid Unicode, not {shown(aggregate_id)}") from None


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
    elif given is not None and (type(given) is not int or not 0 <= given <= MAX_TIMESTAMP):
        reason = f"its timestamp must be None or an int from 0 to {MAX_TIMESTAMP}, not {shown(given)}"
    else:
        return None
    return InvalidEventError(reason, aggregate_id, sequence)
