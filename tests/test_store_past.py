"""The past of a store, by position and by time, as one consistent state after a commit."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger import Account, deposit, put, transfer, withdraw
from store_contract import exactly

import maestro_shm as ms
from maestro_shm.clock import MAX_TIMESTAMP, as_datetime, as_timestamp


def pay(store: ms.Store) -> list[ms.Event]:
    """Three commits, of one, two and one events; and a snapshot, and a table with a value for each of them."""
    stored = list(Account(store, "alice").evaluate(deposit(10)))
    store.transact(put, "numbers", first=1)
    store.transact(transfer, "alice", "bob", 4)
    Account(store, "alice").snapshot()
    store.transact(put, "numbers", second=2)
    Account(store, "bob").evaluate(withdraw(1))
    assert len(list(store.read())) == 4
    return stored


def state(store: ms.Store) -> dict[str, Any]:
    """All that can be seen."""
    return {
        "alice": Account(store, "alice").fetch(),
        "bob": Account(store, "bob").fetch(),
        "events": [event.position for event in store.get_events("bob")],
        "last": (store.last_sequence("alice"), store.last_sequence("bob"), store.last_position),
        "feed": [event.position for event in store.read()],
        "table": dict(store.table("numbers")),
        "snapshot": store.get_snapshot("alice") is not None,
    }


NOTHING = {
    "alice": 0,
    "bob": 0,
    "events": [],
    "last": (None, None, 0),
    "feed": [],
    "table": {},
    "snapshot": False,
}
AFTER_FIRST = NOTHING | {"alice": 10, "last": (1, None, 1), "feed": [1]}
AFTER_SECOND = {
    "alice": 6,
    "bob": 4,
    "events": [3],
    "last": (2, 1, 3),
    "feed": [1, 2, 3],
    "table": {"first": 1},
    "snapshot": False,
}
AFTER_THIRD = {
    "alice": 6,
    "bob": 3,
    "events": [3, 4],
    "last": (2, 2, 4),
    "feed": [1, 2, 3, 4],
    "table": {"first": 1, "second": 2},
    "snapshot": True,
}


@pytest.mark.parametrize(
    ("position", "expected"),
    [(0, NOTHING), (1, AFTER_FIRST), (2, AFTER_SECOND), (3, AFTER_SECOND), (4, AFTER_THIRD), (5, AFTER_THIRD)],
)
def test_a_store_at_a_position_is_what_the_commit_with_it_left(
    store: ms.Store, position: int, expected: dict[str, Any]
) -> None:
    pay(store)
    assert state(store.at(position=position)) == expected


def test_a_store_at_a_time_is_what_the_last_commit_up_to_it_left(store: ms.Store) -> None:
    pay(store)
    times = [event.timestamp or 0 for event in store.read()]
    expected = [AFTER_FIRST, AFTER_FIRST, AFTER_SECOND, AFTER_THIRD]  # the second's first event is not all of it
    for time, after in zip(times, expected, strict=True):
        assert state(store.at(time=time)) == after
    assert state(store.at(time=times[0] - 1)) == NOTHING
    assert state(store.at(time=times[2] - 1)) == AFTER_FIRST
    assert state(store.at(time=times[3] + 1)) == AFTER_THIRD


def test_a_time_may_be_a_datetime_of_any_zone(store: ms.Store) -> None:
    (event,) = store.commit_events([ms.Event("a", 1, "made", None)])
    moment = as_datetime(event.timestamp or 0)
    assert store.at(time=moment).last_position == 1
    assert store.at(time=moment.astimezone()).last_position == 1
    assert store.at(time=moment - timedelta(microseconds=1)).last_position == 0
    assert store.at(time=datetime.now(UTC) + timedelta(days=1)).last_position == 1
    assert store.at(time=datetime(1, 1, 1, tzinfo=UTC)).last_position == 0


@given(timestamp=st.integers(0, MAX_TIMESTAMP))
def test_a_moment_stands_for_its_last_timestamp(timestamp: int) -> None:
    last = as_timestamp(as_datetime(timestamp))
    assert last >= timestamp
    assert as_datetime(last) == as_datetime(timestamp) < as_datetime(last + 1)


def test_events_of_an_earlier_time_count_from_their_commit_on(store: ms.Store) -> None:
    for sequence, timestamp in enumerate((100, 300, 200, 400), 1):
        store.commit_events([ms.Event("a", sequence, "made", None, timestamp=timestamp)])
    found = {time: store.at(time=time).last_position for time in (99, 100, 250, 299, 300, 399, 400)}
    assert found == {99: 0, 100: 1, 250: 1, 299: 1, 300: 3, 399: 3, 400: 4}


def test_the_past_stays_as_it_is_whatever_is_committed(store: ms.Store) -> None:
    pay(store)
    past = store.at(position=3)
    Account(store, "alice").evaluate(deposit(100))
    store.transact(put, "numbers", first=None, third=3)
    assert state(past) == AFTER_SECOND
    assert state(past.at(position=1)) == AFTER_FIRST
    assert past.at(position=9).last_position == 3
    assert past.at(time=MAX_TIMESTAMP).last_position == 3


def test_the_past_can_only_be_read(store: ms.Store) -> None:
    pay(store)
    past = store.at(position=3)
    for act in (
        lambda: past.commit_events([ms.Event("a", 1, "made", None)]),
        lambda: past.commit_all([ms.Event("a", 1, "made", None)]),
        lambda: past.commit_snapshot(ms.Snapshot("a", 1, None)),
        lambda: past.transact(put, "numbers", first=2),
        lambda: Account(past, "alice").evaluate(deposit(1)),
        past.reset,
        past.stats,
    ):
        with pytest.raises(ms.ReadOnlyError, match="at position 3") as caught:
            act()
        assert caught.value.target == past.target
    assert state(past) == AFTER_SECOND
    assert state(store) == AFTER_THIRD


def test_the_past_ends_with_its_store_and_not_before(make_store: Any) -> None:
    store = make_store()
    pay(store)
    with store.at(position=3) as past:
        pass
    feed = past.read()
    assert past.last_position == 3
    store.close()
    for act in (past.read, lambda: past.last_position, lambda: past.get_events("a"), lambda: list(feed)):
        with pytest.raises(ms.StoreClosedError):
            act()


def test_the_past_pickles_as_its_store_and_position(store: ms.Store, store_kind: str) -> None:
    pay(store)
    past = store.at(position=2)
    if store_kind == "memory":
        with pytest.raises(TypeError, match="memory"):
            pickle.dumps(past)
    else:
        assert state(pickle.loads(pickle.dumps(past))) == AFTER_SECOND


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"position": 1, "time": 1},
        {"position": -1},
        {"position": "1"},
        {"position": True},
        {"time": 1.5},
        {"time": datetime(2020, 1, 1)},  # noqa: DTZ001 (that is what is wrong with it)
        {"time": "2020-01-01"},
    ],
)
def test_a_wrong_position_or_time_is_refused(store: ms.Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(ms.InvalidEventError):
        store.at(**wrong)
    with pytest.raises(ms.InvalidEventError):
        Account(store, "a").replay(**wrong)
    with pytest.raises(ms.InvalidEventError):
        Account(store, "a").replay(1, **({"position": 1} | wrong))


def test_a_root_replays_to_a_position_or_a_time(store: ms.Store) -> None:
    pay(store)
    alice = Account(store, "alice")
    times = [event.timestamp or 0 for event in store.read()]
    assert [alice.replay(position=position) for position in range(5)] == [0, 10, 6, 6, 6]
    assert [alice.replay(time=time) for time in times] == [10, 10, 6, 6]
    assert [alice.replay(sequence) for sequence in range(3)] == [0, 10, 6]
    assert alice.get() == 6


def test_a_transaction_has_no_past(store: ms.Store) -> None:
    def look(tx: ms.Transaction) -> None:
        tx.root(Account, "alice").replay(position=1)

    with pytest.raises(ms.TransactionError, match="ask its store"):
        store.transact(look)


_commits = st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20)), min_size=1, max_size=4), max_size=8)


@given(commits=_commits)
def test_every_past_is_the_state_that_there_was(kept_stores: Any, commits: list[list[tuple[str, int]]]) -> None:
    for kind in ("memory", "private"):
        store = kept_stores(kind)
        store.reset()
        states, latest = [(0, exactly([]))], [-1]
        for commit in commits:
            first = store.last_position + 1
            events = [ms.Event(key, first + n, "made", n, timestamp=time) for n, (key, time) in enumerate(commit)]
            store.commit_events(events)
            store.commit_snapshot(ms.Snapshot("a", first, None))
            states.append((store.last_position, exactly(list(store.read()))))
            latest.append(max(latest[-1], *(time for _, time in commit)))
        for time in range(-1, 22):
            past = store.at(time=time)
            expected = states[max(number for number, highest in enumerate(latest) if highest <= time)]
            assert (past.last_position, exactly(list(past.read()))) == expected
        for position in range(store.last_position + 1):
            last, feed = next(known for known in states if known[0] >= position)
            past = store.at(position=position)
            assert (past.last_position, exactly(list(past.read()))) == (last, feed)
