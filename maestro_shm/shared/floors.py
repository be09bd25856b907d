"""Floors: below which sequence numbers the events of streams were truncated, as readers see it.

While nothing was truncated in the whole store, all that is looked at is one word of the header.
"""

from __future__ import annotations

from typing import Final, Protocol

from maestro_shm.shared.frame import FLOOR
from maestro_shm.shared.header import NEWEST_FLOOR
from maestro_shm.shared.index import Index
from maestro_shm.shared.log import Log

_CACHED: Final = 1 << 16


class Words(Protocol):
    """Those of a header."""

    def __getitem__(self, number: int, /) -> int:
        """One of them."""


class Floors:
    """Of one view."""

    def __init__(self, words: Words, index: Index, log: Log) -> None:
        self._words = words
        self._index = index
        self._log = log
        self._known: dict[bytes, tuple[int, int, int]] = {}
        """Which floor was the newest of all when it was looked up; the offset and sequence of the stream's newest."""

    @property
    def are_there(self) -> bool:
        """Whether there are any."""
        return self._words[NEWEST_FLOOR] != 0

    def get(self, key: bytes, published: int) -> int:
        """Below which sequence number the events of a stream are truncated, going by what is published; or 0."""
        newest_of_all = self._words[NEWEST_FLOOR]
        if not newest_of_all:
            return 0
        known = self._known.get(key)
        if known is not None and known[0] == newest_of_all and known[1] < published:
            return known[2]
        word = self._index.find(FLOOR, key)
        newest = offset = self._index.words[word] if word is not None else 0
        while offset >= published:
            offset = self._log.read(offset)[1]
        found = self._log.read(offset)[0] if offset else 0
        if offset == newest:  # or an older cut is read, which says nothing of newer ones
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[key] = newest_of_all, offset, found
        return found
