"""Durable subscriptions: every event is delivered, in order within its aggregate, to one consumer at a time."""

from __future__ import annotations

import pickle
import threading
from collections import defaultdict
from typing import Any

import pytest
from ledger import Account, put
from store_contract import in_threads

import maestro_shm as ms
from maestro_shm import durable_subscription as durable
from maestro_shm import partition_reader, progress
from maestro_shm.backend import Backend
from maestro_shm.partition import Partition, partition_of
from maestro_shm.progress import Progress

SOON = 30.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_LOOK", 0.02)
    monkeypatch.setattr(durable, "_FIRST_PAUSE", 0.005)


def fill(store: ms.Store, count: int, keys: str = "abcdefgh") -> None:
    for sequence in range(1, count + 1):
        store.commit_events([ms.Event(key, sequence, "made", sequence) for key in keys])


def take_all(consumer: ms.Consumer, timeout: float = 0.0) -> list[ms.Event]:
    """Acknowledge whatever there is, and comes within the time."""
    found = []
    while (event := consumer.get(timeout)) is not None:
        consumer.ack(event)
        found.append(event)
    return found


def in_order(events: list[ms.Event]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for event in events:
        found[event.aggregate_id].append(event.sequence)
    return dict(found)


def test_one_consumer_gets_every_event_once_and_in_order(store: ms.Store) -> None:
    fill(store, 20)
    with store.subscription("billing", 4) as billing:
        found = take_all(billing)
        assert in_order(found) == {key: list(range(1, 21)) for key in "abcdefgh"}
        assert take_all(billing, 0) == []
        store.commit_events([ms.Event("a", 21, "made", None)])
        assert [event.sequence for event in take_all(billing)] == [21]


def test_what_was_acknowledged_is_not_delivered_again_and_the_rest_is(store: ms.Store) -> None:
    fill(store, 10, "ab")
    done: list[int | None] = []
    with store.subscription("billing", 2) as first:
        for event in first:
            if len(done) == 7:
                break  # this one is at work, and not acknowledged
            first.ack(event)
            done.append(event.position)
    with store.subscription("billing") as second:
        done += [event.position for event in take_all(second)]
    assert sorted(position or 0 for position in done) == list(range(1, 21))


def test_consumers_share_the_events_and_each_aggregates_stay_in_order(store: ms.Store) -> None:
    keys = "abcdefghijklmnop"
    everything: list[tuple[int, ms.Event]] = []
    done = threading.Event()

    def consume(number: int) -> None:
        with store.subscription("billing", 8) as billing:
            while not done.is_set():
                if (event := billing.get(0.05)) is not None:
                    everything.append((number, event))
                    billing.ack(event)
                    if len(everything) >= 40 * len(keys):
                        done.set()

    in_threads(lambda: fill(store, 40, keys), *(lambda number=number: consume(number) for number in range(3)))
    assert in_order([event for _, event in everything]) == {key: list(range(1, 41)) for key in keys}
    assert len({number for number, _ in everything}) > 1


def test_partitions_are_shared_out_evenly_as_consumers_come_and_go(store: ms.Store) -> None:
    consumers = [store.subscription("billing", 8) for _ in range(3)]

    def counts(*those: ms.Consumer) -> list[int]:
        for _ in range(6):  # some rounds, until all have given back and taken
            for consumer in those:
                assert consumer.get(0.03) is None
        return [len(consumer._reader.partitions) for consumer in those]  # type: ignore[attr-defined]

    assert counts(consumers[0]) == [8]
    assert counts(*consumers[:2]) == [4, 4]
    assert counts(*consumers) == [3, 3, 2]
    consumers[0].close()
    assert counts(*consumers[1:]) == [4, 4]
    consumers[1].close()
    assert counts(consumers[2]) == [8]
    consumers[2].close()


def test_a_partition_goes_over_only_between_two_events(store: ms.Store) -> None:
    fill(store, 5, "a")
    with store.subscription("billing", 1) as first, store.subscription("billing") as second:
        at_work = next(first)
        assert second.get(0.2) is None
        first.ack(at_work)
        first.close()
        event = second.get(SOON)
        assert event is not None
        assert event.sequence == 2


def test_a_consumer_asks_for_the_next_event_when_the_last_is_dealt_with(store: ms.Store) -> None:
    fill(store, 2, "a")
    with store.subscription("billing", 1) as billing:
        event = next(billing)
        with pytest.raises(ms.SubscriptionError, match="position 1 is neither acknowledged nor failed"):
            next(billing)
        billing.ack(event)
        assert next(billing).position == 2


def test_only_the_event_at_work_can_be_dealt_with(store: ms.Store) -> None:
    fill(store, 3, "a")
    stored = list(store.read())
    with store.subscription("billing", 1) as billing:
        for act in (billing.ack, billing.fail, lambda event: billing.apply(event, lambda *_: None)):
            with pytest.raises(ms.SubscriptionError, match="not at work here"):
                act(stored[0])
        event = next(billing)
        for wrong in (stored[1], None, ms.Event("a", 1, "made", 1)):
            with pytest.raises(ms.SubscriptionError, match="not at work here"):
                billing.ack(wrong)  # type: ignore[arg-type]
        billing.ack(event)
        with pytest.raises(ms.SubscriptionError, match="dealt with already"):
            billing.ack(event)


def test_an_event_that_fails_is_tried_again_before_later_ones_and_then_parked(store: ms.Store) -> None:
    fill(store, 3, "a")
    tried = []
    with store.subscription("billing", 1, most_attempts=3) as billing:
        for event in billing:
            tried.append(event.sequence)
            if event.sequence == 2:
                billing.fail(event, f"attempt {len(tried)}")
            else:
                billing.ack(event)
            if event.sequence == 3:
                break
        assert tried == [1, 2, 2, 2, 3]
        assert billing.parked() == [ms.Parked(2, "attempt 4", 3)]


def test_while_one_partition_waits_for_a_retry_the_others_go_on(
    store: ms.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_FIRST_PAUSE", 0.5)
    other = next(key for key in "bcdefghijklmnop" if partition_of(key, 2) != partition_of("a", 2))
    fill(store, 3, "a" + other)
    tried: list[str] = []
    with store.subscription("billing", 2) as billing:
        for event in billing:
            tried.append(f"{event.aggregate_id}{event.sequence}")
            if tried == ["a1"]:
                billing.fail(event, ValueError("not yet"))
            else:
                billing.ack(event)
            if len(tried) == 7:
                break
    assert tried == ["a1", f"{other}1", f"{other}2", f"{other}3", "a1", "a2", "a3"]


def test_attempts_are_counted_over_consumers(store: ms.Store) -> None:
    fill(store, 2, "a")
    for attempt in range(1, 4):
        with store.subscription("billing", 1, most_attempts=3) as billing:
            event = next(billing)
            assert event.sequence == 1
            billing.fail(event, f"attempt {attempt}")
    with store.subscription("billing") as billing:
        assert next(billing).sequence == 2
        assert billing.parked() == [ms.Parked(1, "attempt 3", 3)]


def test_the_parked_can_be_replayed_and_those_that_fail_stay(store: ms.Store) -> None:
    fill(store, 3, "a")
    with store.subscription("billing", 1, most_attempts=1) as billing:
        for event in billing:
            billing.fail(event, "no")
            if event.sequence == 3:
                break
        assert [parked.position for parked in billing.parked()] == [1, 2, 3]
        handled = []

        def handle(event: ms.Event) -> None:
            handled.append(event.sequence)
            if len(handled) == 2:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            billing.replay(handle)
        assert [parked.position for parked in billing.parked()] == [2, 3]
        assert billing.replay(handle) == 2
        assert handled == [1, 2, 2, 3]
        assert billing.parked() == []
        assert billing.replay(handle) == 0


def test_the_parked_are_replayed_by_one_at_a_time(store: ms.Store) -> None:
    fill(store, 1, "a")
    with store.subscription("billing", 1, most_attempts=1) as billing:
        billing.fail(next(billing))
        with pytest.raises(ms.SubscriptionError, match="replays"):
            billing.replay(lambda _: store.subscription("billing").replay(print))
        assert billing.replay(lambda _: None) == 1


def test_a_handler_is_run_for_each_event_until_it_is_stopped(store: ms.Store) -> None:
    fill(store, 4, "a")
    tried: list[int] = []
    with store.subscription("billing", 1, most_attempts=2) as billing:

        def handle(event: ms.Event) -> None:
            tried.append(event.sequence)
            if event.sequence == 2:
                raise ZeroDivisionError("never 2")
            if event.sequence == 4:
                billing.stop()

        billing.run(handle)
        assert tried == [1, 2, 2, 3, 4]
        (parked,) = billing.parked()
        assert (parked.position, parked.attempts) == (2, 2)
        assert "never 2" in parked.reason
    assert take_all(store.subscription("billing"), 0.05) == []


def test_what_is_applied_is_committed_with_the_acknowledgement_or_not_at_all(store: ms.Store) -> None:
    fill(store, 3, "a")

    def count(tx: ms.Transaction, event: ms.Event) -> None:
        tx.table("sums")["a"] = tx.table("sums").get("a", 0) + event.body
        if event.sequence == 2 and not failed:
            failed.append(event)
            raise ZeroDivisionError

    failed: list[ms.Event] = []
    with store.subscription("sums", 1) as sums:
        for event in sums:
            try:
                sums.apply(event, count)
            except ZeroDivisionError:
                assert store.table("sums")["a"] == 1
                sums.apply(event, count)
            if event.sequence == 3:
                break
    assert dict(store.table("sums")) == {"a": 6}
    assert take_all(store.subscription("sums"), 0.05) == []


def test_a_subscription_has_events_of_its_types_and_prefix_behind_its_position(store: ms.Store) -> None:
    for sequence in range(1, 5):
        store.commit_events(
            [
                ms.Event("order-1", sequence, "placed", None),
                ms.Event("order-2", sequence, "paid", None),
                ms.Event("other", sequence, "paid", None),
            ]
        )
    with store.subscription("billing", 3, after=4, types=["paid"], aggregate_prefix="order-") as billing:
        assert [event.position for event in take_all(billing)] == [5, 8, 11]


def test_stop_wakes_a_consumer_that_waits(store: ms.Store) -> None:
    with store.subscription("billing", 2) as billing:
        timer = threading.Timer(0.1, billing.stop)
        timer.start()
        assert list(billing) == []
        timer.join()
        fill(store, 1)
        assert billing.get(0.05) is None


def test_a_subscription_must_be_made_before_it_is_used(store: ms.Store) -> None:
    with pytest.raises(ms.SubscriptionError, match="no such subscription") as caught:
        store.subscription("billing")
    assert caught.value.name == "billing"
    store.subscription("billing", 2)
    store.subscription("billing")


def test_what_a_subscription_was_made_with_is_fixed(store: ms.Store) -> None:
    store.subscription("billing", 2, types=["b", "a"])
    store.subscription("billing", 2, types={"a", "b"})
    for wrong, told in (
        ({"partitions": 3}, "partitions=2, not partitions=3"),
        ({"partitions": 2, "types": ["a"]}, "types=('a', 'b'), not types=('a',)"),
        ({"partitions": 1, "after": 1}, "partitions=2, after=0, not partitions=1, after=1"),
    ):
        with pytest.raises(ms.SubscriptionError) as caught:
            store.subscription("billing", **{"types": ["a", "b"]} | wrong)
        assert caught.value.reason == f"it was made with {told}; leave that out, or delete it"


def test_subscriptions_of_different_names_know_nothing_of_each_other(store: ms.Store) -> None:
    fill(store, 2, "a")
    with store.subscription("one", 1) as one, store.subscription("two", 3) as two:
        assert [event.sequence for event in take_all(one)] == [1, 2]
        assert [event.sequence for event in take_all(two)] == [1, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"partitions": 0},
        {"partitions": 1025},
        {"partitions": "8"},
        {"partitions": True},
        {"most_attempts": 0},
        {"most_attempts": None},
        {"after": -1},
        {"types": "made"},
        {"name": ""},
        {"name": None},
        {"name": "x" * 300},
        {"name": "a\0b"},
        {"name": "\udc80"},
    ],
)
def test_a_wrong_argument_is_refused(store: ms.Store, wrong: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"name": "billing", "partitions": 1} | wrong
    with pytest.raises((ValueError, ms.InvalidEventError, ms.SubscriptionError)):
        store.subscription(**arguments)


