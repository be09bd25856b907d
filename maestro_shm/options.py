"""What the options of `connect` may be. A wrong one is refused before anything is made or started."""

from __future__ import annotations

import math
import time
from typing import Final, TypeGuard

from maestro_shm.errors import shown

DEFAULT_COMMIT_BYTES: Final = 1 << 20
SMALLEST_COMMIT_BYTES: Final = 1024
LARGEST_COMMIT_BYTES: Final = 32 << 20
"""A commit lies in one segment of the shared store's log, which has 64 MiB."""
RECORD_OVERHEAD: Final = 64
"""Bytes that a record counts towards the size of a commit, beside its id and its packed payload."""
DEFAULT_TIMEOUT: Final = 30.0
LONGEST_TIMEOUT: Final = 1e6
"""Some eleven days; what the system's calls can wait for ends not far above."""
DEFAULT_IDLE_TIMEOUT: Final = 30.0
PROCESS: Final = "process"
POWER: Final = "power"
"""What an acknowledged commit survives: the death of any process, or a loss of power, too."""


def commit_bytes(max_commit_bytes: object) -> int:
    """The size cap of a commit. Raises `ValueError`."""
    if type(max_commit_bytes) is not int or not SMALLEST_COMMIT_BYTES <= max_commit_bytes <= LARGEST_COMMIT_BYTES:
        raise ValueError(
            f"max_commit_bytes must be an int from {SMALLEST_COMMIT_BYTES} to {LARGEST_COMMIT_BYTES}, "
            f"not {shown(max_commit_bytes)}"
        )
    return max_commit_bytes


def timeout(seconds: object) -> float:
    """How long a call may take. Raises `ValueError`."""
    if not _is_number(seconds) or not 0 < seconds <= LONGEST_TIMEOUT:
        raise ValueError(f"timeout must be a number of seconds above 0 and up to 1,000,000, not {shown(seconds)}")
    return seconds


def deadline(seconds: object) -> float:
    """When a wait of so many seconds ends, by `time.monotonic`; never for None. Raises `ValueError`."""
    if seconds is None:
        return math.inf
    if not _is_number(seconds) or not seconds >= 0:
        raise ValueError(f"timeout must be None or a number of seconds from 0 up, not {shown(seconds)}")
    return time.monotonic() + seconds if seconds <= LONGEST_TIMEOUT else math.inf


def idle_timeout(seconds: object) -> float:
    """How long a server without clients stays; `math.inf` for always. Raises `ValueError`."""
    if not _is_number(seconds) or not (0 <= seconds <= LONGEST_TIMEOUT or seconds == math.inf):
        raise ValueError(
            f"idle_timeout must be a number of seconds from 0 to 1,000,000, or math.inf, not {shown(seconds)}"
        )
    return seconds


def durability(mode: object) -> str:
    """What an acknowledged commit survives. Raises `ValueError`."""
    if mode not in (PROCESS, POWER):
        raise ValueError(f"durability must be {PROCESS!r} or {POWER!r}, not {shown(mode)}")
    return str(mode)


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)
