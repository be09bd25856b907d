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
from collections.abc import Callable, Sequence
from multiprocessing import managers
from pathlib import Path
from typing import Any, Final

from maestro_shm.errors import StoreUnavailableError, shown
from maestro_shm.shared import election, wire
from maestro_shm.shared.journal import Row
from maestro_shm.shared.transport import SERIALIZER, DeadlineError, Line

_BROKEN: Final = (ConnectionError, EOFError)
"""What the end of a line raises."""
_OPEN_OUTCOME: Final = "; the commit that was under way may or may not have been stored"


class StoreProxy(managers.BaseProxy):
    """Calls the journal of one store. Threads may share it."""

    def __init__(self, directory: Path, timeout: float, line: Line) -> None:
        """Begin with a line that is connected already; `timeout` seconds bound each call."""
        token = managers.Token("journal", str(directory), "journal")
        super().__init__(token, SERIALIZER, authkey=b"", incref=False)
        # The base class keeps an entry for each address for ever, for its own connections, of which we make none.
        managers.BaseProxy._address_to_local.pop(str(directory), None)
        self._directory = directory
        self._timeout = timeout
        self._is_closed = False
        self._begin([line])

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

    def _begin(self, lines: list[Line]) -> None:
        self._process = os.getpid()
        self._at_rest = lines
        self._client_id = os.urandom(8)
        self._numbers = itertools.count(1)

    def _begin_in_child(self) -> None:
        """Be another client than the parent.

        That a fork was is seen by the process id, not only by `os.register_at_fork`: some servers fork in C (uWSGI),
        and two processes with the same lines and commit ids would take each other's replies.
        """
        inherited = self._at_rest
        self._begin([])
        for line in inherited:
            line.close()

    def _incref(self) -> None:
        """The base class calls it after a fork, to count references in the server; ours counts none."""

    def _call(self, method: str, arguments: Callable[[bytes, bool], list[Any]]) -> Any:
        """The result of a call. Raises the error that it was answered with, or `StoreUnavailableError`."""
        if self._process != os.getpid():
            self._begin_in_child()
        deadline = time.monotonic() + self._timeout
        number = next(self._numbers)
        commit_id = self._client_id + number.to_bytes(8)
        for resent in (False, True, True, True):
            line = self._take() or self._attach(deadline, resent=resent)
            try:
                return self._exchange(line, number, [number, "journal", method, arguments(commit_id, resent)], deadline)
            except _BROKEN:
                self._hang_up()  # the others at rest were to the same server
        what = f"its server broke off the same {method} several times"
        raise StoreUnavailableError(str(self._directory), what + _OPEN_OUTCOME)

    def _exchange(self, line: Line, number: int, message: list[Any], deadline: float) -> Any:
        """What the reply to a message brings. The line goes back to rest, or is closed whatever the error."""
        try:
            reply = wire.unpack(line.exchange(wire.pack(message), deadline))
            if reply[:1] != (number,):
                raise wire.ProtocolError(f"reply {shown(reply[:1])} to request {number}")
        except BaseException as error:
            line.close()
            if isinstance(error, DeadlineError):
                what = f"no reply within {self._timeout:g} s"
            elif isinstance(error, wire.ProtocolError):
                what = str(error)
            else:
                raise
            raise StoreUnavailableError(str(self._directory), what + _OPEN_OUTCOME) from None
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
                raise StoreUnavailableError(error.target, error.reason + _OPEN_OUTCOME) from None
            raise

    def _take(self) -> Line | None:
        try:
            return self._at_rest.pop()
        except IndexError:
            return None
