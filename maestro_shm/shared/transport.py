"""The socket between a worker and its server, and nothing of what is said on it but the handshake.

It is registered with `multiprocessing.managers` as a third serializer beside pickle and XML-RPC: nothing that comes
over it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hmac
import multiprocessing.managers
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from maestro_shm.shared import handshake, wire
from maestro_shm.shared.watch import Watch

SERIALIZER: Final = "maestro"
_RECEIVED_AT_ONCE: Final = 1 << 16
_WATCH: Final = 60e-6
"""Seconds that a client watches for its reply before it sleeps."""
_LONGEST_ADDRESS: Final = 100
"""A Unix socket's path may have 107 bytes on Linux, 103 on macOS."""


class Listener:
    """The server's end, as `multiprocessing.managers.Server` makes it."""

    def __init__(self, address: str, backlog: int = 128) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(address) as short:
                self.socket.bind(short)
            Path(address).chmod(0o600)
            self.socket.listen(max(backlog, 128))
            self.socket.settimeout(0)
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """Let nobody in any more."""
        self.socket.close()
        Path(self.address).unlink(missing_ok=True)


class Line:
    """A worker's end: one connection, one request at a time."""

    def __init__(self, address: str, key: bytes, timeout: float) -> None:
        """Connect and shake hands within `timeout` seconds; the same bounds each later call.

        Raises `OSError` when nobody answers or in time, `EOFError` when the server hangs up, and `ProtocolError`.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._watch = Watch(_WATCH)
        try:
            self._set_timeout(timeout)
            with _short(address) as short:
                self._socket.connect(short)
            self._inbox = wire.Inbox(handshake.MAX_MESSAGE_BYTES)
            self._shake_hands(key)
            self._inbox.limit = 2**32
        except BaseException:
            self.close()
            raise

    def exchange(self, message: bytes) -> bytes:
        """Send a packed message, wait for the payload of the reply. Raises `OSError`, `EOFError`, `ProtocolError`."""
        self._socket.sendall(message)
        return self._receive()

    def ask(self, ident: str | None, method: str) -> Any:
        """The result of a call without arguments. Raises as `exchange`, and the error that it was answered with."""
        return wire.result_of(wire.unpack(self.exchange(wire.pack([0, ident, method, []]))))

    def wait_for_end(self) -> None:
        """Wait until the server hangs up, or the timeout has passed."""
        with contextlib.suppress(OSError):
            while self._socket.recv(_RECEIVED_AT_ONCE):
                pass

    def close(self) -> None:
        """Hang up; in a forked child this leaves the parent's connection alone."""
        self._socket.close()

    def __del__(self) -> None:
        # A line may end with a thread or a handle that nobody closed; that is no reason for a ResourceWarning.
        self.close()

    def _receive(self) -> bytes:
        while True:
            data = self._watch.until(self._look) or self._socket.recv(_RECEIVED_AT_ONCE)
            if not data:
                raise EOFError("the server hung up")
            if payloads := self._inbox.feed(data):
                return payloads[0]

    def _look(self) -> bytes | None:
        try:
            return self._socket.recv(_RECEIVED_AT_ONCE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _shake_hands(self, key: bytes) -> None:
        greeted = self._receive()
        if not handshake.is_greeting(greeted):
            raise wire.ProtocolError("the server speaks another protocol; it may be of another version of maestro_shm")
        answered = handshake.answer(key, greeted)
        self._socket.sendall(wire.frame(answered))
        if not hmac.compare_digest(self._receive(), handshake.confirmation(key, greeted, answered)):
            raise wire.ProtocolError("the server does not know the store's key")

    def _set_timeout(self, timeout: float) -> None:
        # In the kernel and not by settimeout(), which costs a poll() before each recv().
        seconds = max(timeout, 0.001)
        value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def user_of(connection: socket.socket) -> int | None:
    """The user id of the process at the other end, or None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):  # pragma: no cover (macOS: the directory's mode is the guard)
        return None
    credentials = struct.Struct("3i")
    _, user, _ = credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return int(user)


def connect(address: str, authkey: bytes) -> Line:
    """A line with the usual patience, as `multiprocessing.managers` makes one."""
    return Line(address, authkey, timeout=30.0)


@contextlib.contextmanager
def _short(address: str) -> Iterator[str]:
    """A name of the address that is short enough for the kernel."""
    path = Path(address)
    if len(os.fsencode(address)) <= _LONGEST_ADDRESS:
        yield address
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


multiprocessing.managers.listener_client[SERIALIZER] = (Listener, connect)  # type: ignore[attr-defined] # not in typeshed
