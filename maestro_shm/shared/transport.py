"""The socket between a worker and its server, and nothing of what is said on it but the handshake.

It is registered with `multiprocessing.managers` as a third serializer beside pickle and XML-RPC: nothing that comes
over it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hmac
import multiprocessing.managers
import os
import select
import socket
import struct
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from maestro_shm.errors import shown
from maestro_shm.options import DEFAULT_TIMEOUT
from maestro_shm.shared import handshake, wire
from maestro_shm.shared.mailboxes import BY_SOCKET, LARGEST_MESSAGE, LONGEST_SLEEP, Mailbox
from maestro_shm.shared.watch import Watch

SERIALIZER: Final = "maestro"
LARGEST_SENT: Final = LARGEST_MESSAGE
"""How many bytes `Line.send` takes."""
_RECEIVED_AT_ONCE: Final = 1 << 16
_CONNECT_PAUSE: Final = 0.002
_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)
"""A program may have SIGPIPE at its default; that the server is gone must not end it."""
_LONGEST_ADDRESS: Final = 100
"""A Unix socket's path may have 107 bytes on Linux, 103 on macOS."""


class DeadlineError(TimeoutError):
    """A deadline of ours has passed. Not any `TimeoutError`: a signal's handler may raise one in mid-call."""


class Listener:
    """The server's end, as `multiprocessing.managers.Server` makes it."""

    def __init__(self, address: str, backlog: int = 128) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(address) as short:
                self.socket.bind(short)
            Path(address).chmod(0o600)
            self.socket.listen(max(backlog, 128))
            self.socket.settimeout(0)
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """Let nobody in any more.

        The socket's name stays: by now it may be that of another server's, if the directory was removed by hand and
        made anew. The next server removes what is stale.
        """
        self.socket.close()


