"""Money that is moved between accounts by several processes, while somebody counts it again and again.

Rules kept here: a transfer is a transaction of two accounts, and so takes from one what it gives to the other, or does
nothing. Whoever counts reads all accounts at one cut. The exit code is 0 only if every count came to the same total.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import threading
import time
from typing import NamedTuple

import maestro_shm as ms
from maestro_shm.demo.pool import results

_OPENING_BALANCE = 1_000
_LARGEST_TRANSFER = 400
_CHUNK = 50


class Balances:
    """A strong projection: a table with every account's balance, changed in the commit of the event."""

    def project(self, event: ms.Event, tables: ms.Tables) -> None:
        """Add what was deposited, take what was withdrawn."""
        balances = tables["balances"]
        balances[event.aggregate_id] = balances.get(event.aggregate_id, 0) + event.body["amount"]


class Account(ms.Aggregate):
    """One account, never overdrawn."""

    initial_state = 0
    snapshot_every = 50
    projections = (Balances(),)

    @ms.on_command("move")
    def move(self, command: ms.Command) -> list[ms.NewEvent]:
        """Put money in, or take it out where the amount is below 0."""
        if self.state + command.data["amount"] < 0:
            raise ms.InvalidCommandError("insufficient funds")
        return [ms.NewEvent("moved", command.data)]

    @ms.on_event("moved")
    @staticmethod
    def moved(state: int, event: ms.Event) -> int:
        """Add it."""
        return int(state + event.body["amount"])


class Done(NamedTuple):
    """What came of some transfers."""

    made: int
    refused: int
    conflicts: int


class Teller:
    """Makes transfers, a chunk at a time."""

    def __init__(self, store: ms.Store) -> None:
        self._store = store
        self._attempts = 0

    def __call__(self, task: tuple[int, int, int]) -> Done:
        """So many transfers between so many accounts, by a seed."""
        seed, transfers, accounts = task
        choices = random.Random(seed)
        before, refused = self._attempts, 0
        for _ in range(transfers):
            source, target = (_name(number) for number in choices.sample(range(accounts), 2))
            try:
                self._store.transact(self._transfer, source, target, choices.randint(1, _LARGEST_TRANSFER))
            except ms.InvalidCommandError:
                refused += 1
        return Done(transfers - refused, refused, self._attempts - before - transfers)

    def _transfer(self, tx: ms.Transaction, source: str, target: str, amount: int) -> None:
        self._attempts += 1
        tx.root(Account, source).evaluate(ms.Command("move", {"amount": -amount}))
        tx.root(Account, target).evaluate(ms.Command("move", {"amount": amount}))


class Auditor(threading.Thread):
    """Counts the money until it is told to stop, in two ways: by the table, and by the accounts themselves."""

    def __init__(self, store: ms.Store, accounts: int) -> None:
        super().__init__(name="auditor")
        self.by_table: list[int] = []
        self.by_accounts: list[int] = []
        self.error: Exception | None = None
        self._store = store
        self._accounts = accounts
        self._stopped = threading.Event()

    def run(self) -> None:
        """Count, again and again."""
        try:
            while not self._stopped.is_set():
                self.count()
                time.sleep(0.01)  # the tellers need the processor, too
        except Exception as error:  # noqa: BLE001 (it is raised when the thread is joined)
            self.error = error

    def count(self) -> None:
        """Once in each way."""
        self.by_table.append(sum(self._store.table("balances").values()))
        self.by_accounts.append(self._store.transact(_total, self._accounts))

    def stop(self) -> None:
        """End, and raise what went wrong."""
        self._stopped.set()
        self.join()
        if self.error is not None:
            raise self.error


def run(accounts: int, transfers: int, workers: int) -> int:
    """Run the demo and return its exit code."""
    print(f"accounts: {accounts:,}, transfers: {transfers:,}, workers: {workers}")
    total = accounts * _OPENING_BALANCE
    with ms.connect() as store:
        _open(store, accounts)
        auditor = Auditor(store, accounts)
        auditor.count()
        auditor.start()
        started = time.perf_counter()
        try:
            done = _move(store, accounts, transfers, workers)
        except multiprocessing.TimeoutError:
            print("error: no worker has finished anything for a long time; was one of them killed?", file=sys.stderr)
            return 1
        finally:
            auditor.stop()
        seconds = time.perf_counter() - started
        auditor.count()
    print(
        f"{done.made:,} transfers made, {done.refused:,} refused for want of money, {done.conflicts:,} conflicts "
        f"retried, {transfers / seconds:,.0f} transfers/s"
    )
    return _verdict(auditor, total)


def _verdict(auditor: Auditor, total: int) -> int:
    wrong = [count for count in (*auditor.by_table, *auditor.by_accounts) if count != total]
    counts = f"{len(auditor.by_table):,} cuts by the table and {len(auditor.by_accounts):,} by the accounts"
    if wrong:
        print(f"the money was counted in {counts}: {len(wrong):,} of them were not {total:,}, as {wrong[0]:,}")
        return 1
    print(f"the money was counted in {counts}: it was {total:,} each time")
    return 0


def _open(store: ms.Store, accounts: int) -> None:
    for start in range(0, accounts, _CHUNK):
        store.transact(_deposit_in_each, range(start, min(start + _CHUNK, accounts)))


def _deposit_in_each(tx: ms.Transaction, numbers: range) -> None:
    for number in numbers:
        tx.root(Account, _name(number)).evaluate(ms.Command("move", {"amount": _OPENING_BALANCE}))


def _move(store: ms.Store, accounts: int, transfers: int, workers: int) -> Done:
    sizes = [min(_CHUNK, transfers - start) for start in range(0, transfers, _CHUNK)]
    tasks = [(seed, size, accounts) for seed, size in enumerate(sizes)]
    total = Done(0, 0, 0)
    for part in results(store, workers, Teller, tasks):
        total = Done(*map(sum, zip(total, part, strict=True)))
    return total


def _total(tx: ms.Transaction, accounts: int) -> int:
    return sum(tx.root(Account, _name(number)).fetch() for number in range(accounts))


def _name(number: int) -> str:
    return f"account-{number}"
