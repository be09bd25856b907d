"""A worker's way to its server: calls with an answer, whatever happens to the connection meanwhile.

A call takes a line from those at rest, or makes one, and puts it back after the reply; so there are as many lines as
calls under way at once, not as threads. Each request has a number that its reply must echo. Any exception within a
call closes its line: a reply that comes late can never be taken for another's. A forked child closes its copies of the
lines, which are its parent's, and makes its own.

When a line breaks, the call is sent again to the server that is then there, with the same commit id; the journal tells
from its log whether it had been carried out. A call that ends without an outcome (a signal's handler raised, the
deadline passed) leaves its commit id behind for whoever makes the very same call again. Its first request may then lie
unread in the server's socket still, and be read after the second: by then the second has taken the sequence number, or
somebody else has, and they only rise; so it is refused, and nobody is told.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing import managers
from pathlib import Path
from typing import Any, Final, TypeVar

from maestro_shm import codec
from maestro_shm.errors import StoreError, StoreFullError, StoreUnavailableError, shown
from maestro_shm.open_calls import REFUSALS, Call, OpenCalls, carry_out
from maestro_shm.options import LONGEST_TIMEOUT
from maestro_shm.records import Event, set_position, set_timestamp
from maestro_shm.shared import election, wire
from maestro_shm.shared.own_process import note as note_process
from maestro_shm.shared.own_process import own
from maestro_shm.shared.plain_commit import KEY_AT, REPLY, REPLY_BYTES, REQUEST, pack_request, unpack_reply
from maestro_shm.shared.rivalry import Rivalries
from maestro_shm.shared.rows import ChangeRow, ReadRow, Row
from maestro_shm.shared.transport import LARGEST_SENT, SERIALIZER, DeadlineError, Line
from maestro_shm.vigil import Vigil

_BROKEN: Final = (ConnectionError, EOFError)
"""What the end of a line raises."""
_NOT_STORED: Final = (*REFUSALS, StoreFullError)
"""After one of these it is known that a call that was made once was not carried out."""
_OPEN_OUTCOME: Final = (
    "; the commit that was under way may or may not have been stored; to learn it make the same call again"
)
_MOST_AT_REST: Final = 64
"""Lines that are kept; a program may have many waits at once, and seldom."""
_WAIT_GRACE: Final = 2.0
"""Seconds that a server may be late with the answer to a wait that has an end."""
_GIVE_BACK_SECONDS: Final = 0.5
_MOST_BREAKS: Final = 100
"""Servers that may end during one wait."""
_NO_REPLY: Final = (0, 0, 0, 0, 0)
"""For one of the usual form."""
_Part = TypeVar("_Part")
_Made = TypeVar("_Made")


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

    def commit_events(
        self, rows: list[Row], made: Callable[[list[Row], Any], _Made], meanwhile: Callable[[], None]
    ) -> _Made:
        """What `made` makes of the rows and the reply: the position of the first event and the timestamps of all.

        It is made in here since the outcome is open until the caller has it. What can be done before the reply has come
        is done by `meanwhile`, once for each time that the commit is sent.
        """
        return self._commit("commit_events", rows, [rows], made, meanwhile)

    def commit_event(self, row: Row, note: Callable[[str, int, int], None]) -> list[Event] | None:
        """What `commit_events` does with one event without timestamp, by as little code as can be: the event as stored.

        See ARCHITECTURE.md for why. None, and nothing is done, where the very same call is open, there is no line at
        rest, or the message is too large for `Line.send`. Raises as `commit_events` does. Aggregate, sequence and
        offset are noted if the server tells the offset.
        """
        open_calls = self._open_calls  # a fork of this process in mid-call has others
        aggregate_id, sequence, _, payload = row
        key = aggregate_id.encode()
        if (
            self._process != own[0]
            or (open_calls and ("commit_events", row) in open_calls)
            or KEY_AT + len(key) + len(payload) > LARGEST_SENT
        ):
            return None
        try:
            line = self._at_rest.pop()
        except IndexError:
            return None
        client_id, numbers = self._identity
        number = next(numbers)
        commit_id = client_id + number.to_bytes(8)
        deadline = time.monotonic() + self._timeout
        try:  # from here to its end as in `carry_out`
            message: tuple[Any, ...] | None
            try:
                line.send(pack_request(REQUEST, len(key), sequence, number, commit_id) + key + payload, deadline)
                event = codec.unpack_event(aggregate_id, sequence, None, None, payload)
                reply = line.reply(deadline)
                fields = unpack_reply(reply) if len(reply) == REPLY_BYTES else _NO_REPLY
                kind, echo, position, timestamp, offset = fields
                is_plain = kind == REPLY and echo == number
                message = () if is_plain else _message(reply, number)
            except BaseException as error:
                line.close()
                if (unavailable := self._unavailable(error, _OPEN_OUTCOME)) is not None:
                    raise unavailable from None
                if not isinstance(error, _BROKEN):
                    raise
                message = None
            if message is None:
                self._hang_up()
                event = codec.unpack_event(aggregate_id, sequence, None, None, payload)
                position, (timestamp,) = self._call(number, "commit_events", [commit_id, [row], True], None, deadline)
            else:
                self._rest(line)
                if is_plain:
                    note(aggregate_id, sequence, offset)
                else:
                    position, (timestamp,) = self._result(message)
            set_timestamp(event, timestamp)
            set_position(event, position)
            return [event]  # noqa: TRY300 (the outcome is open until the caller has it)
        except _NOT_STORED:
            raise
        except BaseException:
            open_calls["commit_events", row] = commit_id
            open_calls.forget_oldest()
            raise

    def commit_each(
        self, commits: Sequence[list[Row]], meanwhile: Callable[[], None]
    ) -> list[tuple[int, list[int]] | StoreError]:
        """What became of some commits, each by itself: the position of the first event and the timestamps, or an error.

        Raises `StoreUnavailableError` if that is not known of any of them.
        """
        self._begin_if_forked()
        client_id, numbers = self._identity
        calls: list[Call] = [("commit_events", *rows) for rows in commits]
        former = [self._open_calls.pop(call, None) for call in calls]
        ids = [commit_id or client_id + next(numbers).to_bytes(8) for commit_id in former]
        sent = [[*commit] for commit in zip(ids, commits, map(bool, former), strict=True)]
        left_open = dict(zip(calls, ids, strict=True))
        try:
            replies = self._call(next(numbers), "commit_each", [sent, False], meanwhile)
            outcomes = [self._outcome(reply) for _, reply in zip(calls, replies, strict=True)]
            left_open = {
                call: commit_id
                for call, commit_id, was_open, outcome in zip(calls, ids, former, outcomes, strict=True)
                if _is_open_after(outcome, was_open=was_open is not None)
            }
        finally:
            self._open_calls.update(left_open)
            self._open_calls.forget_oldest()
        return outcomes

    def commit(
        self,
        rows: list[Row],
        changes: list[ChangeRow],
        reads: list[ReadRow],
        made: Callable[[list[tuple[Any, ...]], Any], _Made],
    ) -> _Made:
        """What `made` makes of rows, changes and reads, and of such a reply."""
        return self._commit("commit", [tuple(rows), tuple(changes), tuple(reads)], [rows, changes, reads], made)

    def commit_snapshot(self, aggregate_id: str, sequence: int, payload: bytes) -> bool:
        """Whether the snapshot was stored."""
        content = [aggregate_id, sequence, payload]
        return self._commit("commit_snapshot", content, content, _whether_done)

    def truncate(self, aggregate_id: str, former: int, first_sequence: int, count: int, size: int) -> bool:
        """Whether the stream begins there now; if not it did not begin at the former place any more."""
        content = [aggregate_id, former, first_sequence, count, size]
        return self._commit("truncate", content, content, _whether_done)

    def adopt(self, number: int, epoch: int, source_end: int) -> None:
        """Let the server go over to the next set of files, into which its log was copied up to an offset."""
        self._begin_if_forked()
        self._call(next(self._identity[1]), "adopt", [number, epoch, source_end, False])

    def goes_over(self) -> bool:
        """Whether it is at that still."""
        self._begin_if_forked()
        return bool(self._call(next(self._identity[1]), "goes_over", []))

    def reset(self) -> None:
        """Forget everything."""
        self._begin_if_forked()
        self._call(next(self._identity[1]), "reset", [])

    def wait(self, method: str, incarnation: int, number: int, deadline: float, vigil: Vigil) -> None:
        """Return when the server says that the store is there, or has another incarnation.

        Or at the deadline, or when the vigil is over. By "wait" the number is a position, by "wait_for_commit" an
        offset. Where there is no server one is started. Raises `StoreUnavailableError`.
        """
        self._begin_if_forked()
        self._vigils.add(vigil)
        try:
            for _ in range(_MOST_BREAKS):
                if vigil.is_over or self._is_closed or self._waits(method, incarnation, number, deadline, vigil):
                    return
        finally:
            self._vigils.discard(vigil)
        raise StoreUnavailableError(str(self._directory), "its server broke off the same wait many times")

    def _waits(self, method: str, incarnation: int, awaited: int, deadline: float, vigil: Vigil) -> bool:
        """Whether the wait has ended otherwise than by the end of the line."""
        begun = time.monotonic()
        patience = min(self._timeout, _WAIT_GRACE) if deadline < begun + self._timeout else self._timeout
        seconds = min(max(0.0, deadline - begun), LONGEST_TIMEOUT)
        message = [next(self._identity[1]), None, method, [incarnation, awaited, math.ceil(seconds * 1000)]]
        try:
            line = self._take() or self._attach(begun + patience, resent=False)
            with vigil.woken_by(line.interrupt):
                if vigil.is_over or self._is_closed:
                    line.close()
                    return True
                reply = self._ask(line, line.wait, message, begun + seconds + patience, "")
        except _BROKEN:
            if not vigil.is_over and not self._is_closed:
                self._hang_up()  # the others at rest were to the same server
            return False
        except StoreUnavailableError:
            # Who waited looks at the files himself; that it is late is no error.
            if vigil.is_over or time.monotonic() >= deadline:
                return True
            raise
        self._rest_after_vigil(line, vigil)
        self._result(reply)
        return True

    def rivalries(self) -> Rivalries:
        """Of this process."""
        self._begin_if_forked()
        return self._rivalries

    def turn(self, stream: str, commits: int, lease: float, idle: float, patience: float) -> tuple[int, int] | None:
        """A turn of a stream, for so many commits and seconds: its number, and how many others want one.

        It is over, too, when after a commit none follows for `idle` seconds.

        None where it does not come within as many seconds of patience, or there is no server, or one that does not
        answer: a turn saves work, and one can do without.
        """
        self._begin_if_forked()
        client_id, numbers = self._identity
        patience = min(patience, self._timeout)
        deadline = time.monotonic() + patience + min(self._timeout, _WAIT_GRACE)
        request = [stream, client_id, commits, *(math.ceil(1000 * seconds) for seconds in (lease, idle, patience))]
        vigil = Vigil()
        self._vigils.add(vigil)
        try:
            line = self._take() or self._attach(deadline, resent=False)
            with vigil.woken_by(line.interrupt):
                if self._is_closed:
                    line.close()
                    return None
                reply = self._ask(line, line.wait, [next(numbers), None, "turn", request], deadline, "")
        except (*_BROKEN, StoreUnavailableError):
            return None
        finally:
            self._vigils.discard(vigil)
        self._rest_after_vigil(line, vigil)
        number_and_rivals: tuple[int, int] | None = self._result(reply)
        return number_and_rivals

    def give_back(self, stream: str, number: int) -> None:
        """End a turn. If that does not succeed it ends by itself."""
        self._begin_if_forked()
        line = self._take()
        if line is None:
            return
        message = [next(self._identity[1]), None, "give_back", [stream, number]]
        try:
            self._ask(line, line.post, message, time.monotonic() + _GIVE_BACK_SECONDS, "")
        except (*_BROKEN, StoreUnavailableError):
            return
        self._rest(line)

    def _rest_after_vigil(self, line: Line, vigil: Vigil) -> None:
        """Called when nobody can interrupt it any more: somebody else may have it at once."""
        if vigil.is_over:
            line.close()
        else:
            self._rest(line)

    def close(self) -> None:
        """Hang up; calls that other threads have under way do so when they end, and their waits end."""
        self._is_closed = True
        self._hang_up()
        for vigil in list(self._vigils):
            vigil.wake()

    def _hang_up(self) -> None:
        while line := self._take():
            line.close()

    def _begin(self, lines: list[Line]) -> None:
        self._at_rest = lines
        self._open_calls = OpenCalls()
        self._vigils: set[Vigil] = set()
        self._rivalries = Rivalries()
        # One value, so that threads that begin at the same moment after a fork have no commit id in common.
        self._identity = os.urandom(8), itertools.count(1)
        self._process = note_process()  # last: who is interrupted on the way here begins again

    def _begin_if_forked(self) -> None:
        """Be another client than the parent, and leave it what it has under way.

        That a fork was is seen by the process id, not only by `os.register_at_fork`: some servers fork in C (uWSGI),
        and two processes with the same lines and commit ids would take each other's replies.
        """
        if self._process == own[0]:
            return
        inherited = self._at_rest
        self._begin([])
        for line in inherited:
            line.close()

    def _incref(self) -> None:
        """The base class calls it after a fork, to count references in the server; ours counts none."""

    def _commit(
        self,
        method: str,
        content: list[_Part],
        arguments: list[Any],
        made: Callable[[list[_Part], Any], _Made],
        meanwhile: Callable[[], None] | None = None,
    ) -> _Made:
        """What `made` makes of content and result of a call that is carried out once, however often it is made."""
        self._begin_if_forked()
        client_id, numbers = self._identity
        number = next(numbers)
        return carry_out(
            self._open_calls,  # a fork of this process in mid-call has others
            (method, *content),
            client_id + number.to_bytes(8),
            lambda commit_id, is_open: made(
                content, self._call(number, method, [commit_id, *arguments, is_open], meanwhile)
            ),
        )

    def _outcome(self, reply: tuple[Any, ...]) -> Any:
        try:
            return self._result(reply)
        except StoreError as error:
            return error

    def _call(
        self,
        number: int,
        method: str,
        arguments: list[Any],
        meanwhile: Callable[[], None] | None = None,
        deadline: float | None = None,
    ) -> Any:
        """The result of a call. Raises the error that it was answered with, or `StoreUnavailableError`.

        The last of the arguments, if it is a bool, says whether they may have been sent before.
        """
        deadline = time.monotonic() + self._timeout if deadline is None else deadline
        message = [number, "journal" if method in wire.METHODS else None, method, arguments]
        for again in (False, True, True, True):
            if again and arguments and type(arguments[-1]) is bool:
                arguments[-1] = True
            line = self._take() or self._attach(deadline, resent=again or arguments[-1:] == [True])
            try:
                reply = self._ask(line, line.post, message, deadline, _OPEN_OUTCOME, meanwhile)
            except _BROKEN:
                self._hang_up()  # the others at rest were to the same server
            else:
                self._rest(line)
                return self._result(reply)
        what = f"its server broke off the same {method} several times"
        raise StoreUnavailableError(str(self._directory), what + _OPEN_OUTCOME)

    def _ask(
        self,
        line: Line,
        exchange: Callable[[bytes, float, Callable[[], None] | None], bytes],
        message: list[Any],
        deadline: float,
        outcome: str,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[Any, ...]:
        """The reply to a message, by one of the line's two ways. The line is closed whatever the error."""
        try:
            return _message(exchange(wire.payload_of(message), deadline, meanwhile), message[0])
        except BaseException as error:
            line.close()
            if (unavailable := self._unavailable(error, outcome)) is not None:
                raise unavailable from None
            raise

    def _unavailable(self, error: BaseException, outcome: str) -> StoreUnavailableError | None:
        """What a caller is told of an error within a call; None where it is not our line's, or the line just ended."""
        if isinstance(error, DeadlineError):
            return StoreUnavailableError(str(self._directory), f"no reply within {self._timeout:g} s{outcome}")
        if isinstance(error, wire.ProtocolError):
            return StoreUnavailableError(str(self._directory), f"{error}{outcome}")
        return None

    def _rest(self, line: Line) -> None:
        if len(self._at_rest) >= _MOST_AT_REST:
            line.close()
        else:
            self._at_rest.append(line)
        if self._is_closed:
            self._hang_up()

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


def _message(reply: bytes, number: int) -> tuple[Any, ...]:
    """What is in the reply to a request. Raises `ProtocolError` if it is to another one."""
    message = wire.unpack(reply)
    if not message or message[0] != number:
        raise wire.ProtocolError(f"reply {shown(message[:1])} to request {number}")
    return message


def _is_open_after(outcome: object, *, was_open: bool) -> bool:
    """Whether it is not known what became of a commit, as `carry_out` has it."""
    if isinstance(outcome, StoreFullError):
        return was_open
    return isinstance(outcome, StoreError) and not isinstance(outcome, REFUSALS)


def _whether_done(_content: list[Any], reply: Any) -> bool:
    return bool(reply)
