"""Ids that trace: from an event to what it was caused by, and to all that belongs to the same matter.

The two ids in the metadata have the names that are usual for them (correlation and causation, after Hohpe and Woolf,
"Enterprise Integration Patterns", 2003).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from maestro_shm.records import Event

CORRELATION: Final = "correlation_id"
"""The first event or command of a matter; all that follows from it has the same."""
CAUSATION: Final = "causation_id"
"""The event that led to this one."""


def event_id(event: Event) -> str:
    """What an event is called among all of a store: its aggregate's id and its sequence number."""
    return f"{event.aggregate_id}@{event.sequence}"


def caused_by(event: Event) -> dict[str, Any]:
    """Metadata for the command, or event, that an event leads to.

    As in `Command("ship", data, metadata=caused_by(event))`: the events of that command then have this one's id as
    their causation id, and its correlation id, or its own id if it has none.
    """
    own = event_id(event)
    return {CORRELATION: (event.metadata or {}).get(CORRELATION, own), CAUSATION: own}


def carried(command: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The metadata of an event that a command made: the command's, and above that what its handler gave it."""
    if command is None or own is None:
        return own if command is None else command
    return {**command, **own}
