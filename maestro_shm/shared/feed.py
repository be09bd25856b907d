"""The feed: the store's events in the order of their positions, up to a published offset.

The position array leads to them. It has no CRC of its own, but each record has one that begins from its offset, and
tells its position: so a wrong word is found.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from maestro_shm import codec
from maestro_shm.cut import StoredEvent
from maestro_shm.records import Event
from maestro_shm.selection import Selection
from maestro_shm.shared.log import Log, Placed
from maestro_shm.shared.positions import Positions, is_hole, offset_by

_BATCH: Final = 512
_BATCH_BYTES: Final = 1 << 20
"""Events that are decoded at once, and the bytes of the log in which they begin. The first is there after a
millisecond, and each costs a tenth more one by one."""
_REBUILD_PATIENCE: Final = 10.0
"""Seconds to wait for positions that are missing: somebody removed them, and a new server builds them again."""


FloorOf = Callable[[bytes], int]
"""Below which sequence number the events of a stream were truncated, by its key."""


class Feed:
    """Of one generation of a store's files; `is_current` says whether they still are that."""

    def __init__(self, log: Log, positions: Positions, is_current: Callable[[], bool]) -> None:
        self._log = log
        self._positions = positions
        self._is_current = is_current

    def last_position(self, published: int, newest: int) -> int:
        """The position of the last event below the published offset; `newest` is one that was noted later than that.

        The two cannot be read at once: the commits between them are stepped over.
        """
        if not newest or self.offset(newest) < published:
            return newest
        return bisect_left(range(1, newest), published, key=self.offset)

    def batches(self, wanted: Selection, last: int, floor_of: FloorOf | None) -> Iterator[tuple[int, list[Event]]]:
        """The wanted events up to a last position, some at once, each time with the position up to which that is all.

        Without what lies below a floor, if there is any.
        """
        position, left = wanted.after + 1, wanted.limit
        heads = None if wanted.types is None else tuple(map(codec.event_head, wanted.types))
        prefix = wanted.aggregate_prefix.encode(errors="surrogatepass")
        is_filtered = heads is not None or bool(prefix) or floor_of is not None
        while position <= last and left != 0:
            most = _BATCH if left is None or is_filtered else min(_BATCH, left)
            count, _, placed = self._placed(position, min(most, last - position + 1))
            if floor_of is not None:
                placed = [one for one in placed if one[1] >= floor_of(one[0])]
            events = [
                codec.unpack_event(key.decode(), sequence, timestamp, position, payload)
                for key, sequence, position, timestamp, payload, _ in placed
                if (heads is None or payload.startswith(heads)) and key.startswith(prefix)
            ]
            if left is not None:
                del events[left:]
                left -= len(events)
            position += count
            yield position - 1, events

    def stored(self, after: int, last: int, floor_of: FloorOf | None) -> Iterator[list[StoredEvent]]:
        """All events behind a position up to a last one, some at once. Those of one commit lie in one frame."""
        position = after + 1
        while position <= last:
            count, offsets, placed = self._placed(position, min(_BATCH, last - position + 1))
            position += count
            yield [
                StoredEvent(key.decode(), sequence, timestamp, payload, place, offset - distance)
                for (key, sequence, place, timestamp, payload, distance), offset in zip(placed, offsets, strict=True)
                if floor_of is None or sequence >= floor_of(key)
            ]

    def _placed(self, first: int, count: int) -> tuple[int, list[int], list[Placed]]:
        """The first of so many events from a position on, as far as they are read at once, and where they lie.

        And how many positions that are; some may have no event any more.
        """
        words = self._offsets(first, count)
        offsets = [word for word in words if not word & 1]  # not `is_hole`: every event is looked at here
        if not offsets:
            return len(words), [], []
        positions: Sequence[int] = range(first, first + len(words))
        if len(offsets) < len(words):
            positions = [position for position, word in zip(positions, words, strict=True) if not is_hole(word)]
        end = max(1, bisect_left(offsets, offsets[0] + _BATCH_BYTES))
        covered = len(words) if end >= len(offsets) else positions[end] - first
        del offsets[end:]
        placed = self._log.read_placed(offsets)
        self._check(positions, placed, offsets)
        return covered, offsets, placed

    def _check(self, positions: Sequence[int], placed: list[Placed], offsets: list[int]) -> None:
        for position, found, offset in zip(positions, placed, offsets, strict=False):
            if found[2] != position:
                raise self._log.damage(offset, f"the event at position {position:,} ought to be here")

    def offset(self, position: int) -> int:
        """Where the event at this position lies; where it is no more, what `Positions` leads to in its place, or 0."""
        return offset_by(self._offsets(position, 1)[0])

    def _offsets(self, first: int, count: int) -> list[int]:
        """Those of the first positions of so many that are in one segment, at least one."""
        deadline = time.monotonic() + _REBUILD_PATIENCE
        has_looked_again = False
        while True:
            is_current = self._is_current()
            offsets = self._positions.offsets(first, count)
            if offsets and all(offsets):
                return offsets
            if has_looked_again or time.monotonic() > deadline:
                raise self._positions.damage(first)
            if not is_current:  # those that were mapped may have been replaced since, and never go on
                self._positions.map_anew()
                has_looked_again = True
            else:
                time.sleep(0.001)
