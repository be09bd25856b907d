"""What the library asks for recorders."""

from __future__ import annotations

from types import TracebackType
from typing import Any, ClassVar, TypeVar

from eventsourcing.persistence import InfrastructureFactory
from eventsourcing.utils import Environment, EnvType, resolve_topic

from maestro_shm.errors import shown
from maestro_shm.eventsourcing.aggregate_recorder import MaestroAggregateRecorder
from maestro_shm.eventsourcing.application_recorder import MaestroApplicationRecorder
from maestro_shm.eventsourcing.datastore import Datastore
from maestro_shm.eventsourcing.process_recorder import MaestroProcessRecorder
from maestro_shm.eventsourcing.settings import settings_of
from maestro_shm.eventsourcing.snapshot_recorder import MaestroSnapshotRecorder
from maestro_shm.eventsourcing.tracking_recorder import MaestroTrackingRecorder

_EVENTS = "events"
_Recorder = TypeVar("_Recorder")


class Factory(InfrastructureFactory[MaestroTrackingRecorder]):
    """Its recorders share one store, that of the application whose name the environment has.

    Environment: `MAESTRO_TARGET`; `MAESTRO_TIMEOUT`, `MAESTRO_IDLE_TIMEOUT`, `MAESTRO_DURABILITY` and
    `MAESTRO_MAX_COMMIT_BYTES`, which are options of `maestro_shm.connect`; `APPLICATION_RECORDER_TOPIC`,
    `TRACKING_RECORDER_TOPIC` and `PROCESS_RECORDER_TOPIC` for subclasses of our recorders; `CREATE_TABLE`, "no" where
    only `python -m maestro_shm migrate` may make a database's tables. Whether ids are UUIDs is not asked. Raises
    `OSError` for what cannot be right; who asks for a recorder gets it, too, or `OperationalError` if the store cannot
    be reached.
    """

    aggregate_recorder_class: ClassVar[type[MaestroAggregateRecorder]] = MaestroAggregateRecorder
    application_recorder_class: ClassVar[type[MaestroApplicationRecorder]] = MaestroApplicationRecorder
    tracking_recorder_class: ClassVar[type[MaestroTrackingRecorder]] = MaestroTrackingRecorder
    process_recorder_class: ClassVar[type[MaestroProcessRecorder]] = MaestroProcessRecorder
    snapshot_recorder_class: ClassVar[type[MaestroSnapshotRecorder]] = MaestroSnapshotRecorder

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        self.datastore = Datastore(settings_of(self.env))

    def aggregate_recorder(self, purpose: str = _EVENTS) -> MaestroAggregateRecorder | MaestroSnapshotRecorder:
        """A recorder of the application's events; for other purposes, as `snapshots`, of what is kept beside them."""
        if purpose == _EVENTS:
            return self.aggregate_recorder_class(self._connected())
        return self.snapshot_recorder_class(self._connected(), purpose)

    def application_recorder(self) -> MaestroApplicationRecorder:
        """A recorder of the application's events and their notifications."""
        chosen = self._chosen(self.APPLICATION_RECORDER_TOPIC, self.application_recorder_class)
        return chosen(self._connected())

    def tracking_recorder(
        self, tracking_recorder_class: type[MaestroTrackingRecorder] | None = None
    ) -> MaestroTrackingRecorder:
        """A recorder of what was processed; of the given class, which has to be a subclass of ours."""
        if tracking_recorder_class is None:
            tracking_recorder_class = self._chosen(self.TRACKING_RECORDER_TOPIC, self.tracking_recorder_class)
        return _checked(tracking_recorder_class, MaestroTrackingRecorder)(self._connected())

    def process_recorder(self) -> MaestroProcessRecorder:
        """A recorder of the application's events, each commit with what was processed."""
        return self._chosen(self.PROCESS_RECORDER_TOPIC, self.process_recorder_class)(self._connected())

    def close(self) -> None:
        """Let go of the store; its recorders end with it."""
        self.datastore.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.close()

    def _connected(self) -> Datastore:
        _ = self.datastore.store
        return self.datastore

    def _chosen(self, key: str, default: type[_Recorder]) -> type[_Recorder]:
        """The class that the environment names, or the default."""
        topic = self.env.get(key)
        return _checked(resolve_topic(topic), default) if topic else default


def _checked(found: Any, base: type[_Recorder]) -> type[_Recorder]:
    if not (isinstance(found, type) and issubclass(found, base)):
        raise TypeError(f"a recorder for this store must be a subclass of {base.__name__}, not {shown(found)}")
    return found
