"""The manager of a store, whose server is one `selectors` loop.

One thread does everything, so commits are serialized by it and by the manager's lock, which each call holds. It leaves
when nobody has been connected for a while, or, of a private store, when its creator has ended. Whatever a client sends
and whatever fails, it goes on; only a journal that broke off in mid-commit ends it, so that its successor recovers.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import managers
from typing import Any, Final, NamedTuple

from maestro_shm.errors import InvalidEventError, StoreError, StoreUnavailableError, shown
from maestro_shm.shared import creator as creators
from maestro_shm.shared import directory as directories
from maestro_shm.shared import wire
from maestro_shm.shared.compaction_duty import CompactionDuty
from maestro_shm.shared.complaints import Complaints
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.door import Door
from maestro_shm.shared.incoming import Incoming
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.mailboxes import BY_SOCKET, LARGEST_MESSAGE, LONGEST_SLEEP, Address, Mailboxes
from maestro_shm.shared.peer import Peer
from maestro_shm.shared.plain_commit import KEY_AT, REPLY, REQUEST_MARK, pack_reply, unpack_request
from maestro_shm.shared.rows import Row
from maestro_shm.shared.stream_turns import Asked, HeldBack, StreamTurns, asked, commit_of
from maestro_shm.shared.transport import Listener
from maestro_shm.shared.waiting import Waiting, Wanted

_TICK: Final = 1.0
"""Seconds between two looks at whether it is time to leave."""


class Later(NamedTuple):
    """In place of the reply to a commit that is held back, since another client has the turn of this stream."""

    stream: str


Late = Wanted | Asked | Later
"""What stands for a reply that is due later."""


class LoopServer(managers.Server):
    """Serves all clients in one thread.

    The stock thread per connection falls off from 25,000 to 10,000 requests/s between 8 and 256 clients, where one
    loop holds 20,000 and more with a quarter of the p99.
    """

    public = list(wire.SERVER_METHODS)  # noqa: RUF012 (as the base class has it)

    listener: Listener
    _asking: Peer
    """The client whose request is being answered."""
    mutex: contextlib.AbstractContextManager[Any]

    def __init__(self, registry: dict[str, Any], address: str, authkey: bytes, serializer: str) -> None:
        super().__init__(registry, address, authkey, serializer)
        make_journal, exposed, *_ = registry["journal"]
        self.journal: Journal = make_journal()
        self._calls: dict[tuple[str | None, str], Callable[..., Any]] = {}
        self._calls |= {("journal", method): getattr(self.journal, method) for method in exposed}
        self._calls |= {(None, method): getattr(self, method) for method in self.public}
        self._door = Door(self.listener.socket, bytes(authkey), self.journal.max_commit_bytes + wire.OVERHEAD)
        self._peers: set[Peer] = set()
        self._waits_for_disk = self.journal.waits_for_disk
        self._held_back: list[tuple[Peer, int, bytes]] = []
        """Replies that wait for the disk, with the numbers of their requests."""
        self._mail = Mailboxes(self.journal.directory, self.journal.epoch)
        self._owners: dict[int, Peer] = {}
        """Of mailboxes."""
        self._events = Waiting()
        self._commits = Waiting()
        self._turns = StreamTurns()
        self._may_hold_back = True
        self._awaited_incarnation = self.journal.incarnation
        self._has_woken = False
        """Who was woken just now needs the processor that a watch would keep."""
        self._complaints = Complaints()
        self._compaction_duty = CompactionDuty(self.journal, self._complaints)
        self._idle_since = self._chores_due = time.monotonic()
        self._sees_creator = False
        self._leaving = False
        self._store_ends = False
        self._selector = selectors.DefaultSelector()
        self._incoming = Incoming(self._mail, self._selector)
        self._selector.register(self.listener.socket, selectors.EVENT_READ, self._accept)

    def guard(self, held: int, settings: Settings) -> None:
        """Say by which descriptor the directory is held, and how the store ends."""
        self._held = held
        self._settings = settings

    def leave_on_signal(self, descriptor: int) -> None:
        """Leave when this descriptor becomes readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, self._leave)

    def end_with(self, descriptor: int) -> None:
        """End the store when this descriptor becomes readable: its creator has ended."""
        self._selector.register(descriptor, selectors.EVENT_READ, self._end_store)
        self._sees_creator = True

    def serve_forever(self) -> None:
        """Serve until it is time to leave, then clean up."""
        try:
            while not self._leaving:
                may_watch, self._has_woken = not self._has_woken, False
                mail, sockets = self._incoming.next(self._pause, may_watch=may_watch)
                for number in mail:  # before the sockets, by which a mailbox may go from one to another
                    if (peer := self._owners.get(number)) is not None:  # or it was dropped just now
                        self._open(peer, number)
                for key, _ in sockets:
                    key.data()
                    if self._store_ends:
                        break  # let nobody in to a store that is no more
                self._answer_late()
                if (now := time.monotonic()) >= self._chores_due:
                    self._chores_due = now + _TICK
                    self._do_chores(now)
        finally:
            self._end()

    def _answer_late(self) -> None:
        if has_turns := bool(self._turns):
            self._release()
        if self._held_back:
            self._settle()
        if self.journal.goes_over():
            self._compaction_duty.go_over()
            if self.journal.is_broken:
                self._leave()
        if self._events.waits or self._commits.waits:
            self._answer_waiting()
        if has_turns:
            self._grant()

    def destroy(self) -> None:
        """Remove the store, unless others are connected."""
        others = sum(peer.is_known for peer in self._peers) - 1
        if others:
            raise StoreUnavailableError(
                str(self.journal.directory), f"still in use by {others} other connections; close them first"
            )
        self._end_store()

    def stop(self) -> None:
        """End a private store."""
        if self._settings.creator is None:
            raise StoreUnavailableError(str(self.journal.directory), "not private, so its server is not to be stopped")
        self._end_store()

    def mailbox(self) -> Address | None:
        """Give the client that asks a mailbox: where it is, or None if there is none for it."""
        peer = self._asking
        if peer.mailbox is None and (number := self._mail.give()) is not None:
            peer.mailbox = number
            self._owners[number] = peer
        return None if peer.mailbox is None else self._mail.address(peer.mailbox)

    def commit_each(self, commits: Sequence[tuple[bytes, Sequence[Row], object]], resent: object) -> list[Any]:
        """Store some commits, each by itself, and answer each as if it had come alone."""
        return [
            self._outcome(0, self.journal.commit_events, (commit_id, rows, resent or is_open))
            for commit_id, rows, is_open in list(commits)
        ]

    def wait(self, incarnation: int, position: int, milliseconds: int) -> Wanted | None:
        """Answer when there is an event at this position, or so much later, or at once for another incarnation."""
        return self._wanted(self._events, self.journal.last_position, incarnation, position, milliseconds)

    def wait_for_commit(self, incarnation: int, offset: int, milliseconds: int) -> Wanted | None:
        """The same for a commit of whatever kind behind this offset."""
        return self._wanted(self._commits, self.journal.mark, incarnation, offset + 1, milliseconds)

    def turn(self, stream: str, client: bytes, commits: int, lease: int, idle: int, patience: int) -> Asked:
        """Answer when it is the client's turn to make commits to a stream, or with None when its patience is over.

        Lease, idleness and patience are in milliseconds.
        """
        return asked(stream, client, commits, lease, idle, patience)

    def give_back(self, stream: str, number: int) -> None:
        """End a turn."""
        self._turns.give_back(stream, number)

    def _wanted(self, among: Waiting, reached: int, *arguments: int) -> Wanted | None:
        if any(type(argument) is not int for argument in arguments):
            raise TypeError(f"a wait is for three numbers, not {shown(arguments)}")
        incarnation, number, milliseconds = arguments
        is_due = incarnation != self.journal.incarnation or number <= reached
        return None if is_due else Wanted(among, number, time.monotonic() + milliseconds / 1000)

    def _pause(self) -> float:
        if self.journal.goes_over():
            return 0.0
        now = time.monotonic()
        longest = max(0.0, min(LONGEST_SLEEP if self._owners else _TICK, self._chores_due - now))
        if not self._events.waits and not self._commits.waits and not self._turns:
            return longest
        return min(among.seconds(now, longest) for among in (self._events, self._commits, self._turns))

    def _accept(self) -> None:
        if (peer := self._door.admit()) is not None:
            self._peers.add(peer)
            self._selector.register(peer.socket, selectors.EVENT_READ, lambda: self._attend(peer))

    def _attend(self, peer: Peer) -> None:
        if peer not in self._peers:
            return  # it was dropped just now, for what it sent by mail
        if peer.unsent:
            self._deal_with(peer, peer.flush)
        else:
            self._deal_with(peer, self._receive, peer)

    def _receive(self, peer: Peer) -> None:
        for payload in peer.receive():
            if payload:  # an empty one is a ring
                self._respond(peer, payload, by_mail=False)

    def _open(self, peer: Peer, mailbox: int) -> None:
        """Answer what came by mail."""
        try:
            request = self._mail.request(mailbox)
            is_answered = self._commit_at_once(peer, mailbox, request)
        except Exception:  # noqa: BLE001 (as in `_deal_with`)
            self._complaints.about_exception()
            self._drop(peer)
            return
        if not is_answered:
            self._deal_with(peer, partial(self._respond, peer, request, by_mail=True))

    def _commit_at_once(self, peer: Peer, mailbox: int, request: bytes) -> bool:
        """Answer a request if it is to commit one event and nothing else is to be seen to, and say whether it is.

        This and `Journal.commit_event` touch little code, which is most of what a commit costs; see ARCHITECTURE.md.
        """
        if not request.startswith(REQUEST_MARK) or self._turns.streams or self._waits_for_disk:
            return False
        try:
            _, key_length, sequence, number, commit_id = unpack_request(request)
        except struct.error:
            return False
        key, payload = request[KEY_AT : KEY_AT + key_length], request[KEY_AT + key_length :]
        with self.mutex:
            try:
                placed = self.journal.commit_event(commit_id, key, sequence, payload)
                if placed is None:
                    placed = self.journal.commit_lone_event(commit_id, key, sequence, payload)
            except Exception as error:  # noqa: BLE001 (as in `_outcome`)
                peer.asks_by_mail = True
                self._deal_with(peer, self._reply, peer, wire.payload_of(self._failure(number, error)))
                return True
        if placed is None:
            return False
        if self._mail.reply(mailbox, pack_reply(REPLY, number, *placed)):
            self._deal_with(peer, peer.send, wire.RING)
        return True

    def _respond(self, peer: Peer, payload: bytes, *, by_mail: bool) -> None:
        self._asking = peer
        peer.asks_by_mail = by_mail
        number, reply = self._answer(payload)
        if not isinstance(reply, bytes):
            if not self._keep_waiting(peer, number, reply, HeldBack(peer, payload, by_mail)):
                raise wire.ProtocolError("it waits already")
        elif self.journal.is_unsettled and not self._store_ends:
            self._held_back.append((peer, number, reply))
        else:
            self._reply(peer, reply)

    def _keep_waiting(self, peer: Peer, number: int, reply: Late, request: HeldBack) -> bool:
        if isinstance(reply, Wanted):
            return reply.among.add(peer, number, reply)
        if isinstance(reply, Asked):
            return self._turns.ask(peer, number, reply)
        return self._turns.hold_back(reply.stream, request)

    def _reply(self, peer: Peer, reply: bytes) -> None:
        """By the way that the request came."""
        if not peer.asks_by_mail or peer.mailbox is None:
            peer.send(wire.frame(reply))
            return
        if len(reply) > LARGEST_MESSAGE:
            peer.send(wire.frame(reply))
            reply = BY_SOCKET
        if self._mail.reply(peer.mailbox, reply):
            peer.send(wire.RING)

    def _settle(self) -> None:
        """Let the disk have the commits of this batch, and answer them: one flush for all of them."""
        held_back, self._held_back = self._held_back, []
        if self.journal.is_broken:
            return  # the next server undoes them; those who wait are cut off, and ask it again
        error: StoreError | None = None
        try:
            self.journal.settle()
        except StoreError as reason:
            error = reason
            self._complaints.about(str(error))
            self.journal.give_up()
        for peer, number, reply in held_back:
            if peer in self._peers:
                self._deal_with(
                    peer, self._reply, peer, wire.payload_of(wire.refusal(number, error)) if error else reply
                )

    def _answer_waiting(self) -> None:
        incarnation = self.journal.incarnation
        is_same = incarnation == self._awaited_incarnation
        self._awaited_incarnation = incarnation
        now = time.monotonic()
        due = [*self._events.due(self.journal.last_position if is_same else None, now)]
        due += self._commits.due(self.journal.mark if is_same else None, now)
        for peer, number in due:
            if peer in self._peers:
                self._deal_with(peer, self._reply, peer, wire.payload_of([number, True, None]))
                self._has_woken = True

    def _release(self) -> None:
        """Carry out the commits that need not wait for the turn of another any longer."""
        self._turns.expire(time.monotonic())
        released = self._turns.released()
        self._may_hold_back = False
        for peer, payload, by_mail in released:
            if peer in self._peers:
                self._deal_with(peer, partial(self._respond, peer, payload, by_mail=by_mail))
        self._may_hold_back = True

    def _grant(self) -> None:
        """Tell whose turn it is, when what was committed before it can be read."""
        for peer, number, turn in self._turns.answers():
            if peer in self._peers:
                self._deal_with(peer, self._reply, peer, wire.payload_of([number, True, turn]))
                self._has_woken = True

    def _deal_with(self, peer: Peer, action: Callable[..., None], *arguments: object) -> None:
        """Whatever comes of it, go on: with the client, or without."""
        was_known, had_unsent = peer.is_known, bool(peer.unsent)
        try:
            action(*arguments)
        except BlockingIOError:
            return
        except (OSError, EOFError) as error:
            self._drop(peer, has_hung_up=isinstance(error, (ConnectionError, EOFError)))
            return
        except wire.ProtocolError as error:
            self._complaints.about(f"dropped a client: {error}")
            self._drop(peer)
            return
        except Exception:  # noqa: BLE001 (whatever a client sends must not end the server)
            self._complaints.about_exception()
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

    def _drop(self, peer: Peer, *, has_hung_up: bool = False) -> None:
        self._selector.unregister(peer.socket)
        peer.socket.close()
        self._peers.discard(peer)
        if peer.mailbox is not None:
            del self._owners[peer.mailbox]
            if has_hung_up:  # else it may go on writing there, and nobody else may have it
                self._mail.take_back(peer.mailbox)
        self._events.forget(peer)
        self._commits.forget(peer)
        self._turns.forget(peer)
        if peer.is_known:
            self._count_clients()

    def _count_clients(self) -> None:
        clients = sum(peer.is_known for peer in self._peers)
        self.journal.count_clients(clients)
        self._idle_since = time.monotonic()

    def _answer(self, payload: bytes) -> tuple[int, bytes | Late]:
        """The number of a request, and the reply, or when it is due."""
        try:
            number, ident, method, arguments = wire.unpack(payload)
        except ValueError:
            raise wire.ProtocolError("not a request") from None
        if type(number) is not int or type(arguments) is not tuple:
            raise wire.ProtocolError("not a request")
        try:
            function = self._calls[ident, method]
        except (KeyError, TypeError):
            raise wire.ProtocolError(f"no such call: {shown(ident)}, {shown(method)}") from None
        if self._turns and (commit := commit_of(method, arguments)):
            if self._may_hold_back and (stream := self._turns.waits_for(commit)) is not None:
                return number, Later(stream)
            self._turns.note(commit)
        with self.mutex:
            reply = self._outcome(number, function, arguments)
        return number, wire.payload_of(reply) if isinstance(reply, list) else reply

    def _outcome(self, number: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any] | Late:
        """The reply to a call, or when it is due."""
        try:
            result = function(*arguments)
            return result if isinstance(result, (Wanted, Asked)) else [number, True, result]
        except Exception as error:  # noqa: BLE001 (a disk that fails, say, must not end the server)
            return self._failure(number, error)

    def _failure(self, number: int, error: Exception) -> list[Any]:
        """The reply to a call that raised this just now."""
        if self.journal.is_broken:
            self._leave()
        if isinstance(error, StoreError):
            return wire.refusal(number, error)
        self._complaints.about_exception()
        if not self.journal.is_broken and isinstance(error, (TypeError, ValueError, struct.error)):
            return wire.refusal(number, InvalidEventError(f"the server cannot read this: {error}"))
        reason = f"the server failed, see {directories.SERVER_LOG} there: {type(error).__name__}: {error}"
        return wire.refusal(number, StoreUnavailableError(str(self.journal.directory), reason))

    def _do_chores(self, now: float) -> None:
        for peer in [peer for peer in self._peers if now > peer.deadline]:
            self._drop(peer)
        if self.journal.is_broken or not self._holds_directory():
            self._leave()
            return
        self._compaction_duty.look_after(now)
        if self._settings.creator is None:
            if not self._peers and now - self._idle_since > self._settings.idle_timeout:
                self._leave()
        elif not self._sees_creator and not creators.is_alive(self._settings.creator):
            self._end_store()

    def _holds_directory(self) -> bool:
        """Whether the store's directory is still the one that we hold; somebody may have removed it by hand."""
        try:
            return os.path.samestat(os.fstat(self._held), self.journal.directory.stat())
        except OSError:
            return False

    def _leave(self) -> None:
        self._leaving = True

    def _end_store(self) -> None:
        self._store_ends = True
        self._leave()

    def _end(self) -> None:
        self.listener.close()
        try:
            if self._store_ends:
                self._remove_store()
            else:
                self.journal.secure()
        except (OSError, StoreError):
            self._complaints.about_exception()
        # Last of all, since a client that waits for the end waits for this.
        for peer in self._peers:
            peer.socket.close()
        self._selector.close()
        if self._holds_directory():
            self._mail.close()
        self.journal.close()
        self._door.close()

    def _remove_store(self) -> None:
        if self._holds_directory():
            self.journal.retire()
            directories.remove(self.journal.directory)


class StoreManager(managers.BaseManager):
    """The manager of a store; `get_server` in the stock one does not honour `_Server`."""

    _Server = LoopServer

    def get_server(self) -> LoopServer:
        return LoopServer(self._registry, self._address, self._authkey, self._serializer)  # type: ignore[attr-defined]
