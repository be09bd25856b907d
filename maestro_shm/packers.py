"""msgpack packers that are used again: to make one for each message costs more than to pack a small one (0.8 µs)."""

from __future__ import annotations

from typing import Any, Final

import msgpack

_LARGEST_KEPT: Final = 1 << 18
"""A packer never gives memory back, so one that has packed more bytes than it had from the start is let go."""


class Packers:
    """Packers of one kind. Each has one user at a time: threads may share them, and a packer's hook may pack, too."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._at_rest: list[msgpack.Packer] = []

    def pack(self, value: Any) -> bytes:
        """The bytes of a value. Raises what msgpack does; a packer that has raised is not used again."""
        try:
            packer = self._at_rest.pop()
        except IndexError:
            packer = msgpack.Packer(**self._options)
        packed: bytes = packer.pack(value)
        if len(packed) <= _LARGEST_KEPT:
            self._at_rest.append(packer)
        return packed
