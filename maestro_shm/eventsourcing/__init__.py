"""A persistence module for the `eventsourcing` library: `PERSISTENCE_MODULE=maestro_shm.eventsourcing`.

`MAESTRO_TARGET` says where: `shm:NAME`, a path, `postgresql://…`, or `memory:`, which is a new store for each factory.
An application has a store of its own, `shm:NAME.Application`, or in a database a schema: see `target_of`. The recorders
that a factory makes share it.

Why a store for each application: the library numbers the events of an application 1, 2, 3 … without gaps, and so does
a store its positions. So an event is committed by the cheapest of all commits, its notification id is its position,
what is asked of notifications is asked of the feed, and who subscribes is woken by the store. Were several applications
in one store, each would need a number of its own, changed by every commit and conflicting with every other one.

| of the library | in the store |
| --- | --- |
| stored event: originator id, version, topic, state | event: aggregate id, sequence, type, body |
| notification id | position |
| snapshot, or what else a recorder of another purpose than `events` has | entry of a table of this aggregate |
| tracking record | entry of a table, changed in the commit of the events |

Tables take no position, so the notifications have no gaps. The versions of an aggregate's events only rise, and may
have gaps; those of snapshots may come in any order.
"""

try:
    from maestro_shm.eventsourcing.aggregate_recorder import MaestroAggregateRecorder
    from maestro_shm.eventsourcing.application_recorder import MaestroApplicationRecorder
    from maestro_shm.eventsourcing.datastore import Datastore
    from maestro_shm.eventsourcing.factory import Factory
    from maestro_shm.eventsourcing.process_recorder import MaestroProcessRecorder
    from maestro_shm.eventsourcing.snapshot_recorder import MaestroSnapshotRecorder
    from maestro_shm.eventsourcing.subscription import MaestroSubscription
    from maestro_shm.eventsourcing.target import target_of
    from maestro_shm.eventsourcing.tracking_recorder import MaestroTrackingRecorder
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "eventsourcing":
        raise
    raise ModuleNotFoundError(
        "maestro_shm.eventsourcing needs the eventsourcing library: pip install 'maestro-shm[eventsourcing]'",
        name=error.name,
    ) from None

__all__ = [
    "Datastore",
    "Factory",
    "MaestroAggregateRecorder",
    "MaestroApplicationRecorder",
    "MaestroProcessRecorder",
    "MaestroSnapshotRecorder",
    "MaestroSubscription",
    "MaestroTrackingRecorder",
    "target_of",
]
