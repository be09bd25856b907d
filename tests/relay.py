"""A relay in the place of a server's socket: passes everything on, and cuts, tears or holds what it is told to.

Client and server are the real ones, and so are their sockets; which request is meant is told by bytes in it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from books import word
from processes import PATIENCE

from maestro_shm.shared import header as head
from maestro_shm.shared import transport, wire
from maestro_shm.shared.directory import socket_path

_AT_ONCE: Final = 1 << 16


class Cut(enum.Enum):
    """Where a request or its reply meets its fate."""

    BEFORE = "the request is not passed on"
    PARTLY = "a part of the request is passed on"
    UNAWAITED = "the request is passed on, and nobody waits for the reply"
    UNANSWERED = "the reply comes, and is not passed on"
    TORN = "a part of the reply is passed on"
    HELD = "the reply is held until the client hangs up"
    LOST = "the request is held until the client hangs up"
    LATE = "the request is held until the client hangs up, and passed on then"
    EXCHANGED = "the reply goes to another request of this kind, and that one's comes here"
    RENUMBERED = "the same, and each bears the number that is waited for"


@dataclass(frozen=True)
class Fault:
    """What a request is to meet."""

    cut: Cut
    part: float = 0.5
    """How much of a message is passed on, where a part is."""
    kills: int | None = None
    """The server's process, to be killed at that moment."""


