"""Messages made wrong: by their bits, by their lengths, by their structure.

What is changed by its structure is mostly still a request, and gets deep into the server; what is changed by its bits
mostly does not, and shows what happens at the gate.
"""

from __future__ import annotations

import math
import os
import pickle
import random
from pathlib import Path
from typing import Any, Final

import msgpack

from maestro_shm.shared import plain_commit, wire

_FLIPPED: Final = 8
_BROKEN: Final = 0.04
_PLAIN: Final = 0.15
_HTTP: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4294967295\r\n\r\n"


class Raw(bytes):
    """Goes into a message as it is, whether it is msgpack or not."""

    __slots__ = ()


class Evil:
    """When it is unpickled it makes a file, by which it is known that it was."""

    def __init__(self, marker: Path) -> None:
        self._marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._marker,)


def pickles(marker: Path) -> list[bytes]:
    """Pickles that make the marker, and one of lists in lists that has no end when it is shown."""
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    evil = [pickle.dumps(Evil(marker), protocol) for protocol in protocols]
    bomb = b"(lp0\n" + b"".join(b"(lp%d\n" % number + b"g%d\na" % (number - 1) * 99 for number in range(1, 30)) + b"."
    return [*evil, b"cos\nsystem\n(S'mkdir -p " + os.fsencode(marker) + b"'\ntR.", bomb]


def odd_values(marker: Path) -> list[Any]:
    """What no client would put anywhere into a message, but what may stand there."""
    numbers = [0, 1, -1, 127, 128, 255, 256, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63)]
    floats = [0.0, -0.0, 1.0, 1.5, 1e308, math.nan, math.inf, -math.inf]
    texts = ["", "a", "\0", "ü", "\udc80", "__class__", "journal", "stop", "x" * 255, "x" * 65_535, "x" * 65_536]
    binary = [b"", bytes(15), bytes(16), bytes(17), b"\xff" * 300, bytes(70_000), _HTTP, *pickles(marker)]
    arrays = [b"\x90", b"\x91\x90", b"\x91" * 20 + b"\xc0", b"\x91" * 500 + b"\xc0", b"\xdc\x27\x10" + b"\x90" * 10_000]
    return [None, True, False, *numbers, *floats, *texts, *binary, *map(Raw, arrays)]


