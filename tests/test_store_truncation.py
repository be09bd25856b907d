"""Events that are forgotten, over every kind of store: what is gone, what stays, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from store_contract import event, exactly, in_threads

import maestro_shm as ms


def fill(store: ms.Store, aggregate_id: str = "a", last: int = 10) -> list[ms.Event]:
    """Events in commits of two, and a snapshot of the last one."""
    stored: list[ms.Event] = []
    for first in range(1, last + 1, 2):
        stored += store.commit_events([event(aggregate_id, first), event(aggregate_id, first + 1)])
    store.commit_snapshot(ms.Snapshot(aggregate_id, last, last))
    return stored


def sequences(store: ms.Store, aggregate_id: str = "a", **bounds: Any) -> list[int]:
    return [one.sequence for one in store.get_events(aggregate_id, **bounds)]


def test_events_below_a_sequence_number_are_forgotten(store: ms.Store) -> None:
    stored = fill(store)
    store.truncate("a", before=6)
    assert exactly(store.get_events("a")) == exactly(stored[5:])
    assert sequences(store, min_sequence=2, max_sequence=7) == [6, 7]
    assert sequences(store, min_sequence=2, max_sequence=5) == []
    assert store.first_sequence("a") == 6
    assert store.last_sequence("a") == 10
    assert store.get_snapshot("a") == ms.Snapshot("a", 10, 10)


def test_the_feed_has_gaps_where_events_were(store: ms.Store) -> None:
    fill(store, "a")
    fill(store, "b", 4)
    store.truncate("a", before=6)
    assert [one.position for one in store.read()] == [*range(6, 15)]
    assert [one.position for one in store.read(2, limit=3)] == [6, 7, 8]
    assert [one.position for one in store.read(aggregate_prefix="b")] == [11, 12, 13, 14]
    assert store.last_position == 14


def test_figures_tell_of_what_is_left(store: ms.Store) -> None:
    fill(store, "a")
    fill(store, "b", 4)
    store.truncate("a", before=6)
    stats = store.stats()
    assert (stats["events"], stats["last_position"], stats["aggregates"]) == (9, 14, 2)


def test_a_stream_may_be_forgotten_as_a_whole_and_goes_on_where_it_was(store: ms.Store) -> None:
    fill(store)
    store.truncate("a", before=1000)
    assert sequences(store) == []
    assert list(store.read()) == []
    assert (store.first_sequence("a"), store.last_sequence("a"), store.last_position) == (11, 10, 10)
    with pytest.raises(ms.SequenceConflictError) as caught:
        store.commit_events([event("a", 10)])
    assert caught.value.last_sequence == 10
    (eleventh,) = store.commit_events([event("a", 11)])
    assert exactly(store.get_events("a")) == exactly(list(store.read())) == exactly([eleventh])
    assert eleventh.position == 11


def test_what_is_forgotten_below_a_lower_number_later_is_nothing(store: ms.Store) -> None:
    fill(store)
    store.truncate("a", before=6)
    mark = store.stats()["events"]
    for before in (0, 1, 5, 6):
        store.truncate("a", before=before)
    assert (store.first_sequence("a"), store.stats()["events"]) == (6, mark)


def test_of_a_stream_that_is_not_there_nothing_is_forgotten(store: ms.Store) -> None:
    store.truncate("a", before=5)
    store.commit_events([event("a", 7)])
    store.truncate("a", before=7)  # without a snapshot, since nothing goes
    assert (store.first_sequence("a"), sequences(store)) == (0, [7])


def test_a_stream_begins_behind_the_newest_event_that_went(store: ms.Store) -> None:
    store.commit_events([event("a", 3), event("a", 20)])
    store.commit_snapshot(ms.Snapshot("a", 3, None))
    store.truncate("a", before=15)
    assert (store.first_sequence("a"), sequences(store)) == (4, [20])


@pytest.mark.parametrize("snapshot", [None, 3])
def test_without_a_snapshot_that_covers_it_nothing_is_forgotten(store: ms.Store, snapshot: int | None) -> None:
    store.commit_events([event("a", number) for number in range(1, 11)])
    if snapshot is not None:
        store.commit_snapshot(ms.Snapshot("a", snapshot, None))
    before = exactly(list(store.read())), store.stats()
    with pytest.raises(ms.TruncationError) as caught:
        store.truncate("a", before=6)
    assert (caught.value.aggregate_id, caught.value.sequence, caught.value.snapshot_sequence) == ("a", 5, snapshot)
    assert (exactly(list(store.read())), store.stats()) == before


@pytest.mark.parametrize("before", [-1, ms.MAX_SEQUENCE + 1, True, 1.0, None, "1"])
def test_what_is_no_sequence_number_is_refused(store: ms.Store, before: Any) -> None:
    with pytest.raises(ms.InvalidEventError, match="before must be a sequence number"):
        store.truncate("a", before=before)


def test_what_is_no_aggregate_id_is_refused(store: ms.Store) -> None:
    with pytest.raises(ms.InvalidEventError):
        store.truncate("", before=1)
    with pytest.raises(ms.InvalidEventError):
        store.first_sequence("")


def test_who_needs_all_the_events_is_told_that_some_are_gone(store: ms.Store) -> None:
    fill(store)
    store.truncate("a", before=6)
    with pytest.raises(ms.TruncatedError) as caught:
        store.get_events("a", 3, complete=True)
    assert (caught.value.aggregate_id, caught.value.sequence, caught.value.first_sequence) == ("a", 3, 6)
    assert len(store.get_events("a", 6, complete=True)) == 5
    assert store.get_events("a", 3, max_sequence=2, complete=True) == []
    assert store.get_events("b", complete=True) == []


def test_a_cut_that_was_taken_before_has_all_or_what_is_left(store: ms.Store) -> None:
    fill(store)
    fill(store, "b", 4)

    def look(tx: ms.Transaction) -> tuple[list[int], int | None]:
        root = tx.root(Counter, "a")
        before = root.store.last_sequence("a")
        store_of_another = store.at(position=store.last_position)
        assert store_of_another.last_sequence("a") == before
        return [one.sequence for one in root.store.get_events("a")], before

    assert store.transact(look) == ([*range(1, 11)], 10)
    store.truncate("a", before=6)
    assert store.transact(look) == ([*range(6, 11)], 10)


def test_the_past_has_nothing_of_what_is_forgotten(store: ms.Store) -> None:
    fill(store)
    fill(store, "b", 4)
    store.truncate("a", before=6)
    for position in range(15):
        past = store.at(position=position)
        assert [one.position for one in past.read()] == [*range(6, position + position % 2 + 1)]
        assert len(past.get_events("a")) == len([one for one in past.read() if one.aggregate_id == "a"])
        assert past.first_sequence("a") == 6
    for first, second in pairwise(store.read()):
        assert first.timestamp is not None
        assert second.timestamp is not None
        assert store.at(time=second.timestamp).last_position >= (first.position or 0)


def test_a_compaction_changes_nothing_that_is_read(store: ms.Store) -> None:
    fill(store, "a")
    fill(store, "b", 4)
    store.transact(lambda tx: tx.table("t").update({"k": 1}))
    store.truncate("a", before=6)
    store.truncate("b", before=100)

    def look() -> Any:
        figures = {name: value for name, value in store.stats().items() if name in ("events", "aggregates")}
        return (
            exactly(list(store.read())),
            [store.last_sequence(name) for name in "abc"],
            dict(store.table("t")),
            figures,
        )

    before = look()
    store.compact()
    assert look() == before
    store.commit_events([event("a", 11), event("b", 5)])
    assert [sequences(store, name) for name in "ab"] == [[*range(6, 12)], [5]]
    asyncio.run(ms.AsyncStore(store).compact())
    assert store.last_position == 16


def test_what_cannot_be_compacted_says_so(store: ms.Store) -> None:
    fill(store)
    with pytest.raises(ms.ReadOnlyError):
        store.at(position=1).compact()

    @store.transact()
    def past_it(_tx: ms.Transaction) -> None:
        store.compact()

    @store.transact()
    def by_it(tx: ms.Transaction) -> None:
        tx.root(Counter, "a").store.compact()

    for function in (past_it, by_it):
        with pytest.raises(ms.TransactionError):
            function()


def test_the_past_cannot_be_truncated(store: ms.Store) -> None:
    fill(store)
    with pytest.raises(ms.ReadOnlyError):
        store.at(position=1).truncate("a", before=2)


def test_a_transaction_cannot_truncate(store: ms.Store) -> None:
    fill(store)

    @store.transact()
    def past_it(_tx: ms.Transaction) -> None:
        store.truncate("a", before=2)

    @store.transact()
    def by_it(tx: ms.Transaction) -> None:
        tx.root(Counter, "a").store.truncate("a", before=2)

    for function in (past_it, by_it):
        with pytest.raises(ms.TransactionError):
            function()
    assert store.first_sequence("a") == 0


def test_a_subscription_goes_past_what_is_forgotten(store: ms.Store) -> None:
    fill(store)
    fill(store, "b", 4)
    store.truncate("a", before=6)
    store.truncate("b", before=100)
    with store.subscribe() as subscription:
        found = [subscription.get(timeout=0.2) for _ in range(6)]
        assert [one and one.position for one in found] == [6, 7, 8, 9, 10, None]
        store.commit_events([event("c", 1)])
        last = subscription.get(timeout=10)
        assert last is not None
        assert last.position == 15


def test_a_subscription_with_consumers_goes_past_what_is_forgotten(store: ms.Store) -> None:
    fill(store)
    fill(store, "b", 4)
    store.truncate("a", before=6)
    store.truncate("b", before=100)
    found: list[int | None] = []
    with store.subscription("reader", partitions=2) as consumer:
        while (one := consumer.get(timeout=0.3)) is not None:
            found.append(one.position)
            consumer.ack(one)
    assert sorted(position or 0 for position in found) == [6, 7, 8, 9, 10]


def test_an_event_that_was_given_up_and_is_forgotten_is_not_tried_again(store: ms.Store) -> None:
    fill(store, last=4)
    with store.subscription("reader", partitions=1, most_attempts=1) as consumer:
        for _ in range(4):
            consumer.fail(next(consumer), "no")
    store.truncate("a", before=3)
    tried: list[int | None] = []
    assert [parked.position for parked in store.subscription("reader").parked()] == [1, 2, 3, 4]
    assert store.subscription("reader").replay(lambda one: tried.append(one.position)) == 4
    assert tried == [3, 4]
    assert store.subscription("reader").parked() == []


def test_a_projection_goes_past_what_is_forgotten(store: ms.Store) -> None:
    class Count:
        def project(self, one: ms.Event, tables: ms.Tables) -> None:
            tables["counts"][one.aggregate_id] = tables["counts"].get(one.aggregate_id, 0) + 1

    fill(store)
    fill(store, "b", 4)
    store.truncate("a", before=6)
    store.truncate("b", before=100)
    projector = store.projector("count", Count())
    assert projector.catch_up() == 14
    assert dict(projector.table("counts")) == {"a": 5}
    assert projector.rebuild() == 14


def test_a_wait_for_a_position_that_is_forgotten_is_over(store: ms.Store) -> None:
    fill(store)
    store.truncate("a", before=100)
    assert store.wait(10, timeout=0)
    assert store.wait(3, timeout=0)


def test_a_reset_forgets_that_something_was_forgotten(store: ms.Store) -> None:
    fill(store)
    store.truncate("a", before=6)
    store.reset()
    assert store.first_sequence("a") == 0
    fill(store)
    assert sequences(store) == [*range(1, 11)]
    assert store.stats()["events"] == 10


def test_an_event_loop_truncates(store: ms.Store) -> None:
    fill(store)
    asyncio.run(ms.AsyncStore(store).truncate("a", before=6))
    assert store.first_sequence("a") == 6


def test_a_closed_store_truncates_nothing(make_store: Callable[..., ms.Store]) -> None:
    store = make_store()
    store.close()
    with pytest.raises(ms.StoreClosedError):
        store.truncate("a", before=1)
    with pytest.raises(ms.StoreClosedError):
        store.first_sequence("a")


class Counter(ms.Aggregate):
    """Counts, and can be recreated from its snapshot only where its events are gone."""

    initial_state = 0

    @ms.on_command("count")
    def count(self, _command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("counted")]

    @ms.on_event("counted")
    def counted(state: Any, _event: ms.Event) -> Any:  # noqa: N805 (handlers of events take no self)
        return state + 1


class Recounter(Counter):
    """The same with snapshots of another kind."""

    state_version = 2


def count(store: ms.Store, times: int, aggregate_id: str = "a") -> Counter:
    root = Counter(store, aggregate_id)
    for _ in range(times):
        root.evaluate(ms.Command("count"))
    return root


def test_a_root_begins_with_its_snapshot_where_events_are_forgotten(store: ms.Store) -> None:
    root = count(store, 5)
    root.snapshot()
    count(store, 2)
    store.truncate("a", before=6)
    for one in (root, Counter(store, "a")):
        assert one.fetch() == 7
        one.evaluate(ms.Command("count"))
        assert store.last_sequence("a") == one.sequence
        store.truncate("a", before=6)
        break
    assert Counter(store, "a").fetch() == 8


def test_a_root_that_missed_what_is_forgotten_goes_on_from_the_snapshot(store: ms.Store) -> None:
    root = count(store, 3)
    other = count(store, 5)
    other.snapshot()
    store.truncate("a", before=100)
    assert root.get() == 3
    assert root.fetch() == 8
    root.evaluate(ms.Command("count"))
    assert (root.state, root.sequence) == (9, 9)


def test_a_root_whose_snapshot_is_of_another_kind_cannot_be_recreated(store: ms.Store) -> None:
    count(store, 5).snapshot()
    store.truncate("a", before=3)
    with pytest.raises(ms.TruncatedError) as caught:
        Recounter(store, "a").fetch()
    assert (caught.value.aggregate_id, caught.value.sequence, caught.value.first_sequence) == ("a", 0, 3)
    with pytest.raises(ms.TruncatedError):
        Recounter(store, "a").evaluate(ms.Command("count"))
    assert store.last_sequence("a") == 5


def test_a_past_state_is_as_of_the_snapshot_at_least(store: ms.Store) -> None:
    root = count(store, 5)
    root.snapshot()
    count(store, 3)
    store.truncate("a", before=6)
    assert [root.replay(sequence) for sequence in (5, 6, 7, 8, 9)] == [5, 6, 7, 8, 8]
    for sequence in (0, 1, 4):
        with pytest.raises(ms.TruncatedError):
            root.replay(sequence)
    assert [root.replay(position=position) for position in (6, 7, 8)] == [6, 7, 8]
    with pytest.raises(ms.TruncatedError):
        root.replay(position=4)


def test_a_past_position_is_replayed_by_a_snapshot_that_was_taken_later(store: ms.Store) -> None:
    root = Counter(store, "counter")
    told = [root.evaluate(ms.Command("count"))[0] for _ in range(10)]
    root.snapshot()
    store.truncate("counter", before=11)
    assert root.replay(told[-1].sequence) == 10
    assert root.replay(position=told[-1].position) == 10
    assert root.replay(time=told[-1].timestamp) == 10
    store.commit_events([event("another", 1)])
    root.evaluate(ms.Command("count"))
    assert root.replay(position=told[-1].position) == 10
    with pytest.raises(ms.TruncatedError):
        root.replay(position=told[-2].position)


def test_a_transaction_recreates_roots_of_truncated_streams(store: ms.Store) -> None:
    count(store, 5).snapshot()
    count(store, 5, "b").snapshot()
    store.truncate("a", before=100)
    store.truncate("b", before=3)

    def move(tx: ms.Transaction) -> list[int]:
        roots = [tx.root(Counter, name) for name in "ab"]
        for root in roots:
            root.evaluate(ms.Command("count"))
        return [root.state for root in roots]

    assert store.transact(move) == [6, 6]
    with pytest.raises(ms.TruncatedError):
        store.transact(lambda tx: tx.root(Recounter, "a").state)


def test_a_transaction_during_which_something_is_forgotten_sees_one_state(store: ms.Store) -> None:
    root = count(store, 5)
    runs: list[int] = []

    def outrun() -> None:
        count(store, 5).snapshot()
        store.truncate("a", before=8)

    def look(tx: ms.Transaction) -> int:
        runs.append(len(runs))
        if len(runs) == 1:
            in_threads(outrun)
        return int(tx.root(Counter, "a").state)

    assert store.transact(look) in (5, 10)  # the state before, or a second run
    assert root.fetch() == 10
