"""How much room a file system has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple


class Room(NamedTuple):
    """Bytes of a file system."""

    size: int
    available: int


_UNLIMITED: Final = Room(1 << 62, 1 << 62)
"""Some file systems have no limit, and say that their size is 0."""


def room_of(directory: Path) -> Room:
    """That of the file system on which a directory lies; without limit where that cannot be learnt."""
    try:
        usage = os.statvfs(directory)
    except OSError:
        return _UNLIMITED
    if not usage.f_blocks:
        return _UNLIMITED
    return Room(usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize)