class Relay:
    """Runs in a thread of its own while the `with` lasts; then the server has its socket back."""

    def __init__(self, directory: Path) -> None:
        self.met: list[Cut] = []
        self._directory = directory
        self._taken: dict[Path, Path] = {}
        self._listeners: list[transport.Listener] = []
        self._faults: dict[bytes, deque[Fault]] = {}
        self._pairs: set[_Pair] = set()
        self._exchanged: list[tuple[_Pair, bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, self._stop)
        self._running = True
        self._thread = threading.Thread(target=self._run)

    def take_place(self) -> None:
        """Listen under the name of the present server's socket. Lines that clients have already stay theirs."""
        epoch = word(self._directory, head.EPOCH)
        named, behind = socket_path(self._directory, epoch), self._directory / f"relayed-{epoch}"
        if named in self._taken:
            return
        os.link(named, behind)
        unfinished = self._directory / f"relay-{epoch}"
        listener = transport.Listener(str(unfinished))
        self._listeners.append(listener)
        unfinished.rename(named)
        self._taken[named] = behind
        self._selector.register(listener.socket, selectors.EVENT_READ, lambda: self._accept(listener, behind))

    def meet(self, content: bytes, *faults: Fault) -> None:
        """The next requests with these bytes in them meet these faults, one each."""
        self._faults[content] = deque(faults)

    def spare(self, content: bytes) -> None:
        """Pass on what has these bytes in it, whatever it was to meet."""
        self._faults.pop(content, None)

    def fault_of(self, request: bytes) -> Fault | None:
        """What this request is to meet."""
        for content, faults in list(self._faults.items()):
            if content in request and faults:
                self.met.append(faults[0].cut)
                return faults.popleft()
        return None

    def exchange(self, pair: _Pair, reply: bytes, *, renumbered: bool) -> None:
        """Keep the reply until there is another to exchange it with."""
        self._exchanged.append((pair, reply))
        if len(self._exchanged) == 2:
            (one, of_one), (other, of_other) = self._exchanged
            self._exchanged.clear()
            one.answer(_with_number_of(of_one, of_other) if renumbered else of_other)
            other.answer(_with_number_of(of_other, of_one) if renumbered else of_one)

    def watch(self, end: socket.socket, act: Callable[[], None]) -> None:
        self._selector.register(end, selectors.EVENT_READ, act)

    def forget(self, end: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):  # forgotten before
            self._selector.unregister(end)
        end.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.send(b"x")
        self._thread.join(PATIENCE)
        for pair in self._pairs:
            pair.close()
        for listener in self._listeners:
            listener.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()
        for named, behind in self._taken.items():
            with contextlib.suppress(FileNotFoundError):
                behind.rename(named)

    def _run(self) -> None:
        while self._running:
            for key, _ in self._selector.select():
                key.data()

    def _stop(self) -> None:
        self._running = False

    def _accept(self, listener: transport.Listener, behind: Path) -> None:
        with contextlib.suppress(BlockingIOError):
            client, _ = listener.socket.accept()
            try:
                server = transport._connect(str(behind), time.monotonic() + PATIENCE)
            except OSError:  # it has been killed
                client.close()
                return
            self._pairs.add(_Pair(self, client, server))


class _Pair:
    """A client, and the server as it sees it."""

    def __init__(self, relay: Relay, client: socket.socket, server: socket.socket) -> None:
        self._relay = relay
        self._client = client
        self._server = server
        self._from_client = wire.Inbox(2**32)
        self._from_server = wire.Inbox(2**32)
        self._is_known = False
        self._fault: Fault | None = None
        self._late = b""
        for end, act in ((client, self._hear_client), (server, self._hear_server)):
            end.settimeout(PATIENCE)
            relay.watch(end, act)

    def close(self) -> None:
        """Hang up on both."""
        self._relay.forget(self._client)
        self._relay.forget(self._server)

    def answer(self, reply: bytes) -> None:
        """Pass a reply on."""
        try:
            self._client.sendall(wire.frame(reply))
        except OSError:
            self.close()

    def _hear_client(self) -> None:
        payloads = _received(self._client, self._from_client)
        if payloads is None and self._late:
            self._pass_on(self._late)
            self._late = b""
            self._relay.forget(self._client)  # the server shall read it first: its answer ends the pair
        elif payloads is None:
            self.close()
        for payload in payloads or []:
            self._hear_request(payload)

    def _hear_request(self, request: bytes) -> None:
        if self._is_known and b"mailbox" in request:  # none for who comes this way, or nothing would
            number, *_ = wire.unpack(request)
            self.answer(wire.pack([number, True, None])[wire.LENGTH_BYTES :])
            return
        fault = self._relay.fault_of(request) if self._is_known else None
        self._is_known = True  # the first message is the answer to the greeting
        framed = wire.frame(request)
        if fault is None:
            self._pass_on(framed)
        elif fault.cut in (Cut.LOST, Cut.LATE):
            self._late = framed if fault.cut is Cut.LATE else b""
        elif fault.cut is Cut.BEFORE:
            self._end(fault)
        elif fault.cut in (Cut.PARTLY, Cut.UNAWAITED):
            self._pass_on(framed if fault.cut is Cut.UNAWAITED else _part(framed, fault))
            self._end(fault)
        else:
            self._fault = fault
            self._pass_on(framed)

    def _hear_server(self) -> None:
        payloads = _received(self._server, self._from_server)
        if payloads is None:
            self.close()
        for payload in payloads or []:
            self._hear_reply(payload)

    def _hear_reply(self, reply: bytes) -> None:
        fault, self._fault = self._fault, None
        if fault is None:
            self.answer(reply)
        elif fault.cut is Cut.HELD:
            _kill(fault)
            self._relay.forget(self._server)
        elif fault.cut in (Cut.EXCHANGED, Cut.RENUMBERED):
            self._relay.exchange(self, reply, renumbered=fault.cut is Cut.RENUMBERED)
        else:
            if fault.cut is Cut.TORN:
                with contextlib.suppress(OSError):
                    self._client.sendall(_part(wire.frame(reply), fault))
            self._end(fault)

    def _pass_on(self, framed: bytes) -> None:
        with contextlib.suppress(OSError):  # its end is seen where it is heard
            self._server.sendall(framed)

    def _end(self, fault: Fault) -> None:
        _kill(fault)
        self.close()


def _received(end: socket.socket, inbox: wire.Inbox) -> list[bytes] | None:
    """The messages that have come whole; None at the end."""
    try:
        data = end.recv(_AT_ONCE)
    except OSError:
        return None
    return inbox.feed(data) if data else None


def _part(framed: bytes, fault: Fault) -> bytes:
    return framed[: max(1, min(len(framed) - 1, int(len(framed) * fault.part)))]


def _kill(fault: Fault) -> None:
    if fault.kills is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(fault.kills, signal.SIGKILL)


def _with_number_of(own: bytes, others: bytes) -> bytes:
    number, *_ = wire.unpack(own)
    _, *rest = wire.unpack(others)
    return wire.pack([number, *rest])[wire.LENGTH_BYTES :]
