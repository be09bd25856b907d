"""Strong projections: tables that change in the commit of the events that they show."""

from __future__ import annotations

from typing import Any

import pytest
from ledger import Person, TakenError, UniqueNames, count, put
from store_contract import event, in_threads

import maestro_shm as ms


class Latest:
    """The newest body of each aggregate, written without a look at what was there."""

    def project(self, event: ms.Event, tables: ms.Tables) -> None:
        tables["latest"][event.aggregate_id] = event.body


class Counter:
    def __init__(self) -> None:
        self.runs = 0

    def project(self, event: ms.Event, tables: ms.Tables) -> None:
        self.runs += 1
        table = tables["counters"]
        table[event.type] = table.get(event.type, 0) + 1


def test_tables_change_in_the_commit_of_the_events(store: ms.Store) -> None:
    stored = store.commit_all([event("a", 1, "one"), event("b", 1, "two")], [UniqueNames(), Latest()])
    assert stored == store.get_events("a") + store.get_events("b")
    assert [one.position for one in stored] == [1, 2]
    assert dict(store.table("names")) == {"one": "a", "two": "b"}
    assert dict(store.table("latest")) == {"a": "one", "b": "two"}


def test_without_projections_it_is_a_commit_of_events(store: ms.Store) -> None:
    assert store.commit_all([event("a")]) == store.get_events("a")
    assert store.commit_all([], [Latest()]) == []
    assert store.commit_all(iter([event("a", 2)]), iter([Latest()])) == store.get_events("a", 2)


def test_nothing_is_committed_when_a_projection_raises(store: ms.Store) -> None:
    store.commit_all([event("a", 1, "one")], [UniqueNames()])
    with pytest.raises(TakenError, match="one"):
        store.commit_all([event("b", 1, "two"), event("c", 1, "one")], [Latest(), UniqueNames()])
    assert [store.last_sequence(key) for key in ("b", "c")] == [None, None]
    assert dict(store.table("names")) == {"one": "a"}
    assert dict(store.table("latest")) == {}


def test_events_that_come_too_late_are_a_conflict_whatever_the_projections_say(store: ms.Store) -> None:
    store.commit_events([event("a")])
    with pytest.raises(ms.SequenceConflictError):
        store.commit_all([event("a")], [Latest()])
    assert dict(store.table("latest")) == {}


def test_projections_run_again_when_others_have_changed_what_they_read(store: ms.Store) -> None:
    counter = Counter()
    rivals = iter([True])

    class Rival:
        def project(self, _event: ms.Event, _tables: ms.Tables) -> None:
            if next(rivals, False):
                in_threads(lambda: store.transact(put, "counters", happened=10))

    store.commit_all([event("a")], [counter, Rival()])
    assert (counter.runs, dict(store.table("counters"))) == (2, {"happened": 11})
    in_threads(
        *(
            lambda key=key: [store.commit_all([event(key, number)], [Counter()]) for number in range(1, 11)]
            for key in "bcde"
        )
    )
    assert dict(store.table("counters")) == {"happened": 51}


def test_a_projection_may_not_commit_by_itself(store: ms.Store) -> None:
    class Wrong:
        def project(self, _event: ms.Event, _tables: ms.Tables) -> None:
            store.transact(count)

    with pytest.raises(ms.TransactionError, match="a transaction begins within the transaction 'commit_all'"):
        store.commit_all([event("a")], [Wrong()])
    assert store.stats()["events"] == 0


def test_an_aggregates_projections_run_with_each_of_its_commits(store: ms.Store) -> None:
    (claimed,) = Person(store, "ann").evaluate(ms.Command("claim", "queen"))
    assert claimed.position == 1
    assert dict(store.table("names")) == {"queen": "ann"}
    bob = Person(store, "bob")
    with pytest.raises(TakenError, match="queen"):
        bob.evaluate(ms.Command("claim", "queen"))
    assert (bob.fetch(), bob.sequence, store.last_sequence("bob")) == (None, 0, None)
    bob.evaluate(ms.Command("claim", "king"))
    assert dict(store.table("names")) == {"king": "bob", "queen": "ann"}


def test_an_aggregates_projections_run_in_transactions_too(store: ms.Store) -> None:
    def claim(tx: ms.Transaction, *names: str) -> None:
        for number, name in enumerate(names):
            tx.root(Person, f"{name}-{number}").evaluate(ms.Command("claim", name))

    store.transact(claim, "a", "b")
    with pytest.raises(TakenError, match="c"):
        store.transact(claim, "c", "c")
    assert dict(store.table("names")) == {"a": "a-0", "b": "b-1"}
    assert store.stats()["events"] == 2


def test_what_a_projection_does_with_an_event_is_not_what_is_stored(store: ms.Store) -> None:
    class Careless:
        def project(self, event: ms.Event, _tables: ms.Tables) -> None:
            body: Any = event.body
            body.append(2)

    (stored,) = store.commit_all([event("a", 1, [1])], [Careless()])
    assert stored.body == store.get_events("a")[0].body == [1]
