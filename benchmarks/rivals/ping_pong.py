"""Bytes as long as an event's there, a short answer back: the least that two Python processes can pay over a socket.

Nothing is packed, checked or kept. Both sides block, as a plain program would.
"""

from __future__ import annotations

import socket
from functools import partial
from multiprocessing.connection import Connection

from benchmarks.child import Child
from benchmarks.rivals.rival import Contender

_REQUEST = b"?" * 261
_REPLY = b"!" * 19


class PingPong(Contender):
    name = "bare socket ping-pong"

    def open(self) -> None:
        address = str(self.directory / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            self._child = Child(partial(_answer, listener))
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)

    def close(self) -> None:
        self._socket.close()
        self._child.close()

    def commit(self, aggregate_id: str, first: int, count: int) -> None:  # noqa: ARG002 (the bytes are all the same)
        self._socket.sendall(_REQUEST)
        self._socket.recv(4096)


def _answer(listener: socket.socket, line: Connection) -> None:  # noqa: ARG001 (its owner ends it)
    client, _ = listener.accept()
    while client.recv(4096):
        client.sendall(_REPLY)
