"""The newest record of each key, as the writer sees it: those that it wrote last are remembered, the index has all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from maestro_shm.shared.frame import KINDS
from maestro_shm.shared.index import GrowingIndex
from maestro_shm.shared.log import Log

_REMEMBERED: Final = 1 << 16
"""How many of a kind."""

Head = tuple[int, int, int]
"""The newest record of a key: the word of the index that points to it (or 0), its offset, its sequence."""
NO_HEAD: Final[Head] = (0, 0, -1)


class Heads:
    """Of one incarnation."""

    def __init__(self, index: GrowingIndex, log: Log) -> None:
        self._index = index
        self._log = log
        self._known: dict[int, dict[bytes, Head]] = {kind: {} for kind in KINDS}

    def remembered(self, kind: int) -> dict[bytes, Head]:
        """Those of a kind that are known without a look at the index. It is the same dict for ever."""
        return self._known[kind]

    def get(self, kind: int, key: bytes) -> Head:
        """The newest record of a key."""
        if (found := self._known[kind].get(key)) is not None:
            return found
        word = self._index.find(kind, key)
        if word is None:
            return NO_HEAD
        offset = self._index.words[word]
        return word, offset, self._log.read(offset)[0]

    def has_payload(self, head: Head) -> bool:
        """Whether the record has any."""
        return bool(head[1] and self._log.read(head[1])[4])

    def note(self, heads: Mapping[int, Mapping[bytes, Head]]) -> None:
        """Remember what was written, by kinds and keys."""
        for kind, newest in heads.items():
            self._with_room(kind).update(newest)

    def remember(self, kind: int, key: bytes, head: Head) -> None:
        """The same for one key."""
        self._with_room(kind)[key] = head

    def forget(self) -> None:
        """Know nothing any more: the words of the index are others now."""
        for known in self._known.values():
            known.clear()

    def _with_room(self, kind: int) -> dict[bytes, Head]:
        known = self._known[kind]
        if len(known) > _REMEMBERED:
            known.clear()
        return known
