"""Clients that are silent: some before the handshake, some after it, some within a message; one fetches no replies."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Final

from processes import wait_until

from campaign.hostile.conversation import known
from campaign.hostile.served import Served
from maestro_shm.shared import wire

_REFUSED: Final = wire.pack([1, "journal", "commit_snapshot", []])
"""A short request with a longer reply."""
_PATIENCE: Final = 20.0
_IN_VAIN: Final = 20
"""After so many attempts to send, some milliseconds apart, it is clear that nobody reads."""


@contextlib.contextmanager
def silent_crowd(served: Served, count: int) -> Iterator[None]:
    """So many silent clients, and one that only sends."""
    with contextlib.ExitStack() as stack:
        for kind in islice(cycle((stranger, at_rest, _half_way)), count):
            stack.enter_context(kind(served))
        stack.enter_context(_deaf(served))
        yield


def is_hung_up(connection: socket.socket) -> bool:
    """Whether the server has ended a connection; what it said before is passed over."""
    connection.settimeout(0)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def stranger(served: Served) -> socket.socket:
    """One that has not even said who it is."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_PATIENCE)
        connection.connect(served.address)
    except BaseException:
        connection.close()
        raise
    return connection


def at_rest(served: Served, patience: float = _PATIENCE) -> socket.socket:
    """One that has the key, and asks nothing."""
    return known(served.address, served.key, patience).take_over()


def _half_way(served: Served) -> socket.socket:
    connection = at_rest(served)
    connection.sendall(wire.frame(bytes(100_000))[:50_000])
    return connection


def _deaf(served: Served) -> socket.socket:
    """Sends until the server, which cannot get rid of its replies, reads no more."""
    connection = at_rest(served)
    connection.settimeout(0)
    in_vain = 0

    def is_full() -> bool:
        nonlocal in_vain
        try:
            while True:
                connection.send(_REFUSED * 1000)
                in_vain = 0
        except BlockingIOError:
            in_vain += 1
        return in_vain > _IN_VAIN

    wait_until(is_full, "the server reads no more from one that fetches no replies")
    return connection
