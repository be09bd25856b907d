"""The server process: a manager whose server is one `selectors` loop, and what starts, ends and guards it.

One thread does everything, so commits are serialized by it and by the manager's lock, which each call holds. It
outlives whoever started it: it ignores what is typed at the terminal, finishes its batch on SIGTERM, and leaves when
nobody has been connected for a while, or, of a private store, when its creator has ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import managers
from pathlib import Path
from typing import Any, Final, NoReturn

from maestro_shm.errors import InvalidEventError, StoreError, StoreUnavailableError
from maestro_shm.shared import creator as creators
from maestro_shm.shared import directory as directories
from maestro_shm.shared import launch, wire
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.peer import Peer
from maestro_shm.shared.transport import SERIALIZER, Listener, user_of
from maestro_shm.shared.watch import Watch

_TICK: Final = 1.0
"""Seconds between two looks at whether it is time to leave."""
_WATCH: Final = 100e-6
"""Seconds to watch for a further request before sleeping."""
_HOLD_SECONDS: Final = 10.0
"""How long to wait for a former server to finish."""


class LoopServer(managers.Server):
    """Serves all clients in one thread.

    The stock thread per connection falls off from 25,000 to 10,000 requests/s between 8 and 256 clients, where one
    loop holds 20,000 and more with a quarter of the p99.
    """

    public = list(wire.SERVER_METHODS)  # noqa: RUF012 (as the base class has it)

    listener: Listener
    mutex: contextlib.AbstractContextManager[Any]

    def __init__(self, registry: dict[str, Any], address: str, authkey: bytes, serializer: str) -> None:
        super().__init__(registry, address, authkey, serializer)
        make_journal, exposed, *_ = registry["journal"]
        self.journal: Journal = make_journal()
        self._calls: dict[tuple[str | None, str], Callable[..., Any]] = {}
        self._calls |= {("journal", method): getattr(self.journal, method) for method in exposed}
        self._calls |= {(None, method): getattr(self, method) for method in self.public}
        self._key = bytes(authkey)
        self._message_limit = self.journal.max_commit_bytes + wire.OVERHEAD
        self._settings = directories.read_settings(self.journal.directory)
        self._peers: set[Peer] = set()
        self._spare_descriptor = os.open(os.devnull, os.O_RDONLY)
        self._idle_since = self._chores_due = time.monotonic()
        self._watch = Watch(_WATCH)
        self._leaving = False
        self._store_ends = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.listener.socket, selectors.EVENT_READ, self._accept)

    def leave_on_signal(self, descriptor: int) -> None:
        """Leave when this descriptor becomes readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, self._leave)

    def end_with(self, descriptor: int) -> None:
        """End the store when this descriptor becomes readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, self._end_store)

    def serve_forever(self) -> None:
        """Serve until it is time to leave, then clean up."""
        try:
            while not self._leaving:
                for key, _ in self._wait():
                    key.data()
                if (now := time.monotonic()) >= self._chores_due:
                    self._chores_due = now + _TICK
                    self._do_chores(now)
        finally:
            self._end()

    def destroy(self) -> None:
        """Remove the store, unless others are connected."""
        others = sum(peer.is_known for peer in self._peers) - 1
        if others:
            raise StoreUnavailableError(str(self.journal.directory), f"still in use by {others} other connections")
        self._end_store()

    def stop(self) -> None:
        """End a private store."""
        if self._settings.creator is None:
            raise StoreUnavailableError(str(self.journal.directory), "not private, so its server is not to be stopped")
        self._end_store()

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready. After a request the next is watched for a moment, since to wake from sleep takes longer.

        On virtual machines much longer: the median of a one-event commit fell from 88 to 48 µs by this. Whoever else
        wants the processor gets it meanwhile.
        """
        return self._watch.until(self._look) or self._selector.select(_TICK)

    def _look(self) -> list[tuple[selectors.SelectorKey, int]]:
        return self._selector.select(0)

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.socket.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return
        connection.settimeout(0)
        if user_of(connection) not in (None, 0, os.geteuid()):
            connection.close()
            return
        try:
            peer = Peer(connection, self._key, self._message_limit)
        except OSError:  # it left before it was greeted
            connection.close()
            return
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._attend(peer))

    def _turn_away(self) -> None:
        """Out of descriptors: give up the spare one to take the connection and close it, or it would wake us always."""
        os.close(self._spare_descriptor)
        with contextlib.suppress(OSError):
            self.listener.socket.accept()[0].close()
        self._spare_descriptor = os.open(os.devnull, os.O_RDONLY)

    def _attend(self, peer: Peer) -> None:
        was_known, had_unsent = peer.is_known, bool(peer.unsent)
        try:
            if had_unsent:
                peer.flush()
            else:
                for payload in peer.receive():
                    peer.send(self._answer(payload))
        except BlockingIOError:
            return
        except (OSError, EOFError):
            self._drop(peer)
            return
        except wire.ProtocolError as error:
            sys.stderr.write(f"dropped a client: {error}\n")
            self._drop(peer)
            return
        if peer.is_known != was_known:
            self._count_clients()
        if bool(peer.unsent) != had_unsent:
            self._wait_for(peer)

    def _wait_for(self, peer: Peer) -> None:
        """Read nothing more from a client that has replies to fetch."""
        events = selectors.EVENT_WRITE if peer.unsent else selectors.EVENT_READ
        self._selector.modify(peer.socket, events, lambda: self._attend(peer))

    def _drop(self, peer: Peer) -> None:
        self._selector.unregister(peer.socket)
        peer.socket.close()
        self._peers.discard(peer)
        if peer.is_known:
            self._count_clients()

    def _count_clients(self) -> None:
        clients = sum(peer.is_known for peer in self._peers)
        self.journal.count_clients(clients)
        self._idle_since = time.monotonic()

    def _answer(self, payload: bytes) -> bytes:
        try:
            number, ident, method, arguments = wire.unpack(payload)
        except ValueError:
            raise wire.ProtocolError("not a request") from None
        try:
            function = self._calls[ident, method]
        except (KeyError, TypeError):
            raise wire.ProtocolError(f"no such call: {ident!r}, {method!r}") from None
        try:
            with self.mutex:
                return wire.pack([number, True, function(*arguments)])
        except StoreError as error:
            return wire.pack_error(number, error)
        except Exception as error:  # noqa: BLE001 (whatever a client sends must not end the server)
            traceback.print_exc()
            return wire.pack_error(number, InvalidEventError(f"the server cannot do this: {type(error).__name__}"))

    def _do_chores(self, now: float) -> None:
        for peer in [peer for peer in self._peers if not peer.is_known and now > peer.deadline]:
            self._drop(peer)
        creator = self._settings.creator
        if creator is None:
            if not self._peers and now - self._idle_since > self._settings.idle_timeout:
                self._leave()
        elif not creators.is_alive(creator):
            self._end_store()

    def _leave(self) -> None:
        self._leaving = True

    def _end_store(self) -> None:
        self._store_ends = True
        self._leave()

    def _end(self) -> None:
        self.listener.close()
        if self._store_ends:
            self.journal.retire()
            directories.remove(self.journal.directory)
        # Last of all, since a client that waits for the end waits for this.
        for peer in self._peers:
            peer.socket.close()
        self._selector.close()
        self.journal.close()
        os.close(self._spare_descriptor)