def test_a_deleted_subscription_begins_anew(store: ms.Store) -> None:
    fill(store, 2, "a")
    with store.subscription("billing", 1) as billing, store.subscription("billing") as other:
        assert len(take_all(billing)) == 2
        with pytest.raises(ms.SubscriptionError, match="consumers"):
            other.delete()
    other.delete()
    with pytest.raises(ms.SubscriptionError, match="no such"):
        store.subscription("billing")
    assert len(take_all(store.subscription("billing", 3))) == 2


def test_a_reset_ends_a_subscription_and_nothing_of_it_comes_into_the_new_one(store: ms.Store) -> None:
    fill(store, 2, "a")
    with store.subscription("billing", 1) as billing, store.subscription("billing") as idle:
        assert len(take_all(billing)) == 2
        assert idle.get(0.05) is None
        store.reset()
        for consumer in (billing, idle):
            with pytest.raises(ms.StoreUnavailableError, match="reset"):
                consumer.get(SOON)
        fill(store, 2, "a")
        store.subscription("billing", 1)
    assert [event.sequence for event in take_all(store.subscription("billing"))] == [1, 2]


def test_an_event_of_before_a_reset_cannot_be_acknowledged_after_it(store: ms.Store) -> None:
    fill(store, 3, "a")
    with store.subscription("billing", 1) as billing:
        event = next(billing)
        store.reset()
        fill(store, 3, "a")
        store.subscription("billing", 1)
        with pytest.raises(ms.SubscriptionError, match="deleted since"):
            billing.ack(event)
        with pytest.raises(ms.SubscriptionError, match="deleted since"):
            billing.apply(event, lambda *_: None)
        with pytest.raises(ms.SubscriptionError, match="deleted since"):
            billing.fail(event)
    assert len(take_all(store.subscription("billing"))) == 3


