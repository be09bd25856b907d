"""An eventual projection: it follows the feed, and changes its tables and its checkpoint in the same commits.

So each event is projected exactly once, whoever is killed when. Its tables have a version in their names: a rebuild
fills those of the next version from the beginning, beside the live ones, and then one commit makes them live.
"""

from __future__ import annotations

import time
from contextlib import closing
from types import TracebackType
from typing import Final, Self

from maestro_shm import options
from maestro_shm.errors import ProjectionError, StoreUnavailableError
from maestro_shm.leases import Leases, LeasesLostError
from maestro_shm.projection import Projection
from maestro_shm.projection_state import Home, LiveTables, ProjectionState
from maestro_shm.records import MAX_SEQUENCE
from maestro_shm.selection import Selection
from maestro_shm.tables import Table
from maestro_shm.vigil import Vigil

_LOOK: Final = 0.25
"""Seconds between two looks whether another runner has died."""
_RUN, _REBUILD = range(2)


class Projector:
    """What `Store.projector` gives. It belongs to one thread; any may call `stop`, and a signal's handler."""

    def __init__(self, store: Home, name: str, projection: Projection | None, wanted: Selection) -> None:
        self.name: Final = name
        self._store = store
        self._state = ProjectionState(store, name, projection, wanted)
        self._incarnation = store._cut().incarnation
        self._vigil = Vigil()

    @property
    def position(self) -> int:
        """Up to here every event is in the tables."""
        return self._state.checkpoint(self._store._cut())

    def table(self, name: str) -> Table:
        """A table of the projection as it is live, to be read; it stays the right one when a rebuild is done."""
        return Table(name, LiveTables(self._store, self._state))

    def run(self) -> None:
        """Project events as they come, until `stop`. Of many that run at once one does, and the others stand by.

        What the projection raises comes through; of that event's commit nothing is done. Raises
        `StoreUnavailableError` if the store is reset.
        """
        with closing(self._store._leases(f"projection/{self.name}")) as leases:
            while not self._vigil.is_over:
                self._check_incarnation()
                if not _leads(leases):
                    # For a position that is never reached, that is for the time.
                    self._store._wait(self._incarnation, MAX_SEQUENCE, time.monotonic() + _LOOK, self._vigil)
                elif not self._state.advance():
                    self._store._wait(self._incarnation, self.position + 1, float("inf"), self._vigil)

    def catch_up(self) -> int:
        """Project what there is, and return up to which position."""
        last = self._store.last_position
        self._state.check_selected(self._store._cut())
        while self.position < last:
            self._check_incarnation()
            self._state.advance()
        return self.position

    def wait_for(self, position: int, timeout: float | None = None) -> bool:
        """Wait until the event at this position is in the tables, to read one's own writes; False if that takes longer.

        Somebody has to run the projection meanwhile.
        """
        deadline = options.deadline(timeout)
        while True:
            cut = self._store._cut()
            if self._state.checkpoint(cut) >= position:
                return True
            if time.monotonic() >= deadline:
                return False
            self._check_incarnation()
            self._store._wait_for_commit(self._incarnation, cut.mark, deadline, Vigil())

    def rebuild(self) -> int:
        """Fill new tables from the beginning, then let them take the place of the old ones; the position of the switch.

        Meanwhile the old ones are live, and whoever runs the projection goes on with them; and with the new ones after
        the switch: a runner of former code has to be stopped before. Raises `ProjectionError` if somebody else rebuilds
        it at the same time.
        """
        with closing(self._store._leases(f"projection/{self.name}")) as leases:
            if not leases.take(_REBUILD):
                raise ProjectionError(self.name, "it is being rebuilt already")
            former = self._state.live(self._store._cut())
            self._state.clear(former)  # what a killed rebuild left
            while not self._state.switches(former + 1):
                self._check_incarnation()
                self._state.advance(former + 1)
            position = self.position
            self._state.clear(former + 1)
            return position

    def stop(self) -> None:
        """Let `run` end: at once where it waits, else after the commit that is under way."""
        self._vigil.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _check_incarnation(self) -> None:
        if self._store._cut().incarnation != self._incarnation:
            raise StoreUnavailableError(self._store.target, "it was reset, and its projections with it")


def _leads(leases: Leases) -> bool:
    """Whether this runner is the one."""
    try:
        return leases.take(_RUN)
    except LeasesLostError:  # another was faster
        return False