class StoreManager(managers.BaseManager):
    """The manager of a store; `get_server` in the stock one does not honour `_Server`."""

    _Server = LoopServer

    def get_server(self) -> LoopServer:
        return LoopServer(self._registry, self._address, self._authkey, self._serializer)  # type: ignore[attr-defined]


def main(path: str) -> NoReturn:
    """Serve the store in the directory; how a fresh interpreter begins."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.settimeout(0)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.umask(0o077)
    directory = Path(path)
    try:
        server = _make_server(directory, directories.read_settings(directory))
    except StoreError as error:
        os.write(1, launch.FAILED + wire.pack_error(0, error))
        sys.exit(1)
    server.leave_on_signal(woken.fileno())
    creator = directories.read_settings(directory).creator
    if creator is not None and (descriptor := creators.watch(creator)) is not None:
        server.end_with(descriptor)
    _say_ready(directory)
    server.serve_forever()
    sys.exit(0)


def _make_server(directory: Path, settings: Settings) -> LoopServer:
    _hold(directory)
    for stale in directory.glob("socket-*"):
        stale.unlink()
    journal = Journal.open(directory, max_commit_bytes=settings.max_commit_bytes)
    StoreManager.register("journal", lambda: journal, exposed=wire.METHODS, create_method=False)
    address = str(directories.socket_path(directory, journal.epoch))
    return StoreManager(address, directories.read_key(directory), SERIALIZER).get_server()


def _hold(directory: Path) -> None:
    """Take the lock on the directory for as long as this process lives."""
    deadline = time.monotonic() + _HOLD_SECONDS
    while directories.hold(directory) is None:
        if time.monotonic() > deadline:
            raise StoreUnavailableError(str(directory), "another server holds the directory")
        time.sleep(0.005)


def _say_ready(directory: Path) -> None:
    """Tell who started us, then talk to the log only."""
    log = os.open(
        directory / directories.SERVER_LOG,
        os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o600,
    )
    os.dup2(log, 2)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, launch.READY)
    os.dup2(log, 1)
    os.close(log)
