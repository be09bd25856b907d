"""Whether the store holds what the recount says.

Rules kept here: every aggregate is read back by a fresh root, which may begin at a snapshot, and beside that every
event is read from the log; every difference is told, with both figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maestro_shm import Store
from maestro_shm.demo.aggregates import PLACES
from maestro_shm.demo.commands import kind_of
from maestro_shm.demo.recount import Recount

States = dict[str, dict[str, Any]]


def read_states(store: Store, expected: Recount) -> States:
    """The state of every aggregate that must be there, as the store has it now."""
    return {
        aggregate_id: kind_of(aggregate_id)(store, aggregate_id).fetch() for aggregate_id in sorted(expected.totals)
    }


def differences(store: Store, states: States, expected: Recount) -> Iterator[str]:
    """What is wrong, one line each."""
    for aggregate_id, state in states.items():
        yield from _of_one(aggregate_id, state, expected.expected(aggregate_id))
    yield from _of_places(dict(store.table(PLACES)), expected.places)
    stats = store.stats()
    read = sum(len(store.get_events(aggregate_id)) for aggregate_id in states)
    figures = [
        ("the store counts", "events", stats["events"], expected.events),
        ("the store counts", "aggregates", stats["aggregates"], len(expected.totals)),
        ("the log holds", "events", read, expected.events),
    ]
    for whose, name, found, wanted in figures:
        if found != wanted:
            yield f"{whose} {found:,} {name} where there should be {wanted:,}"


def _of_places(found: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    for aircraft in sorted(found.keys() | expected.keys()):
        if found.get(aircraft) != expected.get(aircraft):
            yield f"the table has {aircraft} at {found.get(aircraft)}, and it should be at {expected.get(aircraft)}"


def _of_one(aggregate_id: str, state: dict[str, Any], expected: dict[str, int | str]) -> Iterator[str]:
    for name in sorted(state.keys() | expected.keys()):
        # A counter that was never touched is missing on one side and zero or None on the other.
        found, wanted = state.get(name) or 0, expected.get(name, 0)
        if found != wanted:
            yield f"{aggregate_id}: {name} is {found} and should be {wanted}"
