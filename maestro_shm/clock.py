"""A hybrid logical clock, and ids that sort by time.

A timestamp is one integer: milliseconds since the Unix epoch (UTC) as a fixed-point number with 16 binary places. It
follows the machine's clock to 15 ns, and where that stands still or goes back it counts on by one unit, so that it
never goes back itself (Kulkarni et al., "Logical Physical Clocks", 2014, with the logical part in the low bits).
"""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Final

UNITS_PER_MILLISECOND: Final = 1 << 16
MAX_TIMESTAMP: Final = 2**62 - 1
"""The largest timestamp that a caller may give (in the year 4199); the clock's own can then never overflow 63 bits."""
LARGEST_TIMESTAMP: Final = MAX_TIMESTAMP + (1 << 61)
"""The largest that a store keeps: a copy has what the clock of another store gave, which may be above that."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def as_datetime(timestamp: int) -> datetime:
    """The UTC time that an event's timestamp stands for, to the microsecond."""
    return _EPOCH + timedelta(microseconds=timestamp * 1000 // UNITS_PER_MILLISECOND)


def as_timestamp(moment: datetime) -> int:
    """The last timestamp that stands for this moment: `as_datetime` gives it for that one and for none above."""
    microseconds = (moment - _EPOCH) // timedelta(microseconds=1)
    return ((microseconds + 1) * UNITS_PER_MILLISECOND - 1) // 1000


class HybridClock:
    """Gives timestamps that only rise. Not thread-safe: its owner serializes the calls."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def tick(self) -> int:
        """The next timestamp, above every one given or observed before."""
        now = self.now()
        self.last = now if now > self.last else self.last + 1
        return self.last

    def now(self) -> int:
        """What the machine's clock says."""
        return time.time_ns() * UNITS_PER_MILLISECOND // 1_000_000

    def observe(self, timestamp: int) -> int:
        """Move the clock to a timestamp that came from elsewhere, if that is ahead; return that timestamp."""
        self.last = max(self.last, timestamp)
        return timestamp


_id_clock = HybridClock()
_id_lock = threading.Lock()


def _renew_id_lock() -> None:
    # A thread that no longer exists in the child may have held the lock at the fork.
    global _id_lock  # noqa: PLW0603 (one lock per process, made anew in each)
    _id_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_id_lock)


def new_id() -> str:
    """A unique id that sorts by the time of its making: a UUID of version 7 (RFC 9562, 5.7, method 3).

    48 bits of milliseconds and 12 bits of their fraction, which rise strictly within a process, then 62 random bits.
    """
    with _id_lock:
        # One unit of the 60-bit time is 16 units of the clock.
        time_bits = (_id_clock.tick() + 15) >> 4
        _id_clock.observe(time_bits << 4)
    random_bits = int.from_bytes(os.urandom(8)) >> 2
    milliseconds, fraction = time_bits >> 12, time_bits & 0xFFF
    number = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random_bits
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
