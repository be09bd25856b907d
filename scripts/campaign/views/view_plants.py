"""Faults in what derives something from the events."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest import mock

import maestro_shm as ms
from maestro_shm import durable_subscription
from maestro_shm.demo import bank
from maestro_shm.partition import Partition
from maestro_shm.progress import Mark
from maestro_shm.projection_state import ProjectionState
from maestro_shm.records import Event
from maestro_shm.shared.file_leases import FileLeases

_MOMENT: Final = 0.01
"""Seconds that a fault leaves open, so that a kill comes to lie in it."""


class _Forgetting:
    """Tables of a transaction, but for that of the checkpoints."""

    def __init__(self, tx: Any, *, keeps_checkpoint: bool) -> None:
        self._tx = tx
        self._keeps_checkpoint = keeps_checkpoint

    def table(self, name: str) -> Any:
        is_checkpoint = name == "maestro_shm/projections"
        return self._tx.table(name) if is_checkpoint == self._keeps_checkpoint else _Blind(self._tx.table(name))


class _Blind:
    """A table that takes no changes."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def __getitem__(self, key: str) -> Any:
        return self._table[key]

    def __setitem__(self, key: str, value: Any) -> None:
        """It is forgotten."""


def _in_two_commits(*, checkpoint_first: bool) -> AbstractContextManager[object]:
    advance = ProjectionState._advance

    def twice(state: ProjectionState, version: int | None = None) -> bool:
        def part(tx: Any, keeps_checkpoint: bool) -> bool:  # noqa: FBT001 (called here)
            return advance(state, _Forgetting(tx, keeps_checkpoint=keeps_checkpoint), version, 64)

        if checkpoint_first:
            # The events are read behind the old checkpoint, and their tables written when it is moved already.
            events: list[bool] = []
            state._store.transact(lambda tx: events.append(part(tx, keeps_checkpoint=True)))
            time.sleep(_MOMENT)
            return events[-1]
        done: bool = state._store.transact(part, False)  # noqa: FBT003 (see above)
        time.sleep(_MOMENT)
        state._store.transact(part, True)  # noqa: FBT003 (see above)
        return done

    return mock.patch.object(ProjectionState, "advance", twice)


def _doubles() -> AbstractContextManager[object]:
    """The checkpoint is moved after the tables have been changed, in a commit of its own."""
    return _in_two_commits(checkpoint_first=False)


def _loses() -> AbstractContextManager[object]:
    """The checkpoint is moved, and the tables are not."""
    return _in_two_commits(checkpoint_first=True)


def _leases_for_all() -> AbstractContextManager[object]:
    """Every lease is given to whoever asks, and nobody has any."""
    return mock.patch.multiple(FileLeases, take=lambda *_: True, taken_by_others=lambda *_: [])


def _checkpoints_ahead() -> AbstractContextManager[object]:
    """An acknowledgement moves the checkpoint too far."""

    def ahead(event: Event) -> Mark:
        return Mark((event.position or 0) + 40, attempts=0, is_open=True)

    return mock.patch.object(durable_subscription, "_behind", ahead)


def _out_of_order() -> AbstractContextManager[object]:
    """The newest event that waits is done first."""
    add = Partition.add

    def add_in_front(partition: Partition, event: Event) -> None:
        add(partition, event)
        partition.waiting.rotate(1)

    return mock.patch.object(Partition, "add", add_in_front)


def _two_transactions() -> AbstractContextManager[object]:
    """A transfer takes in one commit and gives in another."""

    def call(teller: bank.Teller, task: tuple[int, int, int]) -> bank.Done:
        _, transfers, accounts = task
        for number in range(transfers):
            for amount, account in ((1, number % accounts), (-1, (number + 1) % accounts)):
                root = bank.Account(teller._store, bank._name(account))
                root.evaluate(ms.Command("move", {"amount": amount}))
        return bank.Done(transfers, 0, 0)

    return mock.patch.object(bank.Teller, "__call__", call)


OF_PROJECTIONS: Final = (_doubles, _loses)
OF_CONSUMERS: Final = (_leases_for_all, _checkpoints_ahead, _out_of_order)
OF_BANKS: Final = (_two_transactions,)
