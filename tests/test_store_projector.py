"""Eventual projections: each event exactly once in the tables, which are rebuilt beside those that are live."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from ledger import Account, deposit
from store_contract import in_threads

import maestro_shm as ms
from maestro_shm import projection_state, projector

SOON = 30.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "_LOOK", 0.02)


class Totals:
    """What was deposited for whom, and the positions, by which twice is told from once."""

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def project(self, event: ms.Event, tables: ms.Tables) -> None:
        totals = tables["totals"]
        totals[event.aggregate_id] = totals.get(event.aggregate_id, 0) + event.body * self.factor
        assert tables["positions"].insert(f"{event.position:06d}", event.sequence)


def fill(store: ms.Store, count: int, first: int = 1) -> None:
    for sequence in range(first, first + count):
        store.commit_events([ms.Event(key, sequence, "deposited", sequence) for key in "ab"])


def running(runner: ms.Projector) -> threading.Thread:
    thread = threading.Thread(target=runner.run)
    thread.start()
    return thread


def test_events_are_projected_once_each_up_to_the_last(store: ms.Store) -> None:
    fill(store, 300)
    totals = store.projector("totals", Totals())
    assert totals.position == 0
    assert totals.catch_up() == 600
    assert totals.catch_up() == 600
    assert dict(totals.table("totals")) == {"a": 45_150, "b": 45_150}
    assert len(totals.table("positions")) == 600
    fill(store, 1, 301)
    assert totals.catch_up() == 602
    assert totals.table("totals")["a"] == 45_451


def test_a_runner_follows_the_feed_and_others_wait_for_it(store: ms.Store) -> None:
    with store.projector("totals", Totals()) as runner:
        thread = running(runner)
        try:
            reader = store.projector("totals")
            for number in range(1, 20):
                (event,) = Account(store, "a").evaluate(deposit(number))
                assert reader.wait_for(event.position or 0, timeout=SOON)
                assert reader.table("totals")["a"] == number * (number + 1) // 2
        finally:
            runner.stop()
            thread.join()


def test_waiting_for_a_projection_that_nobody_runs_ends_at_its_time(store: ms.Store) -> None:
    fill(store, 1)
    totals = store.projector("totals", Totals())
    assert totals.wait_for(0)
    assert not totals.wait_for(1, timeout=0.05)
    totals.catch_up()
    assert totals.wait_for(2, timeout=0)


def test_of_many_runners_one_projects_and_another_takes_over(store: ms.Store) -> None:
    runners = [store.projector("totals", Totals()) for _ in range(3)]
    threads = [running(runner) for runner in runners]
    try:
        for turn, runner in enumerate(runners):
            fill(store, 10, 1 + 10 * turn)
            assert store.projector("totals").wait_for(20 * (turn + 1), timeout=SOON)
            runner.stop()
            threads[turn].join()
    finally:
        for runner in runners:
            runner.stop()
        for thread in threads:
            thread.join()
    assert dict(store.projector("totals").table("totals")) == {"a": 465, "b": 465}


def test_runners_that_race_project_each_event_once(store: ms.Store) -> None:
    def catch_up() -> None:
        own = store.projector("totals", Totals())
        while own.catch_up() < 200:
            pass

    in_threads(partial(fill, store, 100), catch_up, catch_up)
    table = store.projector("totals").table("totals")
    assert dict(table) == {"a": 5050, "b": 5050}


def test_only_wanted_events_are_projected_and_the_position_goes_on(store: ms.Store) -> None:
    fill(store, 5)
    store.commit_events([ms.Event("c", 1, "other", "no number")])
    totals = store.projector("totals", Totals(), after=2, types=["deposited"], aggregate_prefix="a")
    assert totals.catch_up() == 11
    assert dict(totals.table("totals")) == {"a": 2 + 3 + 4 + 5}
    assert totals.wait_for(11, timeout=0)


def test_one_of_this_name_with_other_events_is_refused_until_it_is_rebuilt(store: ms.Store) -> None:
    for sequence, kind in enumerate(("placed", "paid", "placed"), 1):
        store.commit_events([ms.Event("order-1", sequence, kind, 1)])
    all_of_it = store.projector("view", Totals())
    assert all_of_it.catch_up() == 3
    store.commit_events([ms.Event("order-1", 4, "paid", 1)])
    paid = store.projector("view", Totals(), types={"paid"}, aggregate_prefix="order-")
    message = (
        "projection 'view': it has all events so far, not the events of types 'paid' of aggregates whose ids begin "
        "with 'order-'; use another name, or `rebuild()` it"
    )
    with pytest.raises(ms.ProjectionError) as caught:
        paid.catch_up()
    assert str(caught.value) == message
    assert store.projector("view", Totals(), after=2).catch_up() == 4
    store.commit_events([ms.Event("order-1", 5, "placed", 1), ms.Event("order-1", 6, "paid", 1)])
    assert paid.rebuild() == 6
    assert dict(paid.table("totals")) == {"order-1": 3}
    for run in (all_of_it.catch_up, all_of_it.run):
        with pytest.raises(ms.ProjectionError, match="it has the events of types 'paid' of aggregates"):
            run()


def test_what_a_projection_raises_comes_through_and_nothing_of_its_commit_is_done(store: ms.Store) -> None:
    fill(store, 3)

    class Fragile(Totals):
        is_broken = True

        def project(self, event: ms.Event, tables: ms.Tables) -> None:
            super().project(event, tables)
            if event.sequence == 3 and Fragile.is_broken:
                raise ZeroDivisionError

    totals = store.projector("totals", Fragile())
    with pytest.raises(ZeroDivisionError):
        totals.catch_up()
    assert totals.position == 0
    assert dict(totals.table("totals")) == {}
    with pytest.raises(ZeroDivisionError):
        totals.run()
    Fragile.is_broken = False
    assert totals.catch_up() == 6
    assert dict(totals.table("totals")) == {"a": 6, "b": 6}


def test_a_rebuild_fills_new_tables_and_then_takes_their_place(store: ms.Store) -> None:
    fill(store, 10)
    old = store.projector("totals", Totals())
    old.catch_up()
    table = old.table("totals")
    new = store.projector("totals", Totals(factor=100))
    assert table["a"] == 55
    assert new.rebuild() == 20
    assert table["a"] == 5500
    fill(store, 1, 11)
    assert new.catch_up() == 22
    assert dict(table) == {"a": 6600, "b": 6600}
    assert new.rebuild() == 22
    assert dict(table) == {"a": 6600, "b": 6600}
    assert len(old.table("positions")) == 22


def test_the_old_tables_are_live_until_a_rebuild_is_done(store: ms.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_state, "_LARGEST_BATCH", 4)
    fill(store, 10)
    old = store.projector("totals", Totals())
    old.catch_up()
    seen = []

    class Watching(Totals):
        def project(self, event: ms.Event, tables: ms.Tables) -> None:
            super().project(event, tables)
            seen.append(old.table("totals")["a"])

    store.projector("totals", Watching(factor=2)).rebuild()
    assert set(seen) == {55}
    assert old.table("totals")["a"] == 110


def test_a_rebuild_beside_a_runner_and_writers_loses_and_doubles_nothing(store: ms.Store) -> None:
    fill(store, 50)
    runner = store.projector("totals", Totals())
    thread = running(runner)
    try:
        in_threads(partial(fill, store, 50, 51), store.projector("totals", Totals()).rebuild)
        assert store.projector("totals").wait_for(200, timeout=SOON)
    finally:
        runner.stop()
        thread.join()
    reader = store.projector("totals")
    assert dict(reader.table("totals")) == {"a": 5050, "b": 5050}
    assert len(reader.table("positions")) == 200


def test_a_rebuild_that_broke_off_is_begun_anew(store: ms.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_state, "_LARGEST_BATCH", 4)
    fill(store, 10)
    store.projector("totals", Totals()).catch_up()

    class Breaking(Totals):
        def project(self, event: ms.Event, tables: ms.Tables) -> None:
            super().project(event, tables)
            if event.sequence == 5:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.projector("totals", Breaking(factor=3)).rebuild()
    assert store.projector("totals").table("totals")["a"] == 55
    assert store.projector("totals", Totals(factor=2)).rebuild() == 20
    assert store.projector("totals").table("totals")["a"] == 110


def test_tables_of_a_former_version_are_removed(store: ms.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_state, "_DELETED_AT_ONCE", 7)
    fill(store, 20)
    totals = store.projector("totals", Totals())
    totals.catch_up()
    assert len(store.table("maestro_shm/projection/totals/1/positions")) == 40
    totals.rebuild()
    assert len(store.table("maestro_shm/projection/totals/1/positions")) == 0
    assert len(store.table("maestro_shm/projection/totals/2/positions")) == 40


def test_a_rebuild_is_done_by_one_at_a_time(store: ms.Store) -> None:
    fill(store, 1)
    other = store.projector("totals", Totals())
    other.catch_up()
    refused = []

    def rebuild_too() -> None:
        with pytest.raises(ms.ProjectionError, match="rebuilt already"):
            other.rebuild()
        refused.append(True)

    class Meanwhile(Totals):
        def project(self, event: ms.Event, tables: ms.Tables) -> None:
            super().project(event, tables)
            in_threads(rebuild_too)

    store.projector("totals", Meanwhile()).rebuild()
    assert refused == [True, True]


def test_a_commit_that_would_be_too_large_is_made_smaller(make_store: Callable[..., ms.Store]) -> None:
    store = make_store(max_commit_bytes=4096)

    class Copies:
        def project(self, event: ms.Event, tables: ms.Tables) -> None:
            tables["copies"][str(event.position)] = event.body

    for sequence in range(1, 40):
        store.commit_events([ms.Event("a", sequence, "made", bytes(700))])
    copies = store.projector("copies", Copies())
    assert copies.catch_up() == 39
    assert len(copies.table("copies")) == 39
    store.commit_events([ms.Event("a", 40, "made", bytes(3900))])
    with pytest.raises(ms.InvalidEventError, match="over the cap"):
        copies.catch_up()
    assert copies.position == 39


def test_projections_of_different_names_know_nothing_of_each_other(store: ms.Store) -> None:
    fill(store, 3)
    store.projector("one", Totals()).catch_up()
    two = store.projector("two", Totals(factor=2))
    two.catch_up()
    assert store.projector("one").table("totals")["a"] == 6
    assert two.table("totals")["a"] == 12


def test_who_only_reads_cannot_run_it(store: ms.Store) -> None:
    fill(store, 1)
    reader = store.projector("totals")
    assert dict(reader.table("totals")) == {}
    for act in (reader.catch_up, reader.run):
        with pytest.raises(ms.ProjectionError, match="what is to be projected"):
            act()


@pytest.mark.parametrize("name", ["", None, "a/b", "a\0", "x" * 101, "\udc80", 5])
def test_a_wrong_name_is_refused(store: ms.Store, name: Any) -> None:
    with pytest.raises(ms.ProjectionError, match="a name must be"):
        store.projector(name, Totals())


def test_a_reset_ends_a_projector(store: ms.Store) -> None:
    fill(store, 3)
    totals = store.projector("totals", Totals())
    totals.catch_up()
    timer = threading.Timer(0.1, store.reset)
    timer.start()
    with pytest.raises(ms.StoreUnavailableError, match="reset"):
        totals.run()
    timer.join()
    with pytest.raises(ms.StoreUnavailableError, match="reset"):
        totals.wait_for(100, timeout=SOON)
    fill(store, 1)
    assert store.projector("totals", Totals()).catch_up() == 2


def test_a_transaction_and_the_past_have_no_projectors(store: ms.Store) -> None:
    def ask(tx: ms.Transaction, whose: str) -> None:
        own = tx.root(Account, "a").store if whose == "own" else store
        own.projector("totals", Totals())

    for whose in ("own", "store"):
        with pytest.raises(ms.TransactionError):
            store.transact(ask, whose)
    with pytest.raises(ms.ReadOnlyError):
        store.at(position=0).projector("totals", Totals())
