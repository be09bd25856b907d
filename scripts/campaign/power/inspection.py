"""Looks at a store as a reader and as a writer would, and says which of the possible worlds it is in."""

from __future__ import annotations

from collections.abc import Sequence

from campaign.power.ledger import Contents, World
from maestro_shm.records import MAX_SEQUENCE, Snapshot
from maestro_shm.shared import header as head
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.reader import Reader


class LossError(Exception):
    """The store is not as it may be; the text says how."""


def identify(reader: Reader, journal: Journal, worlds: Sequence[World]) -> tuple[World, int]:
    """The world that the store is in, and how many of its commits are there. Raises `LossError`."""
    events, aggregates = journal._words[head.LAST_POSITION], journal._words[head.AGGREGATES]
    for world in worlds:
        counts = world.counts.get(events)
        if not counts:
            continue
        snapshots = {key: found for key in world.keys if (found := reader.snapshot(key)) is not None}
        for count in counts:
            expected = world.contents(count)
            if snapshots == expected.snapshots and _holds(reader, journal, world, expected):
                if aggregates != len(expected.streams):
                    raise LossError(f"{aggregates} aggregates counted of {len(expected.streams)}")
                return world, count
    raise LossError(_description(reader, events, worlds))


def _holds(reader: Reader, journal: Journal, world: World, expected: Contents) -> bool:
    streams = expected.streams
    for key in world.keys:
        if reader.events(key, 0, MAX_SEQUENCE) != streams.get(key, []):
            return False
    return _positions_hold(journal, expected)


def _positions_hold(journal: Journal, expected: Contents) -> bool:
    """What the positions lead to is known by its own position: each was found in its stream, whole, just before."""
    log, positions = journal._files.log, journal._files.positions
    for number, event in enumerate(expected.events, 1):
        sequence, _, position, timestamp, _ = log.read(positions.offset(number))
        if (sequence, position, timestamp) != (event.sequence, number, event.timestamp):
            return False
    return True


def _description(reader: Reader, count_of_events: int, worlds: Sequence[World]) -> str:
    parts = []
    for world in worlds:
        needed = world.contents(world.least)
        missing = sum(
            event not in reader.events(key, 0, MAX_SEQUENCE)
            for key, stream in needed.streams.items()
            for event in stream
        )
        snapshots: list[Snapshot | None] = [reader.snapshot(key) for key in needed.snapshots]
        late = sum(found is None for found in snapshots)
        parts.append(
            f"{count_of_events} events there, {len(needed.events)} of {world.least} commits needed, "
            f"{len(world.commits)} commits sent; {missing} events and {late} snapshots missing"
        )
    return "; or ".join(parts)
