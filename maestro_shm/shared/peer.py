"""The server's end of one connection: what has come, what is still to go, and how far the handshake is."""

from __future__ import annotations

import socket
import time
from typing import Final

from maestro_shm.shared import handshake, wire

HANDSHAKE_SECONDS: Final = 5.0
MAX_UNSENT_BYTES: Final = 1 << 23
"""A client that does not fetch its replies is dropped beyond this; the longest reply has half of it."""
_RECEIVED_AT_ONCE: Final = 1 << 16


class Peer:
    """One client. Its socket does not block."""

    def __init__(self, connection: socket.socket, key: bytes, message_limit: int) -> None:
        self.socket = connection
        self.is_known = False
        self.deadline = time.monotonic() + HANDSHAKE_SECONDS
        self.unsent = bytearray()
        self._key = key
        self._message_limit = message_limit
        self._inbox = wire.Inbox(handshake.MAX_MESSAGE_BYTES)
        self._greeted = handshake.greeting()
        self.send(wire.frame(self._greeted))

    def receive(self) -> list[bytes]:
        """The requests that have come whole. Raises `OSError`, `EOFError` and `ProtocolError`: drop it then."""
        data = self.socket.recv(_RECEIVED_AT_ONCE)
        if not data:
            raise EOFError
        payloads = self._inbox.feed(data)
        if payloads and not self.is_known:
            self._admit(payloads.pop(0))
        return payloads

    def send(self, data: bytes) -> None:
        """Send now what goes now, keep the rest. Raises `OSError`, and `ProtocolError` when too much is kept."""
        if not self.unsent:
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self.unsent += data
        if len(self.unsent) > MAX_UNSENT_BYTES:
            raise wire.ProtocolError("the client does not fetch its replies")

    def flush(self) -> None:
        """Send what was kept, as far as it goes. Raises `OSError`."""
        del self.unsent[: self.socket.send(self.unsent)]

    def _admit(self, answered: bytes) -> None:
        if not handshake.accepts(self._key, self._greeted, answered):
            raise wire.ProtocolError("a client without the key")
        self.is_known = True
        self._inbox.limit = self._message_limit
        self.send(wire.frame(handshake.confirmation(self._key, self._greeted, answered)))
