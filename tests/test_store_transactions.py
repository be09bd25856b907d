"""Transactions across aggregates, one rule per test, over every kind of store."""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from ledger import Account, balances, count, deposit, put, transfer, withdraw
from store_contract import event, in_threads

import maestro_shm as ms

MakeStore = Callable[..., ms.Store]


def test_what_a_transaction_does_to_several_aggregates_is_committed_at_once(store: ms.Store) -> None:
    Account(store, "a").evaluate(deposit(10))
    assert store.transact(transfer, "a", "b", 4) == 6
    assert store.transact(balances, "a", "b") == [6, 4]
    assert [one.position for key in ("a", "b") for one in store.get_events(key)] == [1, 2, 3]


def test_nothing_is_committed_when_the_function_raises(store: ms.Store) -> None:
    Account(store, "a").evaluate(deposit(1))

    def pay(tx: ms.Transaction) -> None:
        tx.root(Account, "b").evaluate(deposit(5))
        tx.table("paid")["b"] = 5
        tx.root(Account, "a").evaluate(withdraw(5))

    with pytest.raises(ms.InvalidCommandError, match="insufficient funds"):
        store.transact(pay)
    assert store.last_sequence("b") is None
    assert dict(store.table("paid")) == {}
    assert store.stats()["events"] == 1


def test_a_transaction_takes_arguments_by_place_and_by_name_and_returns_what_its_function_does(store: ms.Store) -> None:
    def function(tx: ms.Transaction, *arguments: Any, **named: Any) -> Any:
        return isinstance(tx, ms.Transaction), arguments, named

    assert store.transact(function, 1, "two", three=3) == (True, (1, "two"), {"three": 3})


def test_a_function_that_is_decorated_runs_as_a_transaction_whenever_it_is_called(store: ms.Store) -> None:
    @store.transact()
    def pay(tx: ms.Transaction, target: str, amount: int = 1) -> int:
        """Pay somebody."""
        tx.root(Account, target).evaluate(deposit(amount))
        return int(tx.root(Account, target).state)

    assert [pay("a"), pay("a", amount=5)] == [1, 6]
    assert (pay.__name__, pay.__doc__) == ("pay", "Pay somebody.")


def test_a_transaction_reads_its_own_events(store: ms.Store) -> None:
    def twice(tx: ms.Transaction) -> None:
        account = tx.root(Account, "a")
        account.evaluate(deposit(3))
        (second,) = account.evaluate(deposit(4))
        assert (second.sequence, second.position, second.timestamp) == (2, None, None)
        assert account.fetch() == account.state == 7
        assert account.sequence == 2
        assert account.replay(1) == 3
        assert tx.root(Account, "a") is account
        assert Account(account.store, "a").fetch() == 7
        assert account.store.last_sequence("a") == 2

    store.transact(twice)
    assert [one.body for one in store.get_events("a")] == [3, 4]
    assert Account(store, "a").fetch() == 7


def test_all_reads_in_a_transaction_see_one_cut_whatever_is_committed_meanwhile(store: ms.Store) -> None:
    for key in ("a", "b"):
        Account(store, key).evaluate(deposit(10))
    store.transact(put, "t", x=1)
    seen = []
    rivals = iter([True])

    def look(tx: ms.Transaction) -> None:
        seen.append(tx.root(Account, "a").fetch())
        if next(rivals, False):
            in_threads(lambda: store.transact(transfer, "a", "b", 5), lambda: store.transact(put, "t", x=2, y=2))
            assert dict(store.table("t")) == {"x": 2, "y": 2}  # to read past the transaction is no error
        seen.extend([tx.root(Account, "b").fetch(), dict(tx.table("t")), tx.root(Account, "c").fetch()])

    store.transact(look)
    assert seen == [10, 10, {"x": 1}, 0]
    assert store.transact(balances, "a", "b") == [5, 15]


def test_a_transaction_whose_reads_are_stale_at_its_end_runs_again(store: ms.Store) -> None:
    Account(store, "a").evaluate(deposit(10))
    rivals = iter([True])
    runs = []

    def mirror(tx: ms.Transaction) -> None:
        runs.append(tx.root(Account, "a").fetch())
        if next(rivals, False):
            in_threads(lambda: Account(store, "a").evaluate(deposit(1)))
        tx.root(Account, "mirror").evaluate(deposit(runs[-1]))

    store.transact(mirror)
    assert runs == [10, 11]
    assert Account(store, "mirror").fetch() == 11


