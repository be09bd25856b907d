"""What a handle shows of a store: the feed, and each stream with its bounds and its snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import maestro_shm as ms
from campaign.kills.audit import Entry, entry_of_event, entry_of_snapshot


class SeenStream(NamedTuple):
    """One stream. Each part is of its own moment."""

    first_sequence: int
    last_sequence: int
    events: list[Entry]
    snapshot: Entry | None


class Look(NamedTuple):
    """All of a store."""

    feed: list[Entry]
    streams: dict[str, SeenStream]


def look_at(store: ms.Store, streams: Iterable[str]) -> Look:
    """The whole feed, and these streams."""
    feed = [entry_of_event(event) for event in store.read()]
    return Look(feed, {name: _stream(store, name) for name in streams})


def _stream(store: ms.Store, name: str) -> SeenStream:
    snapshot = store.get_snapshot(name)
    return SeenStream(
        store.first_sequence(name),
        store.last_sequence(name) or 0,
        [entry_of_event(event) for event in store.get_events(name)],
        entry_of_snapshot(snapshot) if snapshot is not None else None,
    )
