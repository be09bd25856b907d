"""The door of a server: who is let in, and what becomes of the others."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from typing import Final

from maestro_shm.shared.peer import Peer
from maestro_shm.shared.transport import user_of

_MOST_KEPT_FREE: Final = 32
"""Descriptors that no client gets: a log that grows needs some, or nobody could commit any more."""


class Door:
    """At the socket that a server listens at."""

    def __init__(self, listening: socket.socket, key: bytes, message_limit: int) -> None:
        self._listening = listening
        self._key = key
        self._message_limit = message_limit
        self._spare_descriptor: int | None = os.open(os.devnull, os.O_RDONLY)

    def admit(self) -> Peer | None:
        """The next client, greeted; None where there is none, or it may not come in."""
        try:
            connection, _ = self._listening.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return None
        connection.settimeout(0)
        if user_of(connection) not in (None, 0, os.geteuid()) or _is_among_the_last(connection.fileno()):
            connection.close()
            return None
        try:
            return Peer(connection, self._key, self._message_limit)
        except OSError:  # it left before it was greeted
            connection.close()
            return None

    def close(self) -> None:
        """Let go of what is kept for those who are turned away."""
        if self._spare_descriptor is not None:
            os.close(self._spare_descriptor)

    def _turn_away(self) -> None:
        """Out of descriptors: give up the spare one to take the connection and close it, or it would wake us always."""
        if self._spare_descriptor is not None:
            os.close(self._spare_descriptor)
            self._spare_descriptor = None
        with contextlib.suppress(OSError):
            self._listening.accept()[0].close()
        with contextlib.suppress(OSError):
            self._spare_descriptor = os.open(os.devnull, os.O_RDONLY)


def _is_among_the_last(descriptor: int) -> bool:
    """Whether the descriptors run out. Each new one is the lowest that is free, so its number tells."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and descriptor >= limit - min(_MOST_KEPT_FREE, limit // 8)