def test_a_consumer_of_a_deleted_subscription_is_none_of_one_that_is_made_anew(store: ms.Store) -> None:
    fill(store, 3, "a")
    early = store.subscription("billing", 8)
    store.subscription("billing").delete()
    late = store.subscription("billing", 2)
    with pytest.raises(ms.SubscriptionError, match="deleted since"):
        early.get(0.05)
    early.close()
    assert len(take_all(late)) == 3
    late.close()


def test_an_interrupted_read_of_the_feed_skips_nothing(store: ms.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 5, "ab")
    found: list[ms.Event] = []
    add = Partition.add
    calls = 0

    def interrupted(partition: Partition, event: ms.Event) -> None:
        nonlocal calls
        calls += 1
        add(partition, event)
        if calls in (3, 7, 12):
            raise KeyboardInterrupt

    monkeypatch.setattr(Partition, "add", interrupted)
    with store.subscription("billing", 2) as billing:
        while len(found) < 10:
            try:
                event = billing.get(0.2)
            except KeyboardInterrupt:
                continue
            assert event is not None
            billing.ack(event)
            found.append(event)
    assert calls >= 12
    assert in_order(found) == {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 4, 5]}


def lose_the_reply(store: ms.Store, patch: pytest.MonkeyPatch) -> None:
    """Commits are stored from now on, and nobody is told."""
    assert isinstance(store, Backend)
    commit = store._commit

    def commit_unseen(proposal: Any) -> None:
        commit(proposal)
        raise ms.StoreUnavailableError(store.target, "no reply")

    patch.setattr(store, "_commit", commit_unseen)


