"""The connections of one handle: a pool in each process that uses it, and calls that outlive a broken one.

A forked child must not use its parent's connections, nor its pool, whose threads it has not: it has a pool of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import psycopg
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from maestro_shm.errors import StoreClosedError, StoreUnavailableError
from maestro_shm.postgres import faults
from maestro_shm.postgres.location import shown_location
from maestro_shm.postgres.migration import VERSION, newer, older, version_of

MOST_CONNECTIONS: Final = 16
"""In one process. Threads beyond that take turns: a server's connections are few, and commits go one by one anyway."""
_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.5
_CLOSE_SECONDS: Final = 5.0
_SETTINGS: Final[dict[str, Any]] = {"autocommit": True, "application_name": "maestro_shm", "keepalives_idle": 30}

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
        self._pools: dict[int, ConnectionPool] = {}
        """By process. A parent's are kept, lest their end be tried in a child, where their threads are not."""
        self._closed = False

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

    def connect(self, deadline: float) -> psycopg.Connection:
        """A connection of its own, ready for use, by a deadline. Raises what the driver does."""
        seconds = max(2, int(deadline - time.monotonic()))  # libpq takes anything below two seconds for two
        connection = psycopg.connect(self._url, **self._settings, connect_timeout=seconds)
        try:
            self._configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection

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
            try:
                pool = self._pool()
                connection = pool.getconn(max(0.001, deadline - time.monotonic()))
                try:
                    is_again, was_sent = was_sent, True
                    return connection.execute(statement.encode(), parameters(is_again), binary=True).fetchall()
                finally:
                    pool.putconn(connection)
            except PoolTimeout:
                self._explain(outcome if was_sent else "")
            except PoolClosed:
                self._check_open()
            except psycopg.Error as error:
                if faults.lacks_tables(error):
                    self.check()
                if not faults.is_transient(error):
                    raise self._unavailable(error) from None
                if time.monotonic() + pause >= deadline:
                    raise self._unavailable(error, outcome) from None
                self._drop_broken()
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def close(self) -> None:
        """Hang up."""
        self._closed = True
        pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close(_CLOSE_SECONDS)

    def _pool(self) -> ConnectionPool:
        self._check_open()
        known = self._pools.get(os.getpid())
        if known is not None:
            return known
        fresh = ConnectionPool(
            self._url,
            kwargs=self._settings,
            min_size=0,
            max_size=MOST_CONNECTIONS,
            num_workers=1,
            configure=self._configure,
            open=True,
        )
        used = self._pools.setdefault(os.getpid(), fresh)
        if used is not fresh:  # another thread was faster
            fresh.close(_CLOSE_SECONDS)
        elif self._closed:  # by another thread, which did not see this one
            self.close()
            self._check_open()
        return used

    def _configure(self, connection: psycopg.Connection) -> None:
        connection.execute(
            b"SELECT set_config('statement_timeout', %s, false), "
            b"set_config('default_transaction_isolation', 'read committed', false)",
            (f"{_milliseconds(self.timeout)}",),
        )

    def _check_once(self, deadline: float) -> None:
        with self.connect(deadline) as connection:
            version = version_of(connection)
            row = connection.execute(b"SELECT current_setting('transaction_read_only')").fetchone()
        if version != VERSION:
            reason = newer(version) if version > VERSION else older(version, self.location)
            raise StoreUnavailableError(self.location, reason)
        if row == ("on",):
            raise StoreUnavailableError(self.location, "it can only be read from; connect to the primary server")

    def _drop_broken(self) -> None:
        """When one connection is broken, those at rest are most likely, too."""
        pool = self._pools.get(os.getpid())
        if pool is not None:
            pool.check()

    def _explain(self, outcome: str) -> NoReturn:
        """No connection was to be had in time: say why."""
        self._check_open()
        try:
            self.connect(0).close()
        except psycopg.Error as error:
            raise self._unavailable(error, outcome) from None
        reason = f"none of {MOST_CONNECTIONS} connections became free within {self.timeout:g} s"
        raise StoreUnavailableError(self.location, reason + outcome)

    def _unavailable(self, error: psycopg.Error, outcome: str = "") -> StoreUnavailableError:
        return StoreUnavailableError(self.location, faults.reason(error) + outcome)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self.location)


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), 2**31 - 1)
