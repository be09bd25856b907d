"""An event store that many processes of one machine share: see `connect` and `Aggregate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maestro_shm.aggregate import Aggregate
from maestro_shm.clock import new_id
from maestro_shm.connect import connect, destroy
from maestro_shm.consumer import Consumer, Parked
from maestro_shm.errors import (
    ConflictError,
    CorruptLogError,
    InvalidCommandError,
    InvalidEntryError,
    InvalidEventError,
    InvalidHandlerError,
    MaestroError,
    ProjectionError,
    ReadOnlyError,
    RetriesExhaustedError,
    SequenceConflictError,
    StaleReadError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    SubscriptionError,
    TableConflictError,
    TransactionError,
    TruncatedError,
    TruncationError,
)
from maestro_shm.handlers import on_command, on_event, upcast
from maestro_shm.projection import Projection
from maestro_shm.projector import Projector
from maestro_shm.records import MAX_SEQUENCE, Command, Event, NewEvent, Snapshot, in_range
from maestro_shm.store import Store
from maestro_shm.subscription import Subscription
from maestro_shm.tables import Table, Tables, WritableTable
from maestro_shm.trace import caused_by, event_id
from maestro_shm.transaction import Transaction

if TYPE_CHECKING:
    from maestro_shm.aio import AsyncStore, AsyncSubscription

__all__ = [
    "MAX_SEQUENCE",
    "Aggregate",
    "AsyncStore",
    "AsyncSubscription",
    "Command",
    "ConflictError",
    "Consumer",
    "CorruptLogError",
    "Event",
    "InvalidCommandError",
    "InvalidEntryError",
    "InvalidEventError",
    "InvalidHandlerError",
    "MaestroError",
    "NewEvent",
    "Parked",
    "Projection",
    "ProjectionError",
    "Projector",
    "ReadOnlyError",
    "RetriesExhaustedError",
    "SequenceConflictError",
    "Snapshot",
    "StaleReadError",
    "Store",
    "StoreClosedError",
    "StoreError",
    "StoreFullError",
    "StoreUnavailableError",
    "Subscription",
    "SubscriptionError",
    "Table",
    "TableConflictError",
    "Tables",
    "Transaction",
    "TransactionError",
    "TruncatedError",
    "TruncationError",
    "WritableTable",
    "caused_by",
    "connect",
    "destroy",
    "event_id",
    "in_range",
    "new_id",
    "on_command",
    "on_event",
    "upcast",
]


if not TYPE_CHECKING:  # a checker would take any name for one that exists

    def __getattr__(name: str) -> object:
        """What needs asyncio, when it is asked for: that takes a fifth of the time in which a server starts."""
        if name in ("AsyncStore", "AsyncSubscription"):
            from maestro_shm import aio  # noqa: PLC0415 (see above)

            return getattr(aio, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
