"""A worker's way to its server: calls with an answer, whatever happens to the connection meanwhile.

A call takes a line from those at rest, or makes one, and puts it back after the reply; so there are as many lines as
calls under way at once, not as threads. Each request has a number that its reply must echo. Any exception within a
call closes its line: a reply that comes late can never be taken for another's. After a fork the child forgets the
lines, which are its parent's.

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

from maestro_shm.errors import StoreUnavailableError
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

    def stop(self) -> None:
        """End a private store and wait until it has ended. No error if its server is gone already."""
        line = self._take() or election.find(self._directory, self._timeout)
        if line is None:
            return
        try:
            line.ask(None, "stop")
            line.wait_for_end()
        except (*_BROKEN, BlockingIOError):
            pass
        finally:
            line.close()

    def close(self) -> None:
        """Hang up."""
        while self._at_rest:
            self._at_rest.pop().close()

    def _begin(self, lines: list[Line]) -> None:
        self._process = os.getpid()
        self._at_rest = lines
        self._client_id = os.urandom(8)
        self._numbers = itertools.count(1)

    def _call(self, method: str, arguments: Callable[[bytes, bool], list[Any]]) -> Any:
        """The result of a call. Raises the error that it was answered with, or `StoreUnavailableError`."""
        deadline = time.monotonic() + self._timeout
        line = self._take() or self._attach(deadline)
        number = next(self._numbers)
        commit_id = self._client_id + number.to_bytes(8)
        for resent in (False, True, True, True):
            try:
                reply = self._exchange(line, number, [number, "journal", method, arguments(commit_id, resent)])
                return wire.result_of(reply)
            except _BROKEN:
                line = self._attach(deadline)
        line.close()
        raise StoreUnavailableError(str(self._directory), "its server broke off the same commit several times")

    def _exchange(self, line: Line, number: int, message: list[Any]) -> tuple[Any, ...]:
        """The reply to a message. The line goes back to rest, or is closed whatever the error."""
        try:
            reply = wire.unpack(line.exchange(wire.pack(message)))
            if reply[:1] != (number,):
                raise wire.ProtocolError(f"reply {reply[:1]!r} to request {number}")
        except BlockingIOError:
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
        return reply

    def _attach(self, deadline: float) -> Line:
        return election.attach(self._directory, self._timeout, deadline)

    def _take(self) -> Line | None:
        self._renew_after_fork()
        try:
            return self._at_rest.pop()
        except IndexError:
            return None

    def _renew_after_fork(self) -> None:
        if self._process != os.getpid():
            self.close()  # this process's copies only
            self._begin([])
