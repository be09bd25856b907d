"""Waiting until a store has an event at a position."""

from __future__ import annotations

import time

from maestro_shm.errors import InvalidEventError, StoreUnavailableError, shown
from maestro_shm.records import MAX_SEQUENCE
from maestro_shm.subscription import Source
from maestro_shm.vigil import Vigil


def check_position(position: object) -> None:
    """Raise `InvalidEventError` for what is no position."""
    if type(position) is not int or position < 0:
        raise InvalidEventError(f"a position must be an int from 0 up, not {shown(position)}")


def has_arrived(store: Source, position: int, deadline: float, vigil: Vigil) -> bool:
    """Whether there is an event at this position by the deadline, or when the vigil is over.

    Raises `StoreUnavailableError` if the store is reset meanwhile.
    """
    position = min(position, MAX_SEQUENCE)  # which is not reached either
    cut = store._cut()
    incarnation = cut.incarnation
    while cut.last_position < position:
        if vigil.is_over or time.monotonic() >= deadline:
            return False
        store._wait(incarnation, position, deadline, vigil)
        cut = store._cut()
        if cut.incarnation != incarnation:
            raise StoreUnavailableError(store.target, f"it was reset while position {position:,} was waited for")
    return True
