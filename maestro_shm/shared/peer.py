"""The server's end of one connection: what has come, what is still to go, and how far the handshake is."""

from __future__ import annotations

import math
import socket
import time
from typing import Final

from maestro_shm.shared import handshake, wire

HANDSHAKE_SECONDS: Final = 5.0
STALLED_SECONDS: Final = 60.0
"""How long a client may take for the rest of a message or to fetch its replies. Nothing is lost by the end of its line:
when it goes on it sends the same commit again."""
MAX_UNSENT_BYTES: Final = 1 << 23
"""A client that does not fetch its replies is dropped beyond this; the longest reply has half of it."""
_RECEIVED_AT_ONCE: Final = 1 << 16


class Peer:
    """One client. Its socket does not block."""

    def __init__(self, connection: socket.socket, key: bytes, message_limit: int) -> None:
        self.socket = connection
        self.is_known = False
        self.deadline = time.monotonic() + HANDSHAKE_SECONDS
        """When it is to be dropped unless it goes on; a client at rest may be so for ever."""
        self.unsent = bytearray()
        self._key = key
        self._message_limit = message_limit
        self.mailbox: int | None = None
        self.asks_by_mail = False
        """The request that it has under way."""
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
        elif self.is_known and (self._inbox.is_within_message or self.deadline != math.inf):
            self._renew_deadline(went_on=bool(payloads))
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
        self._renew_deadline(went_on=False)
        if len(self.unsent) > MAX_UNSENT_BYTES:
            raise wire.ProtocolError("the client does not fetch its replies")

    def flush(self) -> None:
        """Send what was kept, as far as it goes. Raises `OSError`."""
        del self.unsent[: self.socket.send(self.unsent)]
        self._renew_deadline(went_on=not self.unsent)

    def _admit(self, answered: bytes) -> None:
        if not handshake.accepts(self._key, self._greeted, answered):
            raise wire.ProtocolError("a client without the key")
        self.is_known = True
        self.deadline = math.inf
        self._inbox.limit = self._message_limit
        self.send(wire.frame(handshake.confirmation(self._key, self._greeted, answered)))
        self._renew_deadline(went_on=True)

    def _renew_deadline(self, *, went_on: bool) -> None:
        """For what is under way there is one deadline, however slowly it goes on; what follows has a new one."""
        if not self.is_known:
            return
        if not self.unsent and not self._inbox.is_within_message:
            self.deadline = math.inf
        elif went_on or self.deadline == math.inf:
            self.deadline = time.monotonic() + STALLED_SECONDS
