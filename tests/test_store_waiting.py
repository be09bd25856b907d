"""Waiting for positions, and subscriptions: what comes is given once, in order, at once; what is ended ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from ledger import Account
from store_contract import exactly, in_threads

import maestro_shm as ms
from maestro_shm.backend import Backend

SOON = 20.0
"""Seconds within which whatever has to come comes, on a busy machine, too."""


def make(store: ms.Store, sequence: int, key: str = "a", kind: str = "made") -> ms.Event:
    (event,) = store.commit_events([ms.Event(key, sequence, kind, sequence)])
    return event


@contextmanager
def later(act: Any, *arguments: Any, seconds: float = 0.05) -> Iterator[None]:
    """Do something in another thread while this one waits."""
    errors = []

    def run() -> None:
        try:
            act(*arguments)
        except Exception as error:  # noqa: BLE001 (raised below)
            errors.append(error)

    timer = threading.Timer(seconds, run)
    timer.start()
    try:
        yield
    finally:
        timer.join()
    assert errors == []


# Waiting


def test_what_is_there_is_not_waited_for(store: ms.Store) -> None:
    make(store, 1)
    assert store.wait(0)
    assert store.wait(1)
    assert store.wait(1, timeout=0)
    assert not store.wait(2, timeout=0)


def test_a_wait_ends_with_the_commit_of_its_position(store: ms.Store) -> None:
    def commit() -> None:
        make(store, 1)
        store.commit_events([ms.Event("a", number, "made", None) for number in (2, 3, 4)])

    with later(commit):
        assert store.wait(3, timeout=SOON)
    assert store.last_position == 4


def test_a_wait_for_what_does_not_come_ends_at_its_time(store: ms.Store) -> None:
    begun = time.monotonic()
    assert not store.wait(1, timeout=0.2)
    assert time.monotonic() - begun >= 0.2
    make(store, 1)
    assert store.wait(1, timeout=0.2)


def test_many_wait_at_once_for_different_positions(store: ms.Store) -> None:
    def commit() -> None:
        for sequence in range(1, 13):
            make(store, sequence)

    def wait(position: int) -> None:
        assert store.wait(position, timeout=SOON)
        assert store.last_position >= position

    with later(commit):
        in_threads(*(partial(wait, position) for position in (12, 3, 7, 7, 1, 12)))


def test_a_wait_ends_with_an_error_when_the_store_is_reset(store: ms.Store) -> None:
    make(store, 1)
    with later(store.reset), pytest.raises(ms.StoreUnavailableError, match="reset"):
        store.wait(2, timeout=SOON)


def test_a_wait_ends_with_an_error_when_the_store_is_closed(make_store: Any) -> None:
    store = make_store()
    with later(store.close), pytest.raises(ms.StoreClosedError):
        store.wait(1, timeout=SOON)
    with pytest.raises(ms.StoreClosedError):
        store.wait(0)


@pytest.mark.parametrize("position", [2**63 - 1, 2**64, 2**80])
def test_a_position_that_is_never_reached_can_be_waited_for(store: ms.Store, position: int) -> None:
    assert not store.wait(position, timeout=0.01)
    with store.subscribe(position) as subscription:
        make(store, 1)
        assert subscription.get(timeout=0.01) is None


@pytest.mark.parametrize("position", [-1, None, True, 1.0, "1"])
def test_only_a_position_can_be_waited_for(store: ms.Store, position: Any) -> None:
    with pytest.raises(ms.InvalidEventError, match="position"):
        store.wait(position)


@pytest.mark.parametrize("timeout", [-1, "1", True, float("nan")])
def test_a_wait_takes_a_number_of_seconds(store: ms.Store, timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout"):
        store.wait(1, timeout=timeout)


# Subscriptions


def test_a_subscription_gives_what_there_is_and_then_what_comes(store: ms.Store) -> None:
    stored = [make(store, sequence) for sequence in (1, 2, 3)]
    with store.subscribe(1) as subscription:
        assert exactly([next(subscription), next(subscription)]) == exactly(stored[1:])
        assert subscription.position == 3
        with later(make, store, 4):
            event = next(subscription)
        assert (event.position, event.sequence) == (4, 4)
        assert subscription.get(timeout=0) is None
        assert subscription.get(timeout=0.05) is None


def test_a_subscription_gives_every_event_once_in_order_while_others_commit(store: ms.Store) -> None:
    def commit(key: str) -> None:
        for sequence in range(1, 120):
            make(store, sequence, key)

    def follow() -> None:
        with store.subscribe() as subscription:
            found = [next(subscription) for _ in range(3 * 119)]
        assert [event.position for event in found] == list(range(1, len(found) + 1))
        assert exactly(found) == exactly(list(store.read()))

    in_threads(follow, follow, *(partial(commit, key) for key in "abc"))


def test_a_subscription_passes_over_what_is_not_wanted(store: ms.Store) -> None:
    for sequence in range(1, 5):
        make(store, sequence, kind="even" if sequence % 2 == 0 else "odd")
        make(store, sequence, key="b", kind="even")
    subscription = store.subscribe(types=["even"], aggregate_prefix="a")
    assert [next(subscription).position, next(subscription).position] == [3, 7]
    assert subscription.get(timeout=0) is None
    assert subscription.position == 8
    make(store, 5, kind="odd")
    assert subscription.get(timeout=0) is None
    assert subscription.position == 9
    with later(make, store, 6, "a", "even"):
        assert next(subscription).position == 10


def test_a_subscription_that_is_closed_ends_and_its_waiter_is_woken(store: ms.Store) -> None:
    make(store, 1)
    subscription = store.subscribe()
    with later(subscription.close):
        assert [event.position for event in subscription] == [1]
    make(store, 2)
    assert list(subscription) == []
    assert subscription.get(timeout=0) is None
    subscription.close()
    assert list(store.read()) != []


def test_a_closed_subscription_gives_nothing_that_it_has_read_ahead(store: ms.Store) -> None:
    for sequence in (1, 2, 3):
        make(store, sequence)
    subscription = store.subscribe()
    for event in subscription:
        assert event.position == 1
        subscription.close()
    assert subscription.position == 1


def test_a_subscription_goes_on_from_the_position_of_a_former_one(store: ms.Store) -> None:
    for sequence in range(1, 7):
        make(store, sequence)
    with store.subscribe() as first:
        found = [next(first).position for _ in range(4)]
    with store.subscribe(first.position) as second:
        found += [next(second).position for _ in range(2)]
    assert found == [1, 2, 3, 4, 5, 6]


def test_a_subscription_ends_with_an_error_when_the_store_is_reset(store: ms.Store) -> None:
    make(store, 1)
    subscription = store.subscribe(1)
    with later(store.reset), pytest.raises(ms.StoreUnavailableError, match="reset"):
        next(subscription)
    make(store, 1)
    with pytest.raises(ms.StoreUnavailableError, match="subscribe again"):
        next(subscription)
    assert next(store.subscribe()).position == 1


def test_a_subscription_ends_with_an_error_when_the_store_is_closed(make_store: Any) -> None:
    store = make_store()
    subscription = store.subscribe()
    with later(store.close), pytest.raises(ms.StoreClosedError):
        next(subscription)
    for _ in range(2):
        with pytest.raises(ms.StoreClosedError):
            next(subscription)
    with pytest.raises(ms.StoreClosedError):
        store.subscribe()


def test_who_has_no_time_gets_what_there_is_however_far_away(store: ms.Store) -> None:
    for start in range(1, 3_000, 1_000):
        store.commit_events([ms.Event("a", number, "unwanted", None) for number in range(start, start + 1_000)])
    wanted = make(store, 1, "b", "wanted")
    with store.subscribe(types=["wanted"]) as subscription:
        event = subscription.get(timeout=0)
        assert event is not None
        assert event.position == wanted.position


@pytest.mark.parametrize("wrong", [{"after": -1}, {"types": "made"}, {"aggregate_prefix": 5}])
def test_a_wrong_subscription_is_refused_at_once(store: ms.Store, wrong: Any) -> None:
    with pytest.raises(ms.InvalidEventError):
        store.subscribe(**wrong)


def test_an_interrupted_subscription_goes_on_where_it_was(store: ms.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for sequence in range(1, 6):
        make(store, sequence)
    subscription = store.subscribe()
    found = [next(subscription).position, next(subscription).position]
    assert isinstance(store, Backend)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    found += [next(subscription).position for _ in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(store, "_wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(subscription)
    with later(make, store, 6):
        found.append(next(subscription).position)
    assert found == [1, 2, 3, 4, 5, 6]


def test_a_transaction_and_the_past_have_nothing_to_wait_for(store: ms.Store) -> None:
    def wait(tx: ms.Transaction, what: str, whose: str) -> None:
        own = tx.root(Account, "a").store if whose == "own" else store
        own.wait(5) if what == "wait" else own.subscribe()

    for what in ("wait", "subscribe"):
        for whose in ("own", "store"):
            with pytest.raises(ms.TransactionError):
                store.transact(wait, what, whose)
    with pytest.raises(ms.ReadOnlyError):
        store.at(position=0).wait(1)
    with pytest.raises(ms.ReadOnlyError):
        store.at(position=0).subscribe()
