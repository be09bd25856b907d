"""The commit of one event about which nothing is unusual, as a message: fields in fixed places, and no msgpack.

    request   0xC1 | 0 | key length u16 | 4 zero bytes | sequence u64 | number u64 | commit id 16 bytes | key | payload
    reply     0xC1 | 1 | 6 zero bytes | number of the request u64 | position u64 | timestamp u64 | offset in the log u64

Numbers are little-endian, which Python packs faster where the machine's own are so. The key is an aggregate id in
UTF-8. No message of msgpack begins with 0xC1.

Such commits are most of all, and a tenth of their time went into packing and unpacking them, and finding out what they
are. What a request says can as well be said in msgpack, and `wire.unpack` makes the same of both, so that whoever does
not care need not. A reply is of this form only where all went well.
"""

from __future__ import annotations

import struct
from typing import Any, Final

REQUEST: Final = 0x00C1
REPLY: Final = 0x01C1
REQUEST_MARK: Final = REQUEST.to_bytes(2, "little")
_REQUEST: Final = struct.Struct("<HHxxxxQQ16s")
_REPLY: Final = struct.Struct("<HxxxxxxQQQQ")

pack_request: Final = _REQUEST.pack
"""What a request begins with, of `REQUEST`, key length, sequence, number and commit id."""
unpack_request: Final = _REQUEST.unpack_from
"""The same back."""
pack_reply: Final = _REPLY.pack
"""A reply, of `REPLY`, number, position, timestamp and offset."""
unpack_reply: Final = _REPLY.unpack
"""The same back."""

REPLY_BYTES: Final = _REPLY.size
KEY_AT: Final = _REQUEST.size


def unpack(request: bytes) -> tuple[Any, ...]:
    """What the request says, as a message says it that was packed by msgpack. Raises `ValueError` or `struct.error`."""
    _, key_length, sequence, number, commit_id = unpack_request(request)
    key_end = KEY_AT + key_length
    if len(request) < key_end:
        raise ValueError(f"{len(request):,} bytes, where a key ends at {key_end:,}")
    row = request[KEY_AT:key_end].decode(), sequence, None, request[key_end:]
    return number, "journal", "commit_events", (commit_id, (row,), False)
