"""An event store that many processes of one machine share: see `connect` and `Aggregate`."""

from maestro_shm.aggregate import Aggregate
from maestro_shm.clock import new_id
from maestro_shm.connect import connect, destroy
from maestro_shm.errors import (
    CorruptLogError,
    InvalidCommandError,
    InvalidEventError,
    InvalidHandlerError,
    MaestroError,
    RetriesExhaustedError,
    SequenceConflictError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from maestro_shm.handlers import on_command, on_event, upcast
from maestro_shm.records import MAX_SEQUENCE, Command, Event, NewEvent, Snapshot, in_range
from maestro_shm.store import Store

__all__ = [
    "MAX_SEQUENCE",
    "Aggregate",
    "Command",
    "CorruptLogError",
    "Event",
    "InvalidCommandError",
    "InvalidEventError",
    "InvalidHandlerError",
    "MaestroError",
    "NewEvent",
    "RetriesExhaustedError",
    "SequenceConflictError",
    "Snapshot",
    "Store",
    "StoreClosedError",
    "StoreError",
    "StoreFullError",
    "StoreUnavailableError",
    "connect",
    "destroy",
    "in_range",
    "new_id",
    "on_command",
    "on_event",
    "upcast",
]
