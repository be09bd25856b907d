"""A transaction of three aggregates beside a commit of one event, and an entry of a table beside one of a dict."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, Final

import msgpack

import maestro_shm as ms
from benchmarks.in_turns import time_in_turns
from benchmarks.settings import Settings
from benchmarks.timing import Timing
from benchmarks.workload import body

TRANSACTION: Final = "transaction of 3 aggregates"
TABLE_READ: Final = "read of a table's entry"
OURS: Final = "maestro_shm"
ONE_COMMIT: Final = "maestro_shm, a commit of 1 event"
DICT: Final = "dict, msgpack"
_AGGREGATES: Final = 1_000
_ENTRIES: Final = 1_000


class _Counter(ms.Aggregate):
    initial_state = 0

    @ms.on_command("count")
    def count(self, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("counted", command.data)]

    @ms.on_event("counted")
    def counted(state: int, _event: ms.Event) -> int:  # noqa: N805 (a plain function)
        return state + 1


def time_transactions(store: ms.Store, settings: Settings) -> list[Timing]:
    """Streams are short on both sides: aggregates take turns."""
    numbers = itertools.count()
    sequences = itertools.count(1)

    def transaction() -> Any:
        first = next(numbers) * 3
        return partial(store.transact, _count_three, *(f"t-{(first + n) % _AGGREGATES}" for n in range(3)))

    def commit() -> Any:
        number = next(sequences)
        event = ms.Event(f"c-{number % _AGGREGATES}", number // _AGGREGATES + 1, "counted", body(0))
        return partial(store.commit_events, [event])

    return time_in_turns(TRANSACTION, {OURS: transaction, ONE_COMMIT: commit}, settings)


def time_table_reads(store: ms.Store, settings: Settings) -> list[Timing]:
    """Of random entries that were read before, as one that is looked up often was."""
    keys = [f"key-{number}" for number in range(_ENTRIES)]
    for start in range(0, _ENTRIES, 100):
        store.transact(_put, keys[start : start + 100])
    table = store.table("benchmark")
    packed = {key: msgpack.packb(body(0)) for key in keys}
    turns = itertools.cycle(keys)

    def ours() -> Any:
        return partial(table.__getitem__, next(turns))

    def theirs() -> Any:
        return partial(_look_up, packed, next(turns))

    return time_in_turns(TABLE_READ, {OURS: ours, DICT: theirs}, settings)


def _count_three(tx: ms.Transaction, *ids: str) -> None:
    for aggregate_id in ids:
        tx.root(_Counter, aggregate_id).evaluate(ms.Command("count", body(0)))


def _put(tx: ms.Transaction, keys: list[str]) -> None:
    tx.table("benchmark").update(dict.fromkeys(keys, body(0)))


def _look_up(packed: dict[str, bytes], key: str) -> object:
    return msgpack.unpackb(packed[key])
