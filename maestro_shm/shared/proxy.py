"""A worker's way to its server: calls with an answer, whatever happens to the connection meanwhile.

A call takes a line from those at rest, or makes one, and puts it back after the reply; so there are as many lines as
calls under way at once, not as threads. Each request has a number that its reply must echo. Any exception within a
call closes its line: a reply that comes late can never be taken for another's. A forked child closes its copies of the
lines, which are its parent's, and makes its own.

When a line breaks, the call is sent again to the server that is then there, with the same commit id; the journal tells
from its log whether it had been carried out.
"""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import managers
from pathlib import Path
from typing import Any, Final

from maestro_shm.errors import StoreUnavailableError, shown
from maestro_shm.shared import directory as directories
from maestro_shm.shared import election, wire
from maestro_shm.shared.journal import Row
from maestro_shm.shared.transport import SERIALIZER, Line

_BROKEN: Final = (ConnectionError, EOFError)


class StoreProxy(managers.BaseProxy):
    """Calls the journal of one store. Threads may share it."""

    _exposed_ = wire.METHODS

    def __init__(self, directory: Path, timeout: float, line: Line) -> None:
        """Begin with a line that is connected already; `timeout` seconds bound each call."""
        token = managers.Token("journal", str(directory), "journal")
        super().__init__(token, SERIALIZER, authkey=directories.read_key(directory), exposed=wire.METHODS, incref=False)
        # The base class keeps an entry for each address for ever, for its own connections, of which we make none.
        managers.BaseProxy._address_to_local.pop(str(directory), None)
        self._directory = directory
        self._timeout = timeout
        self._is_closed = False
        self._begin([line])
        _proxies.add(self)

    def commit_events(self, rows: Sequence[Row]) -> tuple[int, tuple[int, ...]]:
        """The position of the first event and the timestamps of all."""
        position, timestamps = self._call("commit_events", lambda commit_id, resent: [commit_id, rows, resent])
        return position, timestamps

    def commit_snapshot(self, aggregate_id: str, sequence: int, payload: bytes) -> bool:
        """Whether the snapshot was stored."""
        stored: bool = self._call(
            "commit_snapshot", lambda commit_id, resent: [commit_id, aggregate_id, sequence, payload, resent]
        )
        return stored

    def reset(self) -> None:
        """Forget everything."""
        self._call("reset", lambda _commit_id, _resent: [])

    def close(self) -> None:
        """Hang up; calls that other threads have under way do so when they end."""
        self._is_closed = True
        self._hang_up()

    def _hang_up(self) -> None:
        while line := self._take():
            line.close()

    def begin_anew(self) -> None:
        """In a forked child: be another client than the parent. The lines are closed where they are made."""
        self._begin([])

    def _begin(self, lines: list[Line]) -> None:
        self._at_rest = lines
        self._client_id = os.urandom(8)
        self._numbers = itertools.count(1)

    def _incref(self) -> None:
        """The base class calls it after a fork, to count references in the server; ours counts none."""

    def _call(self, method: str, arguments: Callable[[bytes, bool], list[Any]]) -> Any:
        """The result of a call. Raises the error that it was answered with, or `StoreUnavailableError`."""
        deadline = time.monotonic() + self._timeout
        number = next(self._numbers)
        commit_id = self._client_id + number.to_bytes(8)
        for resent in (False, True, True, True):
            line = self._take() or self._attach(deadline, resent=resent)
            try:
                return self._exchange(line, number, [number, "journal", method, arguments(commit_id, resent)], deadline)
            except _BROKEN:
                self._hang_up()  # the others at rest were to the same server
        raise StoreUnavailableError(str(self._directory), f"its server broke off the same {method} several times")

    def _exchange(self, line: Line, number: int, message: list[Any], deadline: float) -> Any:
        """What the reply to a message brings. The line goes back to rest, or is closed whatever the error."""
        try:
            reply = wire.unpack(line.exchange(wire.pack(message), deadline))
            if reply[:1] != (number,):
                raise wire.ProtocolError(f"reply {shown(reply[:1])} to request {number}")
        except TimeoutError:
            line.close()
            reason = f"no reply within {self._timeout:g} s; the commit may or may not have been stored"
            raise StoreUnavailableError(str(self._directory), reason) from None
        except wire.ProtocolError as error:
            line.close()
            raise StoreUnavailableError(str(self._directory), str(error)) from None
        except BaseException:
            line.close()
            raise
        self._at_rest.append(line)
        if self._is_closed:
            self._hang_up()
        return self._result(reply)

    def _result(self, reply: tuple[Any, ...]) -> Any:
        try:
            return wire.result_of(reply)
        except wire.ProtocolError as error:
            raise StoreUnavailableError(str(self._directory), str(error)) from None

    def _attach(self, deadline: float, *, resent: bool) -> Line:
        try:
            return election.attach(self._directory, deadline)
        except StoreUnavailableError as error:
            if resent:
                error.add_note("A commit was under way when the connection broke; it may or may not have been stored.")
            raise

    def _take(self) -> Line | None:
        try:
            return self._at_rest.pop()
        except IndexError:
            return None


_proxies: weakref.WeakSet[StoreProxy] = weakref.WeakSet()


def _begin_anew_after_fork() -> None:
    for proxy in list(_proxies):
        proxy.begin_anew()


os.register_at_fork(after_in_child=_begin_anew_after_fork)