def test_what_is_done_again_since_nobody_told_that_it_was_is_done_once(
    store: ms.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 2, "a")

    def count(tx: ms.Transaction, _event: ms.Event) -> None:
        tx.table("counts")["a"] = tx.table("counts").get("a", 0) + 1

    with store.subscription("billing", 1) as billing:
        event = next(billing)
        with monkeypatch.context() as patch:
            lose_the_reply(store, patch)
            with pytest.raises(ms.StoreUnavailableError):
                billing.apply(event, count)
        billing.apply(event, count)
        assert dict(store.table("counts")) == {"a": 1}
        event = next(billing)
        assert event.sequence == 2
        with monkeypatch.context() as patch:
            lose_the_reply(store, patch)
            with pytest.raises(ms.StoreUnavailableError):
                billing.ack(event)
        billing.ack(event)
    assert take_all(store.subscription("billing"), 0.05) == []


@pytest.mark.parametrize("step", ["take", "move"])
def test_an_interruption_while_partitions_change_hands_loses_none(
    store: ms.Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    fill(store, 4)
    first, second = store.subscription("billing", 4), store.subscription("billing")
    if step == "move":
        assert first.get(0) is not None  # it has all partitions, and is to give some back
        first.ack(next(iter(store.read())))
        second.get(0)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, step, interrupted)
        first._next_look = 0.0  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            first.get(0)
    found = []
    for _ in range(40):
        for consumer in (first, second):
            if (event := consumer.get(0.02)) is not None:
                consumer.ack(event)
                found.append(event)
    assert len(found) == 32 - (step == "move")
    for consumer in (first, second):
        assert len(consumer._reader.partitions) == 2  # type: ignore[attr-defined]
        consumer.close()


def test_a_consumer_that_failed_once_still_counts_as_being_there(store: ms.Store) -> None:
    fill(store, 1, "a")
    with store.subscription("billing", 1) as billing:
        billing.fail(next(billing), "no")
        assert store.table("maestro_shm/subscription/billing")["partition:0000"] == (0, 1, True)
    assert store.table("maestro_shm/subscription/billing")["partition:0000"] == (0, 1, False)