class Line:
    """A worker's end: one connection, one request at a time. Its socket does not block, so each wait has its deadline.

    Deadlines are of `time.monotonic`. Whatever a method raises, the line is of no more use then: close it.
    """

    def __init__(self, address: str, key: bytes, deadline: float) -> None:
        """Connect and shake hands.

        Raises `DeadlineError`, other `OSError`s when nobody answers, `EOFError` when the server hangs up, and
        `ProtocolError`.
        """
        self._process = os.getpid()
        self._mailbox: Mailbox | None = None
        self._connection = _connect(address, deadline)
        _lines.add(self)
        self._watch = Watch()
        self._arrival = select.poll()
        self._arrival.register(self._connection, select.POLLIN)
        self._inbox = wire.Inbox(handshake.MAX_MESSAGE_BYTES)
        self._by_socket: list[bytes] = []
        """Messages that have come whole, but for rings."""
        self._mail_watch = Watch()
        try:
            self._shake_hands(key, deadline)
            self._inbox.limit = 2**32
            self._mailbox = self._ask_for_mailbox(Path(address).parent, deadline)
        except BaseException:
            self.close()
            raise

    def exchange(self, message: bytes, deadline: float, meanwhile: Callable[[], None] | None = None) -> bytes:
        """Send a packed message, wait for the payload of the reply. Raises as `__init__` does.

        What the caller has to do besides is done while the server works.
        """
        self._send(message, deadline)
        if meanwhile is not None:
            meanwhile()
        return self._receive(deadline)

    def post(self, payload: bytes, deadline: float, meanwhile: Callable[[], None] | None = None) -> bytes:
        """The same for a payload, by the line's mailbox if the server has one for it and it fits."""
        if self._mailbox is None or len(payload) > LARGEST_MESSAGE:
            return self.exchange(wire.frame(payload), deadline, meanwhile)
        self.send(payload, deadline)
        if meanwhile is not None:
            meanwhile()
        return self.reply(deadline)

    def send(self, payload: bytes, deadline: float) -> None:
        """The first half of `post`, for at most `LARGEST_SENT` bytes; see there for what is raised."""
        if self._mailbox is None:
            self._send(wire.frame(payload), deadline)
        elif self._mailbox.post(payload):
            self._send(wire.RING, deadline)

    def reply(self, deadline: float) -> bytes:
        """The second half: the payload of the reply."""
        if (mailbox := self._mailbox) is None:
            return self._receive(deadline)
        reply = self._mail_watch.until(mailbox.reply) or self._sleep_until_reply(mailbox, deadline)
        return self._receive(deadline) if reply == BY_SOCKET else reply

    def wait(self, payload: bytes, deadline: float, meanwhile: Callable[[], None] | None = None) -> bytes:
        """The same for a payload, by the socket: who waits long would have to look at a mailbox now and again."""
        return self.exchange(wire.frame(payload), deadline, meanwhile)

    def ask(self, ident: str | None, method: str, deadline: float) -> Any:
        """The result of a call without arguments. Raises as `exchange`, and the error that it was answered with."""
        return wire.result_of(wire.unpack(self.exchange(wire.pack([0, ident, method, []]), deadline)))

    def wait_for_end(self, deadline: float) -> None:
        """Wait until the server hangs up. Raises `DeadlineError`."""
        with contextlib.suppress(ConnectionError):
            while self._receive_some(deadline):
                _check_time(deadline)

    def interrupt(self) -> None:
        """Let the exchange end that another thread has under way: it raises `EOFError` there."""
        if self._process == os.getpid():
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up, for the server at once, even if a process that was forked this moment has a copy still.

        In a forked child it closes the child's copy only.
        """
        if self._process == os.getpid():
            with contextlib.suppress(OSError):  # closed already, or by the server
                self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        if self._mailbox is not None:
            self._mailbox.close()

    def __del__(self) -> None:
        # A line may end with a thread or a handle that nobody closed; that is no reason for a ResourceWarning.
        if not hasattr(self, "_connection"):
            return  # there never was one
        if getattr(os, "getpid", None) is not None:
            self.close()
        else:  # at the very end of an interpreter its modules are empty
            self._connection.close()

    def _send(self, message: bytes, deadline: float) -> None:
        sent = self._send_some(message)
        if sent < len(message):
            room = select.poll()
            room.register(self._connection, select.POLLOUT)
            view = memoryview(message)
            while sent < len(message):
                _wait(room, deadline)
                sent += self._send_some(view[sent:])

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self._connection.send(data, _NO_SIGNAL)
        except BlockingIOError:
            return 0

    def _ask_for_mailbox(self, directory: Path, deadline: float) -> Mailbox | None:
        if (given := self.ask(None, "mailbox", deadline)) is None:
            return None
        try:
            return Mailbox(directory, given)
        except TimeoutError:
            raise  # a signal's handler may raise it
        except OSError:
            return None  # the socket must do; by it we hear if the server is gone
        except (TypeError, ValueError):
            raise wire.ProtocolError(f"no mailbox: {shown(given)}") from None

    def _sleep_until_reply(self, mailbox: Mailbox, deadline: float) -> bytes:
        mailbox.fall_asleep()
        while (reply := mailbox.reply()) is None:
            with contextlib.suppress(DeadlineError):  # of a sleep only
                _wait(self._arrival, min(deadline, time.monotonic() + LONGEST_SLEEP))
            if (data := self._look()) is not None:
                self._hear(data)
            if len(self._by_socket) > 1:
                raise wire.ProtocolError("replies to what was not asked")
            _check_time(deadline)
        mailbox.wake_up()
        self._mail_watch.note_arrival()
        if self._by_socket and reply != BY_SOCKET:
            raise wire.ProtocolError("a reply to what was not asked")
        return reply

    def _receive(self, deadline: float) -> bytes:
        while not self._by_socket:
            if not (data := self._watch.until(self._look)):
                data = self._receive_some(deadline)
                self._watch.note_arrival()
            self._hear(data)
            if not self._by_socket:
                _check_time(deadline)  # whoever sends without end does not make it longer
        reply, self._by_socket = self._by_socket[0], []
        return reply

    def _hear(self, data: bytes) -> None:
        if not data:
            raise EOFError("the server hung up")
        self._by_socket += filter(None, self._inbox.feed(data))  # an empty one is a ring

    def _receive_some(self, deadline: float) -> bytes:
        """What has come, or comes before the deadline; nothing when the server has hung up."""
        while (data := self._look()) is None:
            _wait(self._arrival, deadline)
        return data

    def _look(self) -> bytes | None:
        try:
            return self._connection.recv(_RECEIVED_AT_ONCE)
        except BlockingIOError:
            return None

    def _shake_hands(self, key: bytes, deadline: float) -> None:
        greeted = self._receive(deadline)
        if not handshake.is_greeting(greeted):
            raise wire.ProtocolError("the server speaks another protocol; it may be of another version of maestro_shm")
        answered = handshake.answer(key, greeted)
        confirmed = self.exchange(wire.frame(answered), deadline)
        if not hmac.compare_digest(confirmed, handshake.confirmation(key, greeted, answered)):
            raise wire.ProtocolError("the server does not know the store's key")


_lines: weakref.WeakSet[Line] = weakref.WeakSet()


def _close_after_fork() -> None:
    """A child must not keep its parent's lines open: the server would count the parent as a client for ever."""
    for line in list(_lines):
        line.close()


os.register_at_fork(after_in_child=_close_after_fork)


def user_of(connection: socket.socket) -> int | None:
    """The user id of the process at the other end, or None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):  # pragma: no cover (macOS: the directory's mode is the guard)
        return None
    credentials = struct.Struct("3i")
    _, user, _ = credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return int(user)


def connect(address: str, authkey: bytes) -> Line:
    """A line with the usual patience, as `multiprocessing.managers` makes one."""
    return Line(address, authkey, time.monotonic() + DEFAULT_TIMEOUT)


def _connect(address: str, deadline: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(0)
        with _short(address) as short:
            while True:
                try:
                    connection.connect(short)
                except BlockingIOError:  # so many are waiting to be let in that there is no room for one more
                    _check_time(deadline)
                    time.sleep(_CONNECT_PAUSE)
                else:
                    return connection
    except BaseException:
        connection.close()
        raise


def _wait(for_what: select.poll, deadline: float) -> None:
    """Sleep until the socket is ready. Raises `DeadlineError`. A signal does not make it longer (PEP 475)."""
    if not for_what.poll(max(0.0, deadline - time.monotonic()) * 1000):
        _check_time(deadline)


def _check_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise DeadlineError("the deadline has passed")


@contextlib.contextmanager
def _short(address: str) -> Iterator[str]:
    """A name of the address that is short enough for the kernel."""
    path = Path(address)
    if len(os.fsencode(address)) <= _LONGEST_ADDRESS:
        yield address
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


multiprocessing.managers.listener_client[SERIALIZER] = (Listener, connect)  # type: ignore[attr-defined] # not in typeshed
