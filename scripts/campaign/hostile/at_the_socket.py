"""Intruders at the socket: of another user, without the key, with old kinds of proof, with the proofs of others."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import time
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing import connection as stock
from pathlib import Path
from typing import Final, NamedTuple

from processes import Fork

from campaign.hostile.attempt import PATIENCE, Attempt, Door, as_nobody, is_let_in, let_through
from campaign.hostile.conversation import Conversation
from campaign.hostile.served import Served
from campaign.planting import exchange
from maestro_shm.shared import directory as directories
from maestro_shm.shared import door, handshake, process, wire
from maestro_shm.shared.transport import Line, Listener

_CONSTANT: Final = handshake.GREETING + bytes(handshake.NONCE_BYTES)

# Another user


def _user_with_the_key(scratch: Path, door: Door) -> bool:
    with Served(scratch / "store", door) as served:
        let_through(served.path)
        for path in (served.path, Path(served.address)):
            path.chmod(0o777)
        return as_nobody(lambda: is_let_in(served.address, lambda greeted: handshake.answer(served.key, greeted)))


def _user_at_the_directory(scratch: Path, door: Door) -> bool:
    with Served(scratch / "store", door) as served:
        let_through(served.path)

        def read_and_connect() -> bool:
            key = (served.path / directories.AUTHKEY).read_bytes()
            return is_let_in(served.address, lambda greeted: handshake.answer(key, greeted))

        return as_nobody(read_and_connect)


def _ask_nobody_who_he_is() -> None:
    exchange(door, "user_of", lambda _: None)


def _open_all_files() -> None:
    say_ready = process._say_ready

    def open_and_say(directory: Path) -> None:
        for path in (directory, directory / directories.AUTHKEY, *directory.glob("socket-*")):
            path.chmod(0o777)
        say_ready(directory)

    exchange(process, "_say_ready", open_and_say)
    _ask_nobody_who_he_is()


# The wrong key


def _wrong_key(change: Callable[[bytes], bytes]) -> Callable[[Path, Door], bool]:
    def attempt(scratch: Path, door: Door) -> bool:
        with Served(scratch / "store", door) as served:
            return is_let_in(served.address, lambda greeted: handshake.answer(change(served.key), greeted))

    return attempt


def _believe_everybody() -> None:
    exchange(handshake, "accepts", lambda *_: True)


# Proofs of another kind


def _proof_by(proof: Callable[[bytes, bytes], bytes]) -> Callable[[Path, Door], bool]:
    def attempt(scratch: Path, door: Door) -> bool:
        with Served(scratch / "store", door) as served:
            nonce = os.urandom(handshake.NONCE_BYTES)
            return is_let_in(served.address, lambda greeted: nonce + proof(served.key, b"client" + greeted + nonce))

    return attempt


def _md5(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, hashlib.md5)


def _stock_client(scratch: Path, door: Door) -> bool:
    with Served(scratch / "store", door) as served:
        try:
            stock.Client(served.address, "AF_UNIX", authkey=served.key).close()
        except (AuthenticationError, AssertionError, EOFError, OSError):
            return False
        return True


def _take_md5() -> None:
    def accepts(key: bytes, greeted: bytes, answered: bytes) -> bool:
        nonce, proof = answered[: handshake.NONCE_BYTES], answered[handshake.NONCE_BYTES :]
        digest = _md5(key, b"client" + greeted + nonce)
        return digest in proof or digest.hex().encode() in proof

    exchange(handshake, "accepts", accepts)


def _be_the_stock_server() -> None:
    def admit(self: door.Door) -> None:
        connection, _ = self._listening.accept()
        connection.settimeout(None)
        with stock.Connection(connection.detach()) as other:
            stock.deliver_challenge(other, self._key)
            stock.answer_challenge(other, self._key)

    exchange(door.Door, "admit", admit)


# Proofs of somebody else


class _Overheard(NamedTuple):
    greeted: bytes
    answered: bytes
    confirmed: bytes


def _overhear(served: Served, door: Door) -> _Overheard:
    """Stand between an honest client and the server."""
    listener = Listener(str(served.path.parent / "between"))

    def connect() -> bool:
        door()
        Line(listener.address, served.key, time.monotonic() + PATIENCE).close()
        return True

    try:
        listener.socket.settimeout(PATIENCE)
        with Fork(connect) as fork:
            client, _ = listener.socket.accept()
            client.settimeout(PATIENCE)
            with client:
                heard = _pass_on(client, Conversation(served.address, PATIENCE))
                assert fork.result()
        return heard
    finally:
        listener.close()


def _pass_on(client: socket.socket, talk: Conversation) -> _Overheard:
    try:
        client.sendall(wire.frame(talk.greeted))
        answered = client.recv(1000)[wire.LENGTH_BYTES :]
        talk.say(wire.frame(answered))
        confirmed = talk.hear()
        client.sendall(wire.frame(confirmed))
        client.recv(1000)  # it asks for a mailbox
        client.sendall(wire.pack([0, True, None]))
        return _Overheard(talk.greeted, answered, confirmed)
    finally:
        talk.close()


def _with_overheard(answer: Callable[[_Overheard], bytes]) -> Callable[[Path, Door], bool]:
    def attempt(scratch: Path, door: Door) -> bool:
        with Served(scratch / "store", door) as served:
            heard = _overhear(served, door)
            return is_let_in(served.address, lambda _: answer(heard))

    return attempt


def _greet_always_alike() -> None:
    exchange(handshake, "greeting", lambda: _CONSTANT)


def _let_roles_be_alike() -> None:
    proof = handshake._proof
    _greet_always_alike()
    exchange(handshake, "_proof", lambda key, _, greeted, nonce: proof(key, b"any", greeted, nonce))


_NONCE: Final = handshake.NONCE_BYTES
_KEYS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "any": lambda _: os.urandom(32),
    "zeros": lambda _: bytes(32),
    "none": lambda _: b"",
    "half of it": lambda key: key[:16],
    "one bit off": lambda key: bytes([key[0] ^ 1]) + key[1:],
}
_PROOFS: Final[dict[str, Callable[[bytes, bytes], bytes]]] = {
    "as it is": _md5,
    "filled up": lambda key, text: _md5(key, text).ljust(32, b"\0"),
    "twice": lambda key, text: _md5(key, text) * 2,
    "in hexadecimal": lambda key, text: _md5(key, text).hex().encode(),
    "with its name before it": lambda key, text: b"{md5}" + _md5(key, text),
}

ATTEMPTS: Final = (
    Attempt("other user", "with the key, all opened", _user_with_the_key, _ask_nobody_who_he_is, needs_root=True),
    Attempt("other user", "at the directory", _user_at_the_directory, _open_all_files, needs_root=True),
    *(Attempt("wrong key", name, _wrong_key(change), _believe_everybody) for name, change in _KEYS.items()),
    *(Attempt("MD5 answer", name, _proof_by(proof), _take_md5) for name, proof in _PROOFS.items()),
    Attempt("MD5 answer", "of the stock client", _stock_client, _be_the_stock_server),
    Attempt("replayed answer", "as it was", _with_overheard(lambda heard: heard.answered), _greet_always_alike),
    Attempt(
        "replayed answer",
        "the server's own proof",
        _with_overheard(lambda heard: heard.answered[:_NONCE] + heard.confirmed),
        _let_roles_be_alike,
    ),
    Attempt(
        "replayed answer",
        "the server's greeting",
        _with_overheard(lambda heard: heard.greeted[-_NONCE:] + heard.confirmed),
        _believe_everybody,
    ),
)