def test_that_an_aggregate_has_no_events_yet_is_a_read_like_any_other(store: ms.Store) -> None:
    rivals = iter([True])
    runs = []

    def first(tx: ms.Transaction) -> None:
        runs.append(tx.root(Account, "a").fetch())
        if next(rivals, False):
            in_threads(lambda: Account(store, "a").evaluate(deposit(1)))
        tx.root(Account, "b").evaluate(deposit(1))

    store.transact(first)
    assert runs == [0, 1]


@pytest.mark.parametrize("is_new", [True, False])
def test_a_stream_that_a_transaction_appends_to_with_a_gap_is_a_read_like_any_other(
    store: ms.Store, *, is_new: bool
) -> None:
    last = 0 if is_new else 10
    if not is_new:
        store.commit_events([event("a", last)])
    rivals = iter([True])
    runs = []

    def leave_gap(tx: ms.Transaction) -> None:
        root = tx.root(Account, "a")
        runs.append(root.store.last_sequence("a"))
        if next(rivals, False):
            in_threads(lambda: store.commit_events([event("a", last + 5)]))
        root.store.commit_events([event("a", last + 20)])

    store.transact(leave_gap)
    assert runs == [None if is_new else last, last + 5]


def test_what_was_not_read_is_no_conflict(store: ms.Store) -> None:
    rivals = iter([True])
    runs = []

    def alone(tx: ms.Transaction) -> None:
        runs.append(tx)
        if next(rivals, False):
            in_threads(lambda: Account(store, "b").evaluate(deposit(1)), lambda: store.transact(put, "t", x=1))
        tx.root(Account, "a").evaluate(deposit(1))
        tx.table("t")["y"] = 1

    store.transact(alone)
    assert len(runs) == 1


def test_a_transaction_that_only_reads_never_conflicts(store: ms.Store) -> None:
    runs = []

    def look(tx: ms.Transaction) -> int:
        runs.append(tx.root(Account, "a").fetch())
        in_threads(lambda: Account(store, "a").evaluate(deposit(1)))
        return len(runs)

    assert store.transact(look) == 1


def test_transactions_that_want_the_same_lose_nothing(store: ms.Store) -> None:
    Account(store, "a").evaluate(deposit(100))

    def pay(number: int) -> None:
        for _ in range(10):
            store.transact(transfer, "a", f"b-{number % 2}", 1)

    in_threads(*(lambda number=number: pay(number) for number in range(4)))
    assert store.transact(balances, "a", "b-0", "b-1") == [60, 20, 20]


def test_a_transaction_that_meets_conflicts_until_its_deadline_gives_up(make_store: MakeStore) -> None:
    store = make_store()
    store.retry_timeout = 0.2
    rivals = itertools.count(1)

    def lose(tx: ms.Transaction) -> None:
        count(tx)
        in_threads(lambda: store.transact(put, "counters", n=next(rivals)))

    with pytest.raises(ms.RetriesExhaustedError, match=r"transaction '.*lose' met a conflict in each of") as told:
        store.transact(lose)
    assert told.value.attempts > 1
    assert told.value.aggregate_id is None


@pytest.mark.parametrize(
    ("name", "misuse"),
    [
        ("a commit", lambda store: store.commit_events([event("x")])),
        ("a commit", lambda store: store.commit_all([event("x")])),
        ("a snapshot", lambda store: store.commit_snapshot(ms.Snapshot("x", 1, None))),
        ("a commit", lambda store: Account(store, "x").evaluate(deposit(1))),
        ("a transaction begins", lambda store: store.transact(lambda _tx: None)),
        ("a reset", lambda store: store.reset()),
    ],
)
def test_the_function_of_a_transaction_may_not_commit_by_itself(
    store: ms.Store, name: str, misuse: Callable[[ms.Store], object]
) -> None:
    def function(tx: ms.Transaction) -> None:
        tx.root(Account, "a").evaluate(deposit(1))
        misuse(store)

    with pytest.raises(ms.TransactionError, match=f"^{name} within the transaction '.*function'"):
        store.transact(function)
    assert store.stats()["events"] == 0
    misuse(store)  # afterwards it may


@pytest.mark.parametrize(
    "misuse",
    [
        lambda root: root.store.transact(lambda _tx: None),
        lambda root: root.store.reset(),
        lambda root: root.store.close(),
        lambda root: root.store.stats(),
    ],
)
def test_the_store_of_a_transactions_roots_does_not_do_what_only_a_store_can(
    store: ms.Store, misuse: Callable[[Account], object]
) -> None:
    with pytest.raises(ms.TransactionError):
        store.transact(lambda tx: misuse(tx.root(Account, "a")))
    with pytest.raises(TypeError, match="belongs to it and cannot be pickled"):
        store.transact(lambda tx: pickle.dumps(tx.root(Account, "a")))


