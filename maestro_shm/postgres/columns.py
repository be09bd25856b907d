"""Ids, names and keys as the database's columns have them."""

from __future__ import annotations

import hashlib
from typing import Final

_LONGEST: Final = 1000
"""Bytes. An entry of an index must fit on a third of a page, which has 8 kB, and two may stand in one."""
_CUT: Final = b"\xff"
"""Which no UTF-8 has, so that nothing short is taken for the beginning of something long."""


def column(text: str) -> bytes:
    """What rows are found by: the UTF-8, or where that is long its beginning and a hash of all of it."""
    whole = text.encode()
    if len(whole) <= _LONGEST:
        return whole
    return whole[:_LONGEST] + _CUT + hashlib.sha256(whole).digest()


def whole_column(text: str) -> bytes | None:
    """What stands beside it where it is cut."""
    whole = text.encode()
    return whole if len(whole) > _LONGEST else None


def prefix_column(prefix: str) -> bytes:
    """What the column of everything with this prefix begins with, and of some more where the prefix is long."""
    return prefix.encode(errors="surrogatepass")[:_LONGEST]


def text_of(key: bytes, whole: bytes | None) -> str:
    """The text of such a pair."""
    return (whole or key).decode()
