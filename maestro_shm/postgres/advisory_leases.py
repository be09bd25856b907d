"""Leases between machines: advisory locks of one session, which the server takes back when its connection ends."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final
from zlib import crc32

import psycopg

from maestro_shm.errors import StoreClosedError, StoreUnavailableError
from maestro_shm.leases import Leases, LeasesLostError
from maestro_shm.postgres import faults
from maestro_shm.postgres.connections import Connections, Row
from maestro_shm.postgres.pool import Connection

_TAKEN: Final = b"""SELECT objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid::bigint = %s AND objid::bigint BETWEEN %s AND %s
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()
ORDER BY objid::bigint"""

_TAKE: Final = b"SELECT pg_try_advisory_lock(%s, %s)"
_GRACE: Final = 1.0
"""Seconds in which a server is to notice the end of a session, before another is taken for the holder."""
_PAUSE: Final = 0.05


class AdvisoryLeases(Leases):
    """The leases of one holder, by a connection of its own."""

    def __init__(self, connections: Connections, name: str) -> None:
        """`name` is one of all in the database."""
        self._connections = connections
        self._class = crc32(name.encode())
        self._held: set[int] = set()
        self._process = os.getpid()
        self._connection: Connection | None = None
        self._closed = False
        self._hang_up: Callable[[], object] = _nothing

    def take(self, number: int) -> bool:
        if number in self._held:
            self._rows(b"SELECT 1", ())  # whether the connection still has it
        if number in self._held:
            return True
        ((is_ours,),) = self._rows(_TAKE, (self._signed_class, number))
        if is_ours:
            self._held.add(number)
        return bool(is_ours)

    def give_back(self, number: int) -> None:
        if number in self._held:
            self._held.discard(number)
            self._rows(b"SELECT pg_advisory_unlock(%s, %s)", (self._signed_class, number))

    def taken_by_others(self, start: int, stop: int) -> list[int]:
        return [number for (number,) in self._rows(_TAKEN, (self._class, start, stop - 1))]

    def close(self) -> None:
        self._held.clear()
        self._closed = True
        self._hang_up()

    @property
    def _signed_class(self) -> int:
        return self._class - (1 << 32) if self._class >= 1 << 31 else self._class

    def _rows(self, statement: bytes, parameters: Sequence[Any]) -> list[Row]:
        deadline = time.monotonic() + self._connections.timeout
        while True:
            try:
                return self._connected(deadline).execute(statement, parameters).fetchall()
            except psycopg.Error as error:
                if not faults.is_transient(error) or time.monotonic() >= deadline:
                    reason = f"leases cannot be had: {self._connections.reason(error)}"
                    raise StoreUnavailableError(self._connections.location, reason) from None
                self._hang_up()
                time.sleep(_PAUSE)

    def _connected(self, deadline: float) -> Connection:
        """The connection, with all leases that were held; a forked child has none of its parent's."""
        if self._closed:
            raise StoreClosedError(self._connections.location)
        if self._process != os.getpid():
            self._process, self._connection = os.getpid(), None
            self._held.clear()
        if self._connection is None or self._connection.closed:
            self._connection = None
            connection = self._connections.connect(deadline)
            hang_up = weakref.finalize(self, _close, connection, os.getpid())
            try:
                self._take_again(connection, deadline)
            except BaseException:
                hang_up()
                raise
            self._connection, self._hang_up = connection, hang_up
        self._connection.deadline = deadline
        return self._connection

    def _take_again(self, connection: Connection, deadline: float) -> None:
        """All that were held, or none: another may have taken one meanwhile.

        The server may not know yet that the session before is over, which has them for so long.
        """
        connection.deadline = deadline
        patience = time.monotonic() + _GRACE
        for number in sorted(self._held):
            while connection.execute(_TAKE, (self._signed_class, number)).fetchone() != (True,):
                if time.monotonic() >= min(deadline, patience):
                    self._held.clear()
                    raise LeasesLostError(self._connections.location, "another took leases while the connection broke")
                time.sleep(_PAUSE)


def _nothing() -> None: ...


def _close(connection: Connection, process: int) -> None:
    if os.getpid() == process:
        connection.close()
