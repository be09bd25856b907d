"""From the position of an event to its offset in the log: one word for each, in segments.

Where an event was truncated, and its space is used again, there is a hole: the offset of another event of its commit,
or else of the last one before, or 0; and one more. Offsets are multiples of 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from maestro_shm.errors import CorruptLogError
from maestro_shm.shared.segments import Segments

_SEGMENT_BITS: Final = 20
_WORD: Final = 8
_INDEX_BITS: Final = _SEGMENT_BITS - 3
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1
_FIRST_STEP: Final = 1 << 16


def hole(offset: int) -> int:
    """The word of a position without an event."""
    return offset | 1


def is_hole(word: int) -> bool:
    """Whether there is no event any more."""
    return bool(word & 1)


def offset_by(word: int) -> int:
    """The offset of the event that a word leads to; of another one where it is a hole, or 0."""
    return word & ~1


class Positions:
    """The position array of one incarnation. Positions begin at 1; the word of position 0 is not used."""

    def __init__(self, directory: Path, incarnation: int, *, writable: bool) -> None:
        self._segments = Segments(
            directory, f"positions-{incarnation}", _SEGMENT_BITS, first_step=_FIRST_STEP, writable=writable
        )

    def resume(self, last_position: int) -> None:
        """Go on behind this position, as a new writer."""
        self._segments.resume((last_position + 1) * _WORD)

    def are_there(self, last_position: int) -> bool:
        """Whether no file is missing up to this position."""
        return self._segments.missing((last_position + 1) * _WORD) is None

    def offset(self, position: int) -> int:
        """Where the event at this position lies, or a hole; it exists, or is at least reserved."""
        return self._segments.open(position >> _INDEX_BITS).words[position & _INDEX_MASK]

    def offsets(self, first: int, count: int) -> list[int]:
        """Where the first of so many events lie, as far as one segment has them; none where it is missing."""
        start = first & _INDEX_MASK
        try:
            words = self._segments.open(first >> _INDEX_BITS).words
        except (FileNotFoundError, ValueError):  # one that is made this moment may be empty
            return []
        found: list[int] = words[start : start + count].tolist()
        return found

    def map_anew(self) -> None:
        """Read from the files that are there now: another writer may have made them anew."""
        self._segments.files.clear()

    def damage(self, position: int) -> CorruptLogError:
        """The error for a position that leads nowhere."""
        path, place = self.place(position)
        return CorruptLogError(str(path), place, f"position {position:,} leads nowhere")

    def place(self, position: int) -> tuple[Path, int]:
        """The file that has the offset of this position, and where in it."""
        return self._segments.path(position >> _INDEX_BITS), (position & _INDEX_MASK) * _WORD

    def reserve(self, last_position: int) -> int:
        """Make sure that offsets up to this position can be put, and say up to which in its segment.

        Raises `StoreFullError`.
        """
        room = self._segments.reserve((last_position + 1) * _WORD) // _WORD - 1
        return min(room, last_position | _INDEX_MASK)

    def segment(self, position: int) -> tuple[int, memoryview]:
        """The segment of a position that was reserved: the position that it begins with, and its words."""
        return position & ~_INDEX_MASK, self._segments.open(position >> _INDEX_BITS).words

    def put(self, first_position: int, offsets: Sequence[int]) -> None:
        """Store where the events from this position on lie."""
        files = self._segments.files
        for position, offset in enumerate(offsets, first_position):
            files[position >> _INDEX_BITS].words[position & _INDEX_MASK] = offset

    def put_apart(self, last: int, first: int, placed: Sequence[tuple[int, int]]) -> None:
        """Store where the events of a commit lie of which some are no more, by rising positions.

        `last` is the last position before that has an event, `first` the one that the commit began with.
        """
        if not placed:
            return
        before = offset_by(self.offset(last)) if last else 0
        self._fill(last + 1, min(first, placed[0][0]), hole(before))
        self._fill(max(first, last + 1), placed[0][0], hole(placed[0][1]))
        end = placed[0][0]
        for position, offset in placed:
            self._fill(end, position, hole(before))
            self._fill(position, position + 1, offset)
            before, end = offset, position + 1

    def _fill(self, start: int, end: int, word: int) -> None:
        files = self._segments.files
        for position in range(start, end):
            files[position >> _INDEX_BITS].words[position & _INDEX_MASK] = word

    def close(self) -> None:
        """Unmap everything."""
        self._segments.close()