def broken_values() -> list[Raw]:
    """What makes the message in which it stands no message any more, or another one."""
    arrays = [
        b"\xdd\x7f\xff\xff\xff",
        b"\xdd\x00\x07\xff\xff",
        b"\xdc\xff\xff",
        b"\x9f",
        b"\xdd\x00\x07\xff\xff" * 1000,
    ]
    arrays += [b"\x91" * 1200 + b"\xc0", b"\x91" * 100_000]
    maps = [b"\x80", b"\x81\x01\x02", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x81\x01" * 100 + b"\xc0"]
    texts = [b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xa4\xff\xfe\xfd\xfc", b"\xa3\xed\xa0\x80"]
    extensions = [b"\xd6\xff\0\0\0\0", b"\xd4\x01\0", b"\xc7\0\x7f", b"\xc9\xff\xff\xff\xff\x01"]
    return [Raw(value) for value in (*arrays, *maps, *texts, *extensions, b"\xc1", b"")]


def encoded(node: Any) -> bytes:
    """The msgpack of a value, in which parts may be raw."""
    if isinstance(node, Raw):
        return node
    if isinstance(node, list):
        return bytes(msgpack.Packer().pack_array_header(len(node))) + b"".join(map(encoded, node))
    return bytes(msgpack.packb(node, unicode_errors="surrogatepass"))


class Mutator:
    """Makes wrong messages of right ones."""

    def __init__(self, choices: random.Random, recorded: list[bytes], marker: Path, *, first_sequence: int = 0) -> None:
        """`recorded` are payloads as an honest party sends them."""
        self._choices = choices
        self._recorded = recorded
        self._foreign = [*pickles(marker), _HTTP, b"", b"\0", b"\xff" * 100, b"#CHALLENGE#" + bytes(20), b"#WELCOME#"]
        self._odd = odd_values(marker)
        self._broken = broken_values()
        self._last_sequence = first_sequence

    def by_structure(self) -> bytes:
        """A payload with a few of its parts exchanged for others, left out, doubled, or wrapped."""
        if self._choices.random() < _PLAIN:
            return self._plain_commit()
        message = msgpack.unpackb(self._choices.choice(self._recorded))
        self._bring_up_to_date(message)
        for _ in range(self._choices.choice((1, 1, 1, 2, 3))):
            self._change_a_part(message)
        return encoded(message)

    def _plain_commit(self) -> bytes:
        """One whose fields are of the right size, whatever is in them."""
        choices = self._choices
        self._last_sequence += 1
        key = choices.choice((b"plain", b"plain", b"new-%d" % self._last_sequence, b"", b"\xff", b"k" * 300))
        length = choices.choice((len(key), len(key), len(key), len(key) + 1, 0, 65_535))
        sequence = choices.choice((self._last_sequence * 1000, self._last_sequence * 1000, 0, 1, 2**63 - 1, 2**64 - 1))
        payload = choices.choice((b"\x93\xa4made\xc0\xc0", b"", choices.randbytes(60), bytes(7_000)))
        head = plain_commit.pack_request(
            plain_commit.REQUEST, length, sequence, self._last_sequence, choices.randbytes(16)
        )
        return head + key + payload

    def by_bytes(self, payload: bytes | None = None) -> bytes:
        """A payload with its bytes changed, or one that never was a message."""
        payload = self._choices.choice(self._recorded) if payload is None else payload
        change = self._choices.choice((self._flip, self._flip, self._cut, self._insert, self._splice, self._replace))
        return change(payload)

    def framed(self, payload: bytes) -> bytes:
        """A payload as it goes over the socket, mostly with its length before it."""
        how = self._choices.random()
        if how < 0.8:
            return wire.frame(payload)
        if how < 0.85:
            return wire.frame(payload) * 2
        if how < 0.88:
            return payload
        if how < 0.91:
            return self._cut(wire.frame(payload))
        lengths = (0, len(payload) - 1, len(payload) + 1, len(payload) * 2, 1 << 20, 1 << 21, 2**31, 2**32 - 1)
        return (self._choices.choice(lengths) & 0xFFFFFFFF).to_bytes(4) + payload

    def _bring_up_to_date(self, message: list[Any]) -> None:
        """Number it anew; and some commits' events, or all would be refused for their sequence numbers."""
        self._last_sequence += 1
        message[0] = self._last_sequence
        if message[2] in ("commit_events", "commit") and self._choices.random() < 0.4:
            for number, row in enumerate(message[3][1]):
                row[1] = self._last_sequence * 1000 + number
            if message[2] == "commit":
                self._decide_anew(message[3][2], message[3][3])

    def _decide_anew(self, changes: list[list[Any]], reads: list[list[Any]]) -> None:
        """Let changes follow on whatever there is, and nothing have been read but what is not there."""
        for number, change in enumerate(changes):
            change[2] = self._last_sequence * 1000 + number
        for read in reads:
            read[1:] = [f"nothing-{self._last_sequence}", *read[2:3], -1]

    def _change_a_part(self, message: list[Any]) -> None:
        choices = self._choices
        parent = message
        if message and isinstance(message[-1], list) and choices.random() < 0.97:
            parent = message[-1]  # the arguments: with another head it is no request
        while lists := [part for part in parent if isinstance(part, list)]:
            if choices.random() < 0.5:
                break
            parent = choices.choice(lists)
        place = choices.randrange(len(parent) + 1)
        change = choices.randrange(8)
        if change == 0 or place == len(parent):
            parent.insert(place, self._odd_value())
        elif change == 1:
            del parent[place]
        elif change == 2:
            parent.insert(place, parent[place])
        elif change == 3:
            parent[place] = [parent[place]]
        else:
            parent[place] = self._odd_value()

    def _odd_value(self) -> Any:
        return self._choices.choice(self._broken if self._choices.random() < _BROKEN else self._odd)

    def _flip(self, payload: bytes) -> bytes:
        changed = bytearray(payload)
        for _ in range(self._choices.randint(1, _FLIPPED) if payload else 0):
            bit = self._choices.randrange(len(payload) * 8)
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    def _cut(self, payload: bytes) -> bytes:
        return payload[: self._choices.randint(0, max(0, len(payload) - 1))]

    def _insert(self, payload: bytes) -> bytes:
        place = self._choices.randint(0, len(payload))
        return payload[:place] + self._choices.randbytes(self._choices.randint(1, 40)) + payload[place:]

    def _splice(self, payload: bytes) -> bytes:
        other = self._choices.choice(self._recorded)
        return payload[: self._choices.randint(0, len(payload))] + other[self._choices.randint(0, len(other)) :]

    def _replace(self, _: bytes) -> bytes:
        if self._choices.random() < 0.5:
            return self._choices.randbytes(self._choices.randint(0, 200))
        return self._choices.choice(self._foreign)