def test_a_reason_that_is_no_text_is_kept_as_far_as_it_is_one(store: ms.Store) -> None:
    fill(store, 1, "a")
    with store.subscription("billing", 1, most_attempts=1) as billing:
        billing.fail(next(billing), "file \udcff")
        assert billing.parked() == [ms.Parked(1, "file \\udcff", 1)]


def test_a_partition_that_is_held_up_does_not_stop_the_others_however_much_waits(
    store: ms.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_reader, "_MOST_WAITING", 6)
    monkeypatch.setattr(durable, "_FIRST_PAUSE", 2.0)
    other = next(key for key in "bcdefghijklmnop" if partition_of(key, 2) != partition_of("a", 2))
    fill(store, 20, "a" + other)
    tried: list[str] = []
    with store.subscription("billing", 2) as billing:
        for event in billing:
            tried.append(f"{event.aggregate_id}{event.sequence}")
            if tried == ["a1"]:
                billing.fail(event, "not yet")
            else:
                billing.ack(event)
            if len(tried) == 41:
                break
    assert tried[:21] == ["a1", *(f"{other}{number}" for number in range(1, 21))]
    assert tried[21:] == [f"a{number}" for number in range(1, 21)]


def test_a_partition_without_events_has_its_checkpoint_moved(store: ms.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_FAR_BEHIND", 10)
    fill(store, 30, "a")
    other = 1 - partition_of("a", 2)
    with store.subscription("billing", 2) as billing:
        assert len(take_all(billing, 0.1)) == 30
        assert store.table("maestro_shm/subscription/billing")[f"partition:{other:04d}"][0] == 30


def test_a_subscription_with_many_parked_events_is_deleted_in_parts(
    store: ms.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_DELETED_AT_ONCE", 7)
    fill(store, 30, "a")
    with store.subscription("billing", 1, most_attempts=1) as billing:
        for event in billing:
            billing.fail(event)
            if event.sequence == 30:
                break
    billing.delete()
    assert dict(store.table("maestro_shm/subscription/billing")) == {}


def test_a_handler_that_was_interrupted_gets_its_event_again(store: ms.Store) -> None:
    fill(store, 2, "a")
    tried: list[int] = []

    def handle(event: ms.Event) -> None:
        tried.append(event.sequence)
        if len(tried) == 1:
            raise KeyboardInterrupt
        if event.sequence == 2:
            billing.stop()

    with store.subscription("billing", 1) as billing:
        with pytest.raises(KeyboardInterrupt):
            billing.run(handle)
        billing.run(handle)
    assert tried == [1, 1, 2]


def test_a_consumer_pickles_as_another_of_its_subscription(store: ms.Store, store_kind: str) -> None:
    fill(store, 2, "a")
    billing = store.subscription("billing", 1)
    if store_kind == "memory":
        with pytest.raises(TypeError):
            pickle.dumps(billing)
    else:
        assert len(take_all(pickle.loads(pickle.dumps(billing)))) == 2


def test_a_long_feed_is_consumed_whole_by_a_consumer_that_gains_partitions_late(store: ms.Store) -> None:
    keys = "abcdefgh"
    for start in range(1, 200, 40):
        store.commit_events([ms.Event(key, n, "made", None) for n in range(start, start + 40) for key in keys])
    found = []
    with store.subscription("billing", 4) as first:
        with store.subscription("billing") as second:
            for _ in range(100):
                for consumer in (first, second):
                    if (event := consumer.get(0.05)) is not None:
                        consumer.ack(event)
                        found.append(event)
        while len(found) < 200 * len(keys) and (event := first.get(10)) is not None:
            first.ack(event)
            found.append(event)
    assert in_order(found) == {key: list(range(1, 201)) for key in keys}


def test_a_transaction_and_the_past_have_no_subscriptions(store: ms.Store) -> None:
    def subscribe(tx: ms.Transaction, whose: str) -> None:
        own = tx.root(Account, "a").store if whose == "own" else store
        own.subscription("billing", 1)

    for whose in ("own", "store"):
        with pytest.raises(ms.TransactionError):
            store.transact(subscribe, whose)
    with pytest.raises(ms.ReadOnlyError):
        store.at(position=0).subscription("billing", 1)


def test_a_consumer_cannot_acknowledge_within_a_transaction(store: ms.Store) -> None:
    fill(store, 1, "a")
    with store.subscription("billing", 1) as billing:
        event = next(billing)

        def acknowledge(tx: ms.Transaction) -> None:
            put(tx, "table", a=1)
            billing.ack(event)

        with pytest.raises(ms.TransactionError):
            store.transact(acknowledge)
        billing.ack(event)
