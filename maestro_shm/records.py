"""The values that go into a store and come out of it: frozen, slotted, without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_SEQUENCE: Final = 2**63 - 1
"""The largest sequence number that a store accepts."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to one aggregate.

    `sequence` orders the events of the aggregate. `position` (1, 2, 3 … over all aggregates) is given by the store;
    so is `timestamp` (a hybrid logical clock, see `maestro_shm.clock`) unless the caller gives one.
    """

    aggregate_id: str
    sequence: int
    type: str
    body: Any
    timestamp: int | None = None
    position: int | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What a command handler returns: an event that has no aggregate and no sequence number yet."""

    type: str
    body: Any = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an aggregate as it was after the event with this sequence number."""

    aggregate_id: str
    sequence: int
    body: Any


@dataclass(frozen=True, slots=True)
class Command:
    """A request to an aggregate; its handler may refuse it."""

    type: str
    data: Any = None


def in_range(record: Event | Snapshot, min_sequence: int, max_sequence: int) -> bool:
    """Whether the record's sequence number lies between the bounds, both included."""
    return min_sequence <= record.sequence <= max_sequence
