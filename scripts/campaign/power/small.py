"""The store's files in miniature, so that a short history fills segments, lets the index grow, and is cheap to rebuild.

Only the sizes change, in this process; all the code is the store's own. So is the machine's boot: it is a number here.
"""

from __future__ import annotations

from typing import Final

from maestro_shm.shared import header, index, log, positions

SEGMENT_BITS: Final = 13
_POSITION_BITS: Final = 12
_PAGE: Final = 4096
_SLOTS: Final = 16
LARGEST_COMMIT: Final = 1024


class Boot:
    """Which of its boots the machine is in."""

    number = 1


def make_small() -> None:
    """From now on this process makes small stores only, and believes `Boot.number`."""
    log.SEGMENT_BITS = SEGMENT_BITS  # type: ignore[misc] # Final for everybody else
    log.SEGMENT_SIZE = 1 << SEGMENT_BITS  # type: ignore[misc] # see above
    log._MASK = log.SEGMENT_SIZE - 1  # type: ignore[misc] # see above
    log._FIRST_STEP = _PAGE  # type: ignore[misc] # see above
    positions._SEGMENT_BITS = _POSITION_BITS  # type: ignore[misc] # see above
    positions._INDEX_BITS = _POSITION_BITS - 3  # type: ignore[misc] # see above
    positions._INDEX_MASK = (1 << positions._INDEX_BITS) - 1  # type: ignore[misc] # see above
    positions._FIRST_STEP = _PAGE  # type: ignore[misc] # see above
    index.Index.create.__func__.__defaults__ = (_SLOTS,)  # type: ignore[attr-defined] # of a class method
    header.boot_id = lambda: (Boot.number, Boot.number)
