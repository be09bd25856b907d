"""The format of the log: frames and the records in them. Pure: bytes in, bytes out.

A frame is one commit, a record is one event or snapshot. All numbers are little-endian; frames and records begin at
multiples of 8, so that what follows a shorter one is padded with zeros.

    frame   length u32 | CRC-32 u32 | commit id 16 bytes | first position u64 | aggregates u64 | latest u64 |
            records u32 | epoch u32, then its records
    record  CRC-32 u32 | size u32 | sequence u64 | previous u64 | position u64 | timestamp u64 |
            distance u32 | key length u16 | kind u16 | key | payload

`length` and `size` count the whole frame and the whole record without its padding. `previous` is the offset of the
newest older record of the same kind and key, or 0. `distance` leads back to the start of the frame. `aggregates` is the
number of streams in the store after the commit; `latest` the highest timestamp that an event has had by then, so that a
time can be looked up though callers may give timestamps of the past. The position is 0 where the record is no event. A
key is an aggregate id in UTF-8; of an entry the table's name, a zero byte, and the entry's key. What a table's name
leads to are records of which keys came and went. The sequence of these two is a version, which counts from 0. An entry
without payload is none, and of an event without one only the number is left. The sequence of a floor is that below
which the events of its stream are truncated; its payload says how many went by it, how many of its stream and how many
of all streams have gone by then, and how many bytes those had that went by it: four u64.

A frame whose commit was undone is void: its place stays taken, since a reader may be on its way there. Its length is
odd, and the CRC behind that covers length and epoch alone; both are one word, so that a frame becomes void at once.
Without its epoch a mark that is left over from before a loss of power would pass in front of newer frames.

Each record has its own CRC, for whoever reads it alone; the frame's covers all of it, for recovery, where a record of
an older, undone frame may lie behind a newer header. A record's begins from its offset (of which `crc32` takes the low
32 bits), so that right bytes in a wrong place do not pass. A frame's begins from its tail: the offset where the frame
before it ends, which is its own offset but for the first frame in a segment. So none passes that was written behind
another one than it is found behind, as after a skip mark that is left over from before a loss of power.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import crc32

EVENT: Final = 1
SNAPSHOT: Final = 2
ENTRY: Final = 3
TABLE: Final = 4
FLOOR: Final = 5
KINDS: Final = (EVENT, SNAPSHOT, ENTRY, TABLE, FLOOR)

FRAME_HEADER: Final = struct.Struct("<II16sQQQII")
RECORD_HEADER: Final = struct.Struct("<IIQQQQIHH")
_CRC: Final = struct.Struct("<I")
_FRAME_START: Final = struct.Struct("<II")
_FRAME_REST: Final = struct.Struct("<16sQQQII")
_EPOCH: Final = struct.Struct("<I")
_EPOCH_AT: Final = FRAME_HEADER.size - _EPOCH.size
_RECORD_REST: Final = struct.Struct("<IQQQQIHH")
FRAME_HEADER_BYTES: Final = FRAME_HEADER.size
RECORD_HEADER_BYTES: Final = RECORD_HEADER.size
pack_frame_start: Final = _FRAME_START.pack
pack_frame_rest: Final = _FRAME_REST.pack
pack_crc: Final = _CRC.pack
pack_rest: Final = _RECORD_REST.pack
TRUNCATED: Final = struct.Struct("<QQQQ")
"""The payload of a floor."""

COMMIT_ID_BYTES: Final = 16
MAX_KEY_BYTES: Final = 2**16 - 1
SKIP: Final = 2**32 - 1
"""In place of a frame's length: nothing more in this segment, go on in the next."""
SKIP_MARK: Final = _FRAME_START.pack(SKIP, SKIP)
_VOID: Final = 1
"""Added to the length of a void frame."""

PADDING: Final = tuple(bytes(-size & 7) for size in range(8))


class Record(NamedTuple):
    """One record, with what it takes to place it."""

    offset: int
    kind: int
    key: bytes
    sequence: int
    previous: int
    position: int
    timestamp: int
    payload: bytes


class Frame(NamedTuple):
    """A frame without its records; of a void one only offset, length and epoch still mean something."""

    offset: int
    length: int
    commit_id: bytes
    first_position: int
    aggregates: int
    latest: int
    records: int
    epoch: int

    @property
    def end(self) -> int:
        """The offset behind the frame."""
        return self.offset + self.length


