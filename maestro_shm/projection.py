"""Projections: what keeps tables in step with events."""

from __future__ import annotations

from typing import Protocol

from maestro_shm.records import Event
from maestro_shm.tables import Tables


class Projection(Protocol):
    """Anything with this method; for `Store.commit_all` and `Aggregate.projections`."""

    def project(self, event: Event, tables: Tables) -> None:
        """Bring the tables up to date with the event, or raise: then nothing is committed, and the caller gets that.

        In a commit it runs in the committing process, before the commit and again after each conflict, so that it must
        have no other effect. The event has its sequence number, but no position as yet, and no timestamp unless one was
        given. Events come in the order of the commit, each to all projections in their order.
        """
