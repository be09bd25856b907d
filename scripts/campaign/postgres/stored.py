"""What a database holds, past the store that wrote it; and whether the store says the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

import psycopg

import maestro_shm as ms
from campaign.exactly_once.outcomes import Entry, Frames, faults_of
from campaign.postgres.writing import Done
from maestro_shm import codec
from maestro_shm.shared.frame import EVENT, SNAPSHOT

_ALL: Final = """SELECT commit, %s::int AS kind, aggregate_id, sequence, position, timestamp, payload
FROM maestro_events
UNION ALL SELECT commit, %s::int, aggregate_id, sequence, 0, 0, payload FROM maestro_snapshots
ORDER BY commit, position"""
_MISSING: Final = """SELECT count(*) FROM maestro_head, generate_series(1, commits) number WHERE number NOT IN (
    SELECT commit FROM maestro_events UNION SELECT commit FROM maestro_snapshots
    UNION SELECT commit FROM maestro_entries
)"""
"""Numbers of commits of which there is nothing."""


def faults(url: str, done: Done) -> Counter[str]:
    """What is wrong with what was told, what is stored, and what is read."""
    found = faults_of(done.commits, frames_of(url))
    with psycopg.connect(url) as connection:
        ((missing,),) = connection.execute(_MISSING.encode()).fetchall()
    found["gaps"] += missing
    found["unclear"] += sum(map(_is_unclear, done.given_up + done.unresolved))
    with ms.connect(url) as store:
        found.update(_reading_faults(store))
    return +found


def frames_of(url: str) -> Frames:
    """The commits in their order."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(_ALL.encode(), (EVENT, SNAPSHOT)).fetchall()
    return [tuple(_entry(*row) for row in rows) for _, rows in groupby(rows, lambda row: row[0])]


def _entry(
    _: int, kind: int, aggregate_id: bytes, sequence: int, position: int, timestamp: int, payload: bytes
) -> Entry:
    values = codec.unpack(payload)
    body = values[1] if kind == EVENT else values[0]
    return Entry(kind, aggregate_id.decode(), sequence, (position, timestamp), body[0])


def _is_unclear(reason: str) -> bool:
    return not reason.strip() or "\n" in reason


def _reading_faults(store: ms.Store) -> Iterator[str]:
    streams: defaultdict[str, list[Any]] = defaultdict(list)
    for position, event in enumerate(store.read(), 1):
        if event.position != position:
            yield "feed"
        streams[event.aggregate_id].append(event)
    for aggregate_id, events in streams.items():
        if store.get_events(aggregate_id) != events:
            yield "stream"
        if [event.sequence for event in events] != list(range(1, len(events) + 1)):
            yield "sequence"
