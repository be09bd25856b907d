"""Messages on the socket: 4 bytes of length, big-endian, and that many bytes; msgpack in them after the handshake.

(Or, for the plainest of commits, what `plain_commit` says.)

    request   [number, object, method, arguments]    object: "journal", or None for the server itself
    reply     [number, True, result] or [number, False, error's name, error's arguments]

Pure: bytes in, bytes out. Nothing here can build an object of a class that the other side names, but for the errors of
this package.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack

from maestro_shm import errors
from maestro_shm.errors import shown
from maestro_shm.packers import Packers
from maestro_shm.shared import plain_commit

METHODS: Final = ("commit_events", "commit", "commit_snapshot", "truncate", "reset", "adopt", "goes_over")
"""What a client may call of the journal."""
SERVER_METHODS: Final = ("destroy", "stop", "mailbox", "commit_each", "wait", "wait_for_commit", "turn", "give_back")
"""What a client may call of the server itself."""

_LENGTH: Final = struct.Struct(">I")
LENGTH_BYTES: Final = _LENGTH.size
OVERHEAD: Final = 1024
"""Bytes that a message may have beyond the size cap of a commit."""
SMALL: Final = 1024
"""Up to so many bytes the arrays that a payload announces, nested as deep as it goes, take 3 MB at most."""
_UNPACKING: Final = (
    msgpack.UnpackException,
    struct.error,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    MemoryError,
)
"""What hostile bytes make the unpacker raise. Not every exception: a signal's handler may raise one here, too."""

_ERRORS: Final = {
    kind.__name__: kind
    for kind in (
        errors.StoreError,
        errors.SequenceConflictError,
        errors.StaleReadError,
        errors.TableConflictError,
        errors.InvalidEventError,
        errors.InvalidEntryError,
        errors.TruncationError,
        errors.StoreUnavailableError,
        errors.StoreClosedError,
        errors.StoreFullError,
        errors.CorruptLogError,
    )
}


_UNICODE_ERRORS: Final = "surrogateescape"
"""Errors name files, and the name of a file need not be valid Unicode."""
_packers: Final = Packers(unicode_errors=_UNICODE_ERRORS)


RING: Final = _LENGTH.pack(0)
"""An empty message, of which nothing comes but that who sleeps wakes up."""


class ProtocolError(Exception):
    """The other side does not keep the protocol; the connection is of no more use."""


def frame(payload: bytes) -> bytes:
    """A payload as it goes over the socket."""
    return _LENGTH.pack(len(payload)) + payload


def payload_of(message: list[Any]) -> bytes:
    """The bytes of a message."""
    return _packers.pack(message)


def pack(message: list[Any]) -> bytes:
    """A message as it goes over the socket."""
    return frame(payload_of(message))


def unpack(payload: bytes) -> tuple[Any, ...]:
    """The message in a payload. Raises `ProtocolError` for bytes that are none."""
    try:
        if payload.startswith(plain_commit.REQUEST_MARK):
            return plain_commit.unpack(payload)
        if len(payload) > SMALL:
            _check_whole(payload)
        message = msgpack.unpackb(payload, use_list=False, unicode_errors=_UNICODE_ERRORS, max_map_len=0, max_ext_len=0)
    except _UNPACKING as error:
        raise ProtocolError(f"not a message: {error}") from None
    if type(message) is not tuple:
        raise ProtocolError(f"not a message but a {type(message).__name__}")
    return message


def refusal(number: object, error: errors.StoreError) -> list[Any]:
    """The reply that carries an error, or the nearest of its base classes that the other side knows."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind in _ERRORS.values())
    return [number, False, name, list(error.args)]


def result_of(reply: tuple[Any, ...]) -> Any:
    """What a reply brings. Raises the error that it carries, and `ProtocolError`."""
    if len(reply) == 3 and reply[1] is True:
        return reply[2]
    if len(reply) == 4 and type(reply[3]) is tuple:
        raise _unpack_error(reply[2], reply[3])
    raise ProtocolError(f"not a reply: {shown(reply)}")


class Inbox:
    """Bytes as they arrive, payloads as they are complete."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: list[bytes] = []
        self._missing = 0

    @property
    def is_within_message(self) -> bool:
        """Whether a part of a message has come, and its rest has not."""
        return bool(self._parts)

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that these bytes complete. Raises `ProtocolError` for one over the limit."""
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._parts)
        payloads = []
        start = 0
        while len(data) - start >= LENGTH_BYTES:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > self.limit:
                raise ProtocolError(f"a message of {length:,} bytes, over the limit of {self.limit:,}")
            end = start + LENGTH_BYTES + length
            if len(data) < end:
                self._missing = end - len(data)
                break
            payloads.append(data[start + LENGTH_BYTES : end])
            start = end
        else:
            self._missing = LENGTH_BYTES - (len(data) - start)
        self._parts = [data[start:]] if start < len(data) else []
        return payloads


def _check_whole(payload: bytes) -> None:
    """Raise what msgpack raises if the payload ends before all that it announces has come.

    msgpack makes room for an array when it is announced (before its version 1.2 for all of it), and a thousand nested
    ones of half a million items each, 5 kB, took 4 GB before it was seen that nothing follows. To skip makes no room.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=len(payload))
    unpacker.feed(payload)
    unpacker.skip()


def _unpack_error(name: str, args: tuple[Any, ...]) -> errors.StoreError:
    try:
        return _ERRORS[name](*args)
    except (KeyError, TypeError):
        raise ProtocolError(f"not an error of this package: {shown(name)}") from None