def pack_record(
    frame_offset: int,
    offset: int,
    kind: int,
    key: bytes,
    sequence: int,
    previous: int,
    position: int,
    timestamp: int,
    payload: bytes,
) -> bytes:
    """The bytes of a record at its offset, padding included.

    Its fields come one by one, since a `Record` that is made only to be packed costs 0.4 µs.
    """
    key_length = len(key)
    size = RECORD_HEADER_BYTES + key_length + len(payload)
    distance = offset - frame_offset
    rest = pack_rest(size, sequence, previous, position, timestamp, distance, key_length, kind) + key + payload
    return pack_crc(crc32(rest, offset)) + rest + PADDING[size & 7]


def pack_frame(
    tail: int,
    length: int,
    commit_id: bytes,
    first_position: int,
    aggregates: int,
    latest: int,
    records: int,
    epoch: int,
    packed_records: bytes,
) -> bytes:
    """The bytes of a frame with its packed records."""
    rest = pack_frame_rest(commit_id, first_position, aggregates, latest, records, epoch) + packed_records
    return pack_frame_start(length, crc32(rest, tail)) + rest


def void_start(frame: Frame, tail: int) -> bytes:
    """The bytes that a frame begins with once it is void."""
    length = _CRC.pack(frame.length | _VOID)
    return length + _CRC.pack(crc32(length + _EPOCH.pack(frame.epoch), tail))


def frame_is_whole(buffer: bytes, tail: int) -> bool:
    """Whether the buffer, which begins with the frame behind this tail, holds it whole and unharmed, or void."""
    if len(buffer) < FRAME_HEADER.size:
        return False
    length: int
    crc: int
    length, crc = _FRAME_START.unpack_from(buffer)
    if length & _VOID:
        counted = buffer[: _CRC.size] + buffer[_EPOCH_AT : FRAME_HEADER.size]
        return crc32(counted, tail) == crc
    return len(buffer) >= length and crc32(buffer[_FRAME_START.size : length], tail) == crc


def records_are_whole(buffer: bytes, frame: Frame) -> bool:
    """Whether the records of the frame that the buffer begins with are unharmed, each by itself, and fill it."""
    start = FRAME_HEADER.size
    for _ in range(frame.records):
        crc, size, *_ = RECORD_HEADER.unpack_from(buffer.ljust(start + RECORD_HEADER.size, b"\0"), start)
        if size < RECORD_HEADER.size or crc32(buffer[start + _CRC.size : start + size], frame.offset + start) != crc:
            return False
        start += (size + 7) & ~7
    return start == frame.length == len(buffer) > FRAME_HEADER.size


def unpack_frame(buffer: bytes, offset: int) -> Frame:
    """The header that the buffer begins with; a void frame has 0 records."""
    length, _, commit_id, first_position, aggregates, latest, records, epoch = FRAME_HEADER.unpack_from(buffer)
    records = 0 if length & _VOID else records
    return Frame(offset, length & ~_VOID, commit_id, first_position, aggregates, latest, records, epoch)


def unpack_records(buffer: bytes, frame: Frame) -> Iterator[Record]:
    """The records of a frame that the buffer begins with; it was found whole before."""
    start = FRAME_HEADER.size
    for _ in range(frame.records):
        _, size, sequence, previous, position, timestamp, _, key_length, kind = RECORD_HEADER.unpack_from(buffer, start)
        key_end = start + RECORD_HEADER.size + key_length
        key, payload = buffer[start + RECORD_HEADER.size : key_end], buffer[key_end : start + size]
        yield Record(frame.offset + start, kind, key, sequence, previous, position, timestamp, payload)
        start += (size + 7) & ~7


def dead_by(record: Record) -> int:
    """About how many bytes of the log nobody needs any more by a record, as `Draft.dead` counts them."""
    if record.kind == FLOOR:
        return int(TRUNCATED.unpack(record.payload)[3])
    is_replacing = record.previous and record.kind in (SNAPSHOT, ENTRY)
    return (RECORD_HEADER.size + len(record.key) + len(record.payload) + 7) & ~7 if is_replacing else 0