def test_another_store_may_be_written_to_within_a_transaction(store: ms.Store) -> None:
    with ms.connect("memory:") as other:

        def function(tx: ms.Transaction) -> None:
            other.transact(lambda inner: inner.root(Account, "a").evaluate(deposit(1)))
            tx.root(Account, "a").evaluate(deposit(2))

        store.transact(function)
        assert [Account(one, "a").fetch() for one in (store, other)] == [2, 1]


@pytest.mark.parametrize(
    "use",
    [
        lambda tx: tx.root(Account, "b").fetch(),
        lambda tx: tx.root(Account, "a").evaluate(deposit(1)),
        lambda tx: tx.root(Account, "a").fetch(),
        lambda tx: tx.root(Account, "a").state,
        lambda tx: tx.root(Account, "a").snapshot(),
        lambda tx: tx.table("t")["x"],
        lambda tx: tx.table("t").put("x", 1),
        lambda tx: list(tx.table("t")),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_transaction_can_be_used_after_its_end(
    store: ms.Store, use: Callable[..., object], *, fails: bool
) -> None:
    kept: list[ms.Transaction] = []

    def leak(tx: ms.Transaction) -> None:
        tx.root(Account, "a").evaluate(deposit(1))
        tx.table("t")["y"] = 1
        kept.append(tx)
        if fails:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        store.transact(leak)
    with pytest.raises(ms.TransactionError, match="has ended"):
        use(*kept)


def test_what_is_no_function_is_refused(store: ms.Store) -> None:
    async def asynchronous(_tx: ms.Transaction) -> None: ...

    wrong: list[Any] = [asynchronous, 5]
    for one in wrong:
        with pytest.raises(ms.TransactionError):
            store.transact(one)
        with pytest.raises(ms.TransactionError):
            store.transact()(one)


def test_a_transaction_over_the_size_cap_is_refused_whole(make_store: MakeStore) -> None:
    store = make_store(max_commit_bytes=4096)

    def large(tx: ms.Transaction) -> None:
        for number in range(10):
            tx.root(Account, f"a-{number}").store.commit_events([event(f"a-{number}", 1, "x" * 500)])

    with pytest.raises(ms.InvalidEventError, match="over the cap of 4,096"):
        store.transact(large)
    assert store.stats()["events"] == 0


def test_what_cannot_be_stored_is_refused_where_it_is_given(store: ms.Store) -> None:
    reached = []

    def function(tx: ms.Transaction) -> None:
        root = tx.root(Account, "a")
        with pytest.raises(ms.InvalidEventError, match=r"body: cannot store"):
            root.store.commit_events([event("a", 1, object())])
        with pytest.raises(ms.InvalidEntryError, match=r"value: cannot store"):
            tx.table("t")["x"] = object()
        reached.append(tx)

    store.transact(function)
    assert reached
    assert store.stats()["events"] == 0


def test_a_value_that_is_changed_after_it_was_given_changes_nothing(store: ms.Store) -> None:
    def function(tx: ms.Transaction) -> None:
        value = [1]
        tx.table("t")["x"] = value
        tx.root(Account, "a").store.commit_events([event("a", 1, value)])
        value.append(2)
        tx.table("t")["x"].append(3)

    store.transact(function)
    assert store.table("t")["x"] == store.get_events("a")[0].body == [1]


class Saved(Account):
    snapshot_every = 2


def test_automatic_snapshots_of_a_transaction_are_taken_after_its_commit(store: ms.Store) -> None:
    def function(tx: ms.Transaction) -> None:
        saved = tx.root(Saved, "a")
        for _ in range(3):
            saved.evaluate(deposit(1))
        assert not saved.snapshot() or saved.sequence == 3

    store.transact(function)
    snapshot = store.get_snapshot("a")
    assert snapshot is not None
    assert snapshot.sequence == 3
    assert Saved(store, "a").fetch() == 3


def test_a_transaction_that_fails_leaves_no_snapshot(store: ms.Store) -> None:
    def function(tx: ms.Transaction) -> None:
        for _ in range(3):
            tx.root(Saved, "a").evaluate(deposit(1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.transact(function)
    assert store.get_snapshot("a") is None


def test_a_transaction_starts_from_snapshots_at_its_cut(store: ms.Store) -> None:
    account = Account(store, "a")
    account.evaluate(deposit(1))
    account.snapshot()

    def function(tx: ms.Transaction) -> int:
        in_threads(lambda: Account(store, "a").evaluate(deposit(1)), lambda: Account(store, "a").snapshot())
        return int(tx.root(Account, "a").fetch())

    assert store.transact(function) == 1
