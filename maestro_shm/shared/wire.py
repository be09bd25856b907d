"""Messages on the socket: 4 bytes of length, big-endian, and that many bytes; msgpack in them after the handshake.

    request   [number, object, method, arguments]    object: "journal", or None for the server itself
    reply     [number, True, result] or [number, False, error's name, error's arguments]

Pure: bytes in, bytes out. Nothing here can build an object of a class that the other side names, but for the errors of
this package.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from maestro_shm import errors

METHODS: Final = ("commit_events", "commit_snapshot", "reset")
"""What a client may call of the journal."""
SERVER_METHODS: Final = ("destroy", "stop")
"""What a client may call of the server itself."""

LENGTH_BYTES: Final = 4
OVERHEAD: Final = 1024
"""Bytes that a message may have beyond the size cap of a commit."""
_MAX_ITEMS: Final = 1 << 17

_ERRORS: Final = {
    kind.__name__: kind
    for kind in (
        errors.StoreError,
        errors.SequenceConflictError,
        errors.InvalidEventError,
        errors.StoreUnavailableError,
        errors.StoreClosedError,
        errors.StoreFullError,
        errors.CorruptLogError,
    )
}


class ProtocolError(Exception):
    """The other side does not keep the protocol; the connection is of no more use."""


def frame(payload: bytes) -> bytes:
    """A payload as it goes over the socket."""
    return len(payload).to_bytes(LENGTH_BYTES) + payload


def pack(message: list[Any]) -> bytes:
    """A message as it goes over the socket."""
    return frame(msgpack.packb(message))


def unpack(payload: bytes) -> tuple[Any, ...]:
    """The message in a payload. Raises `ProtocolError` for bytes that are none."""
    try:
        message = msgpack.unpackb(payload, use_list=False, max_array_len=_MAX_ITEMS, max_map_len=0, max_ext_len=0)
    except Exception as error:  # noqa: BLE001 (hostile bytes make the unpacker raise errors of many types)
        raise ProtocolError(f"not a message: {error}") from None
    if type(message) is not tuple:
        raise ProtocolError(f"not a message but a {type(message).__name__}")
    return message


def pack_error(number: object, error: errors.StoreError) -> bytes:
    """The reply that carries an error."""
    name = type(error).__name__
    if name not in _ERRORS:
        return pack([number, False, errors.StoreError.__name__, [f"{name}: {error}"]])
    return pack([number, False, name, list(error.args)])


def result_of(reply: tuple[Any, ...]) -> Any:
    """What a reply brings. Raises the error that it carries, and `ProtocolError`."""
    match reply:
        case (_, True, result):
            return result
        case (_, False, str(name), tuple(args)):
            raise _unpack_error(name, args)
    raise ProtocolError(f"not a reply: {reply!r}")


class Inbox:
    """Bytes as they arrive, payloads as they are complete."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that these bytes complete. Raises `ProtocolError` for one over the limit."""
        buffer = self._buffer
        buffer += data
        payloads = []
        start = 0
        while len(buffer) - start >= LENGTH_BYTES:
            end = start + LENGTH_BYTES + int.from_bytes(buffer[start : start + LENGTH_BYTES])
            if end - start > self.limit + LENGTH_BYTES:
                raise ProtocolError(f"a message of {end - start:,} bytes, over the limit of {self.limit:,}")
            if len(buffer) < end:
                break
            payloads.append(bytes(buffer[start + LENGTH_BYTES : end]))
            start = end
        del buffer[:start]
        return payloads


def _unpack_error(name: str, args: tuple[Any, ...]) -> errors.StoreError:
    try:
        return _ERRORS[name](*args)
    except (KeyError, TypeError):
        raise ProtocolError(f"not an error of this package: {name!r}") from None
