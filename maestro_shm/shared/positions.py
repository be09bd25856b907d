"""From the position of an event to its offset in the log: one word for each, in segments."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from maestro_shm.shared.segments import Segments

_SEGMENT_BITS: Final = 20
_WORD: Final = 8
_PER_SEGMENT: Final = (1 << _SEGMENT_BITS) // _WORD
_FIRST_STEP: Final = 1 << 16


class Positions:
    """The position array of one incarnation. Positions begin at 1; the word of position 0 is not used."""

    def __init__(self, directory: Path, incarnation: int, *, writable: bool) -> None:
        self._segments = Segments(
            directory, f"positions-{incarnation}", _SEGMENT_BITS, first_step=_FIRST_STEP, writable=writable
        )

    def resume(self, last_position: int) -> None:
        """Map all that there is, as a new writer does that goes on behind this position."""
        self._segments.resume((last_position + 1) * _WORD)

    def offset(self, position: int) -> int:
        """Where the event at this position lies; it exists, or is at least reserved."""
        number, index = divmod(position, _PER_SEGMENT)
        self._segments.open_up_to(number)
        return self._segments.files[number].words[index]

    def reserve(self, last_position: int) -> None:
        """Make sure that offsets up to this position can be put. Raises `StoreFullError`."""
        self._segments.reserve((last_position + 1) * _WORD)

    def put(self, position: int, offset: int) -> None:
        """Store where the event at this position lies."""
        number, index = divmod(position, _PER_SEGMENT)
        self._segments.files[number].words[index] = offset

    def close(self) -> None:
        """Unmap everything."""
        self._segments.close()
