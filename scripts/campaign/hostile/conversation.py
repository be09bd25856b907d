"""What a hostile client says to a server, and what it is answered: every message is to have an answer, or an end."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import msgpack

from maestro_shm import errors
from maestro_shm.shared import handshake, plain_commit, wire


def _names(kind: type[errors.StoreError]) -> set[str]:
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))


_ANSWERS: Final = _names(errors.StoreError)
_SECRETS: Final = (b"Traceback (most recent", b'File "/', b".py")
_FAILED: Final = b"the server failed"


@dataclass
class Record:
    """What became of the messages of one attacker."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    stored: int = 0
    """Commits that were answered as stored, or may have been before the line ended."""

    def fault(self, kind: str, message: bytes) -> None:
        self.faults[kind] += 1
        self.examples.setdefault(kind, message[:200].hex())

    def add(self, other: Record) -> None:
        self.outcomes += other.outcomes
        self.faults += other.faults
        self.stored += other.stored
        self.examples = other.examples | self.examples


class Ended(Exception):  # noqa: N818 (no error: it is what is wanted)
    """The server hung up."""


class Conversation:
    """One connection."""

    def __init__(self, address: str, patience: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._patience = patience
        self._received = b""
        try:
            self._socket.settimeout(patience)
            self._socket.connect(address)
            self.greeted = self.hear()
        except BaseException:
            self._socket.close()
            raise

    def say(self, stream: bytes, chunks: list[int] | None = None, pause: float = 0) -> None:
        """Send it, in pieces perhaps. Receives meanwhile, or both sides would wait for the other to do so."""
        for piece in pieces(stream, chunks):
            view = memoryview(piece)
            while view:
                readable, writable, _ = select.select([self._socket], [self._socket], [], self._patience)
                if not readable and not writable:
                    raise TimeoutError
                if readable and not self._receive():
                    return
                if writable:
                    view = view[self._send(view) :]
            if pause:
                time.sleep(pause)

    def hear(self) -> bytes:
        """The next whole message. Raises `Ended`, and `TimeoutError` if neither comes."""
        while True:
            length = int.from_bytes(self._received[:4]) + 4
            if len(self._received) >= max(4, length):
                message, self._received = self._received[4:length], self._received[length:]
                return message
            if not self._receive():
                raise Ended

    def rings(self, seconds: float) -> None:
        """Hear what there is to hear within the time. Raises `Ended`."""
        if select.select([self._socket], [], [], seconds)[0] and not self._receive():
            raise Ended

    def end(self) -> None:
        """Say that nothing follows."""
        with contextlib.suppress(OSError):  # the other side has ended it already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def take_over(self) -> socket.socket:
        """The connection itself, for whoever has something else to do with it."""
        return self._socket

    def _receive(self) -> bool:
        """Whether there is more to come."""
        try:
            data = self._socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        self._received += data
        return bool(data)

    def _send(self, view: memoryview) -> int:
        try:
            return self._socket.send(view[: 1 << 16], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except ConnectionError:
            return len(view)  # what was answered before is still to be heard


def pieces(stream: bytes, chunks: list[int] | None) -> list[bytes]:
    """A stream cut at these places."""
    if not chunks:
        return [stream]
    ends = [0, *sorted(chunks), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(ends) if end > start]


def cuts(choices: Random, length: int) -> list[int]:
    """Where to cut a stream into pieces."""
    return [choices.randint(0, length) for _ in range(choices.randint(1, 6))]


def messages_in(stream: bytes, limit: int) -> tuple[list[bytes], str]:
    """The whole messages of a stream, and how it ends: "whole", "partial", or with one "over" the limit."""
    found: list[bytes] = []
    start = 0
    while len(stream) - start >= wire.LENGTH_BYTES:
        end = start + wire.LENGTH_BYTES + int.from_bytes(stream[start : start + wire.LENGTH_BYTES])
        if end - start - wire.LENGTH_BYTES > limit:
            return found, "over"
        if end > len(stream):
            return found, "partial"
        found.append(stream[start + wire.LENGTH_BYTES : end])
        start = end
    return found, "whole" if start == len(stream) else "partial"


def known(address: str, key: bytes, patience: float) -> Conversation:
    """A conversation with the handshake behind it."""
    talk = Conversation(address, patience)
    try:
        answered = handshake.answer(key, talk.greeted)
        talk.say(wire.frame(answered))
        assert talk.hear() == handshake.confirmation(key, talk.greeted, answered)
    except BaseException:
        talk.close()
        raise
    return talk


def judge(record: Record, request: bytes, reply: bytes) -> None:
    """Count a reply, and find fault with it."""
    try:
        number, good, *rest = _unpacked(reply)
        kind = "result" if good is True and len(rest) == 1 else rest[0]
    except (ValueError, TypeError, IndexError, struct.error):
        record.fault("unreadable", reply)
        return
    if kind != "result" and (good is not False or len(rest) != 2 or kind not in _ANSWERS):
        record.fault("unreadable", reply)
    if number != _number_of(request):
        record.fault("mistaken", request)
    if _FAILED in reply:
        record.fault("failed", request)
    if kind != "result" and any(secret in reply and secret not in request for secret in _SECRETS):
        record.fault("talkative", request)
    record.outcomes[str(kind)] += 1
    record.stored += commits_in(request) if kind == "result" else 0


def _unpacked(reply: bytes) -> Any:
    """What is in a reply, of whichever form."""
    if reply.startswith(plain_commit.REPLY.to_bytes(2, "little")):
        _, number, *placed = plain_commit.unpack_reply(reply)
        return number, True, placed
    return msgpack.unpackb(reply, use_list=False, unicode_errors="surrogateescape")


def commits_in(request: bytes) -> int:
    """How many commits may be stored by a request at most."""
    try:
        _, _, method, arguments = wire.unpack(request)
        return len(arguments[0]) if method == "commit_each" else 1
    except (wire.ProtocolError, ValueError, TypeError, IndexError):
        return 1


def forgets_everything(message: bytes) -> bool:
    """Whether this is a right call of `reset`: it would be carried out, and leave nothing to look at."""
    if b"reset" not in message:
        return False
    try:
        return bool(msgpack.unpackb(message, unicode_errors="surrogateescape")[1:] == ["journal", "reset", []])
    except (ValueError, TypeError, RecursionError, KeyError):
        return False


def _number_of(request: bytes) -> Any:
    """The number of a request, or something that no reply can have."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(request)
    try:
        if request.startswith(plain_commit.REQUEST_MARK):
            return wire.unpack(request)[0]
        unpacker.read_array_header()
        return unpacker.unpack()
    except (msgpack.UnpackException, ValueError, wire.ProtocolError):
        return object()
