"""How much room a file system has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_UNLIMITED: Final = 1 << 62
"""Bytes: some file systems have no limit, and say that their size is 0."""


class Room(NamedTuple):
    """Bytes of a file system."""

    size: int
    available: int


def room_of(directory: Path) -> Room:
    """That of the file system on which a directory lies; without limit where that cannot be learnt."""
    try:
        usage = os.statvfs(directory)
    except OSError:
        return Room(_UNLIMITED, _UNLIMITED)
    if not usage.f_blocks:
        return Room(_UNLIMITED, _UNLIMITED)
    return Room(usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize)
