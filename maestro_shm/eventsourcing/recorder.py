"""What all recorders have."""

from __future__ import annotations

from typing import Final

from maestro_shm.eventsourcing.datastore import Datastore


class MaestroRecorder:
    """A recorder of one store. Threads and forks may share it."""

    def __init__(self, datastore: Datastore) -> None:
        self.datastore: Final = datastore
