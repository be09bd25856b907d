"""Accounts and projections that the tests of transactions, tables and projections share."""

from __future__ import annotations

from typing import Any

import maestro_shm as ms


class TakenError(Exception):
    """What a projection raises."""


class Account(ms.Aggregate):
    initial_state = 0

    @ms.on_command("deposit")
    def deposit(self, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("deposited", command.data)]

    @ms.on_command("withdraw")
    def withdraw(self, command: ms.Command) -> list[ms.NewEvent]:
        if self.state < command.data:
            raise ms.InvalidCommandError("insufficient funds")
        return [ms.NewEvent("withdrawn", command.data)]

    @ms.on_event("deposited")
    def deposited(state: int, event: ms.Event) -> int:  # noqa: N805 (a plain function)
        return int(state + event.body)

    @ms.on_event("withdrawn")
    def withdrawn(state: int, event: ms.Event) -> int:  # noqa: N805 (a plain function)
        return int(state - event.body)


class UniqueNames:
    """Names belong to who claims them first."""

    def project(self, event: ms.Event, tables: ms.Tables) -> None:
        if not tables["names"].insert(event.body, event.aggregate_id):
            raise TakenError(event.body)


class Person(ms.Aggregate):
    initial_state = None
    projections = (UniqueNames(),)

    @ms.on_command("claim")
    def claim(self, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("claimed", command.data)]

    @ms.on_event("claimed")
    def claimed(_state: Any, event: ms.Event) -> Any:  # noqa: N805 (a plain function)
        return event.body


def deposit(amount: int) -> ms.Command:
    return ms.Command("deposit", amount)


def withdraw(amount: int) -> ms.Command:
    return ms.Command("withdraw", amount)


def transfer(tx: ms.Transaction, source: str, target: str, amount: int) -> int:
    """Move money, and return what is left."""
    tx.root(Account, source).evaluate(withdraw(amount))
    tx.root(Account, target).evaluate(deposit(amount))
    left: int = tx.root(Account, source).state
    return left


def balances(tx: ms.Transaction, *ids: str) -> list[int]:
    """What accounts have, at one cut."""
    return [tx.root(Account, one).fetch() for one in ids]


def put(tx: ms.Transaction, table: str, /, **values: Any) -> None:
    """Put several values."""
    tx.table(table).update(values)


def count(tx: ms.Transaction, key: str = "n") -> int:
    """Count one on."""
    table = tx.table("counters")
    table[key] = table.get(key, 0) + 1
    counted: int = table[key]
    return counted
