"""The connections of one handle: a pool in each process that uses it, and calls that outlive a broken one.

A forked child must not use its parent's connections: it has a pool of its own.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from maestro_shm.errors import StoreClosedError, StoreUnavailableError
from maestro_shm.postgres import faults
from maestro_shm.postgres.location import shown_location, without_secrets
from maestro_shm.postgres.migration import VERSION, newer, older, version_of
from maestro_shm.postgres.pool import Connection, Pool
from maestro_shm.turns import NoTurnError

MOST_CONNECTIONS: Final = 16
"""In one process. Threads beyond that take turns: a server's connections are few, and commits go one by one anyway."""
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
_SHORTEST_CONNECT: Final = 2
"""Seconds; libpq takes less for as much."""
_SETTINGS: Final[dict[str, Any]] = {"autocommit": True, "application_name": "maestro_shm", "keepalives_idle": 30}
_CONFIGURE: Final = b"""SELECT set_config('statement_timeout', %s, false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false)"""
"""A client whose machine is gone says nothing, and its session would keep its leases for hours."""

Row = tuple[Any, ...]
Parameters = Sequence[object] | Mapping[str, object]


class Connections:
    """Threads may share it, and forks go on with it."""

    def __init__(self, url: str, timeout: float) -> None:
        self.location: Final = shown_location(url)
        self.timeout: Final = timeout
        """Seconds that bound each call."""
        self._url = url
        self._settings = {**_SETTINGS, "tcp_user_timeout": _milliseconds(timeout)}
        self._pools: dict[int, Pool] = {}
        """By process. A parent's is kept in a child, and left alone there."""
        self._closed = False
        weakref.finalize(self, _close_pool, self._pools)

    def check(self) -> None:
        """Raise `StoreUnavailableError` if the database cannot be reached or written to, or its schema is another."""
        deadline = time.monotonic() + self.timeout
        pause = _FIRST_PAUSE
        while True:
            try:
                self._check_once(deadline)
            except psycopg.Error as error:
                if not faults.is_transient(error) or time.monotonic() + pause >= deadline:
                    raise self._unavailable(error) from None
            else:
                return
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def connect(self, deadline: float) -> Connection:
        """One connection, ready for use, by a deadline. Raises what the driver does, and `StoreClosedError`."""
        self._check_open()
        connection = Connection.connect(self._url, **self._settings, connect_timeout=self._connect_seconds(deadline))
        try:
            connection.deadline = deadline
            self._configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def reason(self, error: psycopg.Error) -> str:
        """What the database said, in one line, without what nobody is to see."""
        return without_secrets(faults.reason(error), self._url)

    def rows(self, statement: str, parameters: Parameters = ()) -> list[Row]:
        """The result of a statement that changes nothing. Raises `StoreUnavailableError`."""
        return self.call(statement, lambda _: parameters)

    def call(self, statement: str, parameters: Callable[[bool], Parameters], outcome: str = "") -> list[Row]:
        """The result of a statement, whose parameters are made for each try, from whether it was sent before.

        It is tried until it succeeds or is refused, or the time is over: past broken connections, and servers that
        restart or give way to another. Raises `StoreUnavailableError`; to what it says `outcome` is added where nobody
        knows what became of the last try.
        """
        deadline = time.monotonic() + self.timeout
        pause = _FIRST_PAUSE
        was_sent = False
        while True:
            is_again = was_sent
            try:
                with self._pool().connection(self.connect, deadline) as connection:
                    was_sent = True
                    return connection.execute(statement.encode(), parameters(is_again), binary=True).fetchall()
            except NoTurnError:
                self._check_open()
                reason = f"none of {MOST_CONNECTIONS} connections became free within {self.timeout:g} s"
                raise StoreUnavailableError(self.location, reason + (outcome if is_again else "")) from None
            except psycopg.Error as error:
                if faults.lacks_tables(error):
                    self.check()
                if not faults.is_transient(error):  # nothing came of this try, but maybe of one before it
                    raise self._unavailable(error, outcome if is_again else "") from None
                if time.monotonic() + pause >= deadline:
                    raise self._unavailable(error, outcome if was_sent else "") from None
                self._pool().forget()
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def close(self) -> None:
        """Hang up."""
        self._closed = True
        _close_pool(self._pools)

    def _pool(self) -> Pool:
        self._check_open()
        pool = self._pools.get(os.getpid()) or self._pools.setdefault(os.getpid(), Pool(MOST_CONNECTIONS))
        if self._closed:  # by another thread, which did not see this one
            self.close()
            self._check_open()
        return pool

    def _connect_seconds(self, deadline: float) -> int:
        """How long to wait for one host. One that is gone does not even refuse, and must leave time for the others."""
        given = conninfo_to_dict(self._url)
        hosts = f"{given.get('host') or given.get('hostaddr') or ''}".count(",") + 1
        left = deadline - time.monotonic()
        return max(_SHORTEST_CONNECT, int(min(left if hosts == 1 else left / (2 * hosts), 2**31 - 1)))

    def _configure(self, connection: psycopg.Connection) -> None:
        connection.execute(_CONFIGURE, (f"{_milliseconds(self.timeout)}",))

    def _check_once(self, deadline: float) -> None:
        with self.connect(deadline) as connection:
            version = version_of(connection)
            row = connection.execute(b"SELECT current_setting('transaction_read_only')").fetchone()
        if version != VERSION:
            reason = newer(version) if version > VERSION else older(version, self.location)
            raise StoreUnavailableError(self.location, reason)
        if row == ("on",):
            raise StoreUnavailableError(self.location, "it can only be read from; connect to the primary server")

    def _unavailable(self, error: psycopg.Error, outcome: str = "") -> StoreUnavailableError:
        return StoreUnavailableError(self.location, self.reason(error) + outcome)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self.location)


def _close_pool(pools: dict[int, Pool]) -> None:
    """That of this process."""
    pool = pools.pop(os.getpid(), None)
    if pool is not None:
        pool.close()


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), 2**31 - 1)
