"""Who may talk to the server: both sides prove that they know the store's key, by HMAC-SHA-256 over both nonces.

    server   GREETING, 32 random bytes
    client   32 random bytes, proof("client")
    server   proof("server")

The stock handshake of `multiprocessing` is not used: it still accepts an MD5 answer in CPython 3.12, and it waits for
ever. Pure functions; the deadline is kept by whoever reads the socket.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

GREETING: Final = b"maestro_shm 2\n"
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
KEY_BYTES: Final = 32
MAX_MESSAGE_BYTES: Final = 128
"""No message of the handshake is longer; nothing longer is read from a stranger."""


def greeting() -> bytes:
    """The server's first message, new for each connection."""
    return GREETING + os.urandom(NONCE_BYTES)


def is_greeting(message: bytes) -> bool:
    """Whether a server of this version speaks."""
    return message.startswith(GREETING) and len(message) == len(GREETING) + NONCE_BYTES


def answer(key: bytes, greeted: bytes) -> bytes:
    """The client's answer to a greeting."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + _proof(key, b"client", greeted, nonce)


def accepts(key: bytes, greeted: bytes, answered: bytes) -> bool:
    """Whether the answer to the greeting came from somebody with the key."""
    nonce, proof = answered[:NONCE_BYTES], answered[NONCE_BYTES:]
    return len(answered) == NONCE_BYTES + PROOF_BYTES and hmac.compare_digest(
        proof, _proof(key, b"client", greeted, nonce)
    )


def confirmation(key: bytes, greeted: bytes, answered: bytes) -> bytes:
    """The server's own proof, which the client compares with what it computes itself."""
    return _proof(key, b"server", greeted, answered[:NONCE_BYTES])


def _proof(key: bytes, role: bytes, greeted: bytes, client_nonce: bytes) -> bytes:
    return hmac.digest(key, role + greeted + client_nonce, hashlib.sha256)
