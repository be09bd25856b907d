"""The feed: every event once, in the order of the commits, whatever is committed meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger import put
from store_contract import exactly, in_threads

import maestro_shm as ms


def fill(store: ms.Store) -> list[ms.Event]:
    """Some commits of several events and streams, of types that are prefixes of each other."""
    stored = []
    for number in range(1, 5):
        stored += store.commit_events(
            [
                ms.Event("order-1", number, "placed", {"n": number}),
                ms.Event("order-10", number, "place", None, metadata={"by": "somebody"}),
                ms.Event("invoice-1", number, "sent", [number]),
            ]
        )
    return stored


def test_the_feed_has_every_event_in_the_order_of_the_commits(store: ms.Store) -> None:
    stored = fill(store)
    assert exactly(list(store.read())) == exactly(stored)
    assert [event.position for event in stored] == list(range(1, 13))
    assert store.last_position == 12


def test_an_empty_store_has_an_empty_feed(store: ms.Store) -> None:
    assert list(store.read()) == []
    assert store.last_position == 0


@pytest.mark.parametrize("after", [0, 1, 5, 11, 12, 13, 2**70])
def test_the_feed_begins_behind_a_position(store: ms.Store, after: int) -> None:
    stored = fill(store)
    assert exactly(list(store.read(after))) == exactly(stored[after:])


@pytest.mark.parametrize("limit", [0, 1, 7, 12, 13])
def test_the_feed_ends_at_its_limit(store: ms.Store, limit: int) -> None:
    stored = fill(store)
    assert exactly(list(store.read(2, limit=limit))) == exactly(stored[2 : 2 + limit])


@pytest.mark.parametrize("types", [["place"], {"placed"}, ("place", "sent"), ["pla"], [], frozenset({"nothing"})])
def test_only_whole_types_are_wanted(store: ms.Store, types: Any) -> None:
    stored = fill(store)
    assert exactly(list(store.read(types=types))) == exactly([event for event in stored if event.type in types])


@pytest.mark.parametrize("prefix", ["order-1", "order-10", "order-100", "inv", "", "order-1\x00"])
def test_only_aggregates_with_the_prefix_are_wanted(store: ms.Store, prefix: str) -> None:
    stored = fill(store)
    expected = [event for event in stored if event.aggregate_id.startswith(prefix)]
    assert exactly(list(store.read(aggregate_prefix=prefix))) == exactly(expected)


def test_the_limit_counts_what_is_wanted(store: ms.Store) -> None:
    stored = fill(store)
    found = list(store.read(1, limit=2, types=["sent"], aggregate_prefix="inv"))
    assert exactly(found) == exactly([event for event in stored if event.type == "sent"][:2])


def test_the_feed_ends_where_the_store_did_when_it_was_asked(store: ms.Store) -> None:
    stored = fill(store)
    feed = store.read()
    store.commit_events([ms.Event("late", 1, "placed", None)])
    assert exactly(list(feed)) == exactly(stored)
    assert [event.aggregate_id for event in store.read(12)] == ["late"]


def test_snapshots_and_tables_have_no_place_in_the_feed(store: ms.Store) -> None:
    stored = fill(store)
    store.commit_snapshot(ms.Snapshot("order-1", 4, None))
    store.transact(put, "table", key=1)
    more = store.commit_events([ms.Event("order-1", 5, "placed", None)])
    assert exactly(list(store.read())) == exactly(stored + more)
    assert store.last_position == 13


def test_what_was_reset_is_not_in_the_feed(store: ms.Store) -> None:
    fill(store)
    store.reset()
    assert store.last_position == 0
    assert list(store.read()) == []
    stored = store.commit_events([ms.Event("new", 1, "placed", None)])
    assert exactly(list(store.read())) == exactly(stored)


def test_a_feed_of_large_events_is_whole(make_store: Any) -> None:
    store = make_store()
    for sequence in range(1, 9):
        store.commit_events([ms.Event("a", sequence, "made", bytes([sequence]) * 300_000)])
    assert [event.body[0] for event in store.read()] == list(range(1, 9))
    assert [event.body[0] for event in store.read(2, limit=3)] == [3, 4, 5]


def test_a_feed_that_was_begun_before_a_reset_has_nothing_of_what_came_after(store: ms.Store) -> None:
    fill(store)
    feed = store.read()
    past = store.at(position=6)
    store.reset()
    store.commit_events([ms.Event("new", 1, "placed", None)])
    reads: list[Callable[[], list[ms.Event]]]
    reads = [lambda: list(feed), lambda: list(past.read()), lambda: past.get_events("new")]
    for read in reads:
        try:
            found = read()
        except ms.StoreUnavailableError:
            found = []
        assert "new" not in {event.aggregate_id for event in found}


def test_a_long_feed_is_whole(store: ms.Store) -> None:
    stored = []
    for start in range(1, 3001, 300):
        stored += store.commit_events([ms.Event("a", number, "made", number) for number in range(start, start + 300)])
    assert exactly(list(store.read())) == exactly(stored)
    assert exactly(list(store.read(limit=1500))) == exactly(stored[:1500])
    assert exactly(list(store.read(700, aggregate_prefix="a", types=["made"], limit=900))) == exactly(stored[700:1600])


@pytest.mark.parametrize(
    "wrong",
    [
        {"after": -1},
        {"after": None},
        {"after": True},
        {"after": 1.0},
        {"limit": -1},
        {"limit": "1"},
        {"limit": False},
        {"types": "placed"},
        {"types": b"placed"},
        {"types": 5},
        {"types": ["placed", None]},
        {"types": ["\ud800"]},
        {"aggregate_prefix": b"order"},
    ],
)
def test_a_wrong_argument_is_refused_at_once(store: ms.Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(ms.InvalidEventError, match=next(iter(wrong)).rstrip("s")):
        store.read(**wrong)


def test_a_closed_store_has_no_feed(make_store: Any) -> None:
    store = make_store()
    fill(store)
    feed = store.read()
    store.close()
    with pytest.raises(ms.StoreClosedError):
        store.read()
    with pytest.raises(ms.StoreClosedError):
        _ = store.last_position
    with pytest.raises(ms.StoreClosedError):
        list(feed)


def test_a_transaction_has_no_feed_of_its_own(store: ms.Store) -> None:
    def look(tx: ms.Transaction, what: str) -> None:
        own = tx.root(ms.Aggregate, "a").store
        _ = list(own.read()) if what == "read" else own.last_position

    for what in ("read", "last_position"):
        with pytest.raises(ms.TransactionError, match="ask its store"):
            store.transact(look, what)


def test_whoever_was_told_of_a_commit_finds_it_in_the_feed(store: ms.Store) -> None:
    """Writers and readers at once: positions have no gap and no reader is behind what it was told."""

    def write(number: int) -> None:
        for sequence in range(1, 60):
            (stored,) = store.commit_events([ms.Event(f"a-{number}", sequence, "made", sequence)])
            last = store.last_position
            assert last >= (stored.position or 0)
            found = [event.position for event in store.read()]
            assert found == list(range(1, len(found) + 1))
            assert len(found) >= last

    in_threads(*(partial(write, number) for number in range(3)))


_requests = st.fixed_dictionaries(
    {"after": st.integers(0, 60)},
    optional={
        "limit": st.integers(0, 60),
        "types": st.frozensets(st.sampled_from(["a", "ab", "b", ""])),
        "aggregate_prefix": st.sampled_from(["x", "xy", "y", "ü", "", "xyz"]),
    },
)
_commits = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["x", "xy", "y", "ü"]), st.sampled_from(["a", "ab", "b"])), min_size=1, max_size=5
    ),
    max_size=12,
)


@given(commits=_commits, requests=st.lists(_requests, min_size=1, max_size=5))
def test_the_feed_gives_what_a_look_at_all_events_gives(
    kept_stores: Any, commits: list[list[tuple[str, str]]], requests: list[dict[str, Any]]
) -> None:
    stored: list[ms.Event] = []
    stores = [kept_stores(kind) for kind in ("memory", "private")]
    for store in stores:
        store.reset()
    for commit in commits:
        first = len(stored) + 1
        events = [ms.Event(key, first + number, kind, None, timestamp=1) for number, (key, kind) in enumerate(commit)]
        _, same = (store.commit_events(events) for store in stores)
        stored += same
    for request in requests:
        wanted = stored[request["after"] :]
        wanted = [event for event in wanted if "types" not in request or event.type in request["types"]]
        wanted = [event for event in wanted if event.aggregate_id.startswith(request.get("aggregate_prefix", ""))]
        for store in stores:
            assert exactly(list(store.read(**request))) == exactly(wanted[: request.get("limit")])
