"""Who waits for commits in this process, and the one connection that tells them, by LISTEN and NOTIFY.

A thread has it, from the first wait to the end of the handle. What it has heard last is kept, and it listens before it
looks, so that nobody misses what comes between a look and a wait. After each break it listens and looks again. A
connection may die without a word (a machine that is gone, a firewall that forgets), so it is asked for a sign of life
where nothing was heard for a while.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

import psycopg

from maestro_shm.errors import StoreClosedError, StoreUnavailableError
from maestro_shm.postgres import faults
from maestro_shm.postgres.connections import Connections
from maestro_shm.postgres.pool import Connection
from maestro_shm.vigil import Vigil

HEARTBEAT_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_JOIN_SECONDS: Final = 5.0

Head = tuple[int, int, int]
"""Incarnation, last position, and number of the last commit."""


class Listener:
    """Of one handle in one process."""

    def __init__(self, connections: Connections, channel: str) -> None:
        self.process: Final = os.getpid()
        self.head: Head = (0, 0, 0)
        """What was heard last."""
        self._connections = connections
        self._channel = channel
        self._bells: set[SimpleQueue[None]] = set()
        self._is_over = False
        self._fault: str | None = None
        """Why nothing is heard, if that is so."""
        self._near, self._far = socket.socketpair()
        self._is_listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maestro_shm listener", daemon=True)
        self._thread.start()

    def wait_until(self, is_there: Callable[[Head], bool], deadline: float, vigil: Vigil) -> None:
        """Return when that holds of what was heard, or at the deadline, or when the vigil or the listener is over.

        Raises `StoreUnavailableError` when the database cannot be reached for as long as a call may take.
        """
        bell: SimpleQueue[None] = SimpleQueue()
        self._bells.add(bell)
        try:
            with vigil.woken_by(lambda: bell.put(None)):
                self._wait(bell, lambda: is_there(self.head), deadline, vigil)
        finally:
            self._bells.discard(bell)

    def close(self) -> None:
        """End the thread, and every wait."""
        self._is_over = True
        if self.process != os.getpid():  # a fork's copy: the thread is its parent's
            self._near.close()
            self._far.close()
            return
        with contextlib.suppress(OSError):
            self._near.send(b"!")
        self._ring()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_SECONDS)

    def _wait(self, bell: SimpleQueue[None], is_there: Callable[[], bool], deadline: float, vigil: Vigil) -> None:
        while not (vigil.is_over or self._is_over):
            if self._is_listening.is_set() and is_there():
                return
            if (fault := self._fault) is not None:
                raise StoreUnavailableError(self._connections.location, fault)
            if (seconds := deadline - time.monotonic()) <= 0:
                return
            with contextlib.suppress(Empty):
                bell.get(timeout=min(seconds, threading.TIMEOUT_MAX))

    def _run(self) -> None:
        with self._near, self._far:
            pause = _FIRST_PAUSE
            failing_since = time.monotonic()
            while not self._is_over:
                try:
                    with self._connections.connect(time.monotonic() + self._connections.timeout) as connection:
                        connection.execute(f'LISTEN "{self._channel}"'.encode())
                        self._look(connection)
                        self._is_listening.set()
                        self._fault = None
                        pause = _FIRST_PAUSE
                        self._ring()
                        self._listen(connection)
                except StoreClosedError:
                    return
                except (psycopg.Error, OSError) as error:
                    if self._is_listening.is_set():
                        failing_since = time.monotonic()
                    self._is_listening.clear()
                    self._note(error, failing_since)
                    self._sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)

    def _listen(self, connection: Connection) -> None:
        arrival = select.poll()
        for one in (connection, self._far):
            arrival.register(one, select.POLLIN)
        while not self._is_over:
            ready = dict(arrival.poll(HEARTBEAT_SECONDS * 1000))
            connection.deadline = time.monotonic() + min(HEARTBEAT_SECONDS, self._connections.timeout)
            if not ready:
                self._look(connection)
            elif connection.fileno() in ready:
                self._hear(connection)
            self._ring()

    def _look(self, connection: Connection) -> None:
        row = connection.execute(b"SELECT incarnation, last_position, commits FROM maestro_head").fetchone()
        if row is not None:
            self.head = row
        self._hear(connection)  # what came with the answer: the socket will not tell of it

    def _hear(self, connection: Connection) -> None:
        for notification in connection.notifies(timeout=0):
            try:
                incarnation, position, commits = map(int, notification.payload.split())
            except ValueError:  # it is none of ours
                continue
            if (incarnation, commits) > (self.head[0], self.head[2]):  # one may be older than the last look
                self.head = incarnation, position, commits

    def _note(self, error: Exception, failing_since: float) -> None:
        is_hopeless = isinstance(error, psycopg.Error) and not faults.is_transient(error)
        if is_hopeless or time.monotonic() - failing_since > self._connections.timeout:
            self._fault = self._connections.reason(error) if isinstance(error, psycopg.Error) else str(error)
            self._ring()

    def _sleep(self, seconds: float) -> None:
        end = select.poll()
        end.register(self._far, select.POLLIN)
        end.poll(seconds * 1000)

    def _ring(self) -> None:
        for bell in self._bells.copy():
            bell.put(None)
