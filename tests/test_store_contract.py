"""The contract of `maestro_shm.Store`, one rule per test, over every kind of store."""

from __future__ import annotations

import operator
import pickle
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, count, pairwise, product
from typing import Any, NamedTuple, cast

import pytest
from store_contract import FIGURES, STORABLE, event, exactly, in_threads

import maestro_shm as ms
from maestro_shm import codec
from maestro_shm.clock import MAX_TIMESTAMP
from maestro_shm.options import DEFAULT_COMMIT_BYTES
from maestro_shm.validation import record_size

MakeStore = Callable[..., ms.Store]


class Trap:
    """Nothing that could be stored."""


def figures(store: ms.Store) -> dict[str, Any]:
    stats = store.stats()
    return {key: stats[key] for key in FIGURES}


@contextmanager
def unchanged(store: ms.Store, *aggregate_ids: str) -> Iterator[None]:
    """Nothing that anyone can see of the store, or of these aggregates, changes in the block."""

    def picture() -> Any:
        return figures(store), [
            (key, exactly(store.get_events(key)), exactly(store.get_snapshot(key)), store.last_sequence(key))
            for key in aggregate_ids
        ]

    before = picture()
    yield
    assert picture() == before


def sequences(store: ms.Store, aggregate_id: str = "a") -> list[int]:
    return [stored.sequence for stored in store.get_events(aggregate_id)]


# Commits: what comes back, and what is read afterwards.


def test_a_committed_event_comes_back_exactly_as_it_is_read(store: ms.Store) -> None:
    given = [event("a", 1, {"n": (1, True)}, type="opened", metadata={"by": "me"}), event("b", 7, timestamp=12)]
    returned = store.commit_events(given)
    assert exactly(returned) == exactly([*store.get_events("a"), *store.get_events("b")])
    assert exactly([replace(e, timestamp=None, position=None) for e in returned]) == exactly(
        [replace(e, timestamp=None) for e in given]
    )


def test_returned_events_stand_in_the_order_of_the_commit(store: ms.Store) -> None:
    keys = [("b", 1), ("a", 1), ("b", 2), ("c", 5), ("a", 3)]
    returned = store.commit_events([event(*key) for key in keys])
    assert [(e.aggregate_id, e.sequence) for e in returned] == keys


def test_events_are_read_in_the_order_of_their_sequence_numbers(store: ms.Store) -> None:
    store.commit_events([event("a", 1), event("b", 1), event("a", 2)])
    store.commit_events([event("b", 2), event("a", 3), event("a", 10)])
    assert sequences(store, "a") == [1, 2, 3, 10]
    assert sequences(store, "b") == [1, 2]


def test_a_commit_of_nothing_changes_nothing(store: ms.Store) -> None:
    store.commit_events([event()])
    with unchanged(store, "a"):
        assert store.commit_events([]) == []


def test_a_generator_of_events_is_committed(store: ms.Store) -> None:
    returned = store.commit_events(event("a", n, n) for n in range(1, 4))
    assert exactly(returned) == exactly(store.get_events("a"))
    assert sequences(store) == [1, 2, 3]


def test_a_generator_that_fails_stores_nothing_of_what_it_gave(store: ms.Store) -> None:
    def failing() -> Iterator[ms.Event]:
        yield event("a", 1)
        raise KeyError

    with unchanged(store, "a"), pytest.raises(KeyError):
        store.commit_events(failing())


def test_gaps_between_sequence_numbers_are_allowed(store: ms.Store) -> None:
    store.commit_events([event("a", 3), event("a", 5)])
    store.commit_events([event("a", 100)])
    assert sequences(store) == [3, 5, 100]


def test_an_aggregate_may_begin_at_sequence_zero(store: ms.Store) -> None:
    store.commit_events([event("a", 0)])
    assert sequences(store) == [0]
    assert store.last_sequence("a") == 0


def test_an_aggregate_may_reach_the_largest_sequence_number(store: ms.Store) -> None:
    store.commit_events([event("a", ms.MAX_SEQUENCE - 1), event("a", ms.MAX_SEQUENCE)])
    assert store.commit_snapshot(ms.Snapshot("a", ms.MAX_SEQUENCE, "end"))
    assert sequences(store) == [ms.MAX_SEQUENCE - 1, ms.MAX_SEQUENCE]
    assert store.last_sequence("a") == ms.MAX_SEQUENCE
    assert store.get_snapshot("a", ms.MAX_SEQUENCE) == ms.Snapshot("a", ms.MAX_SEQUENCE, "end")


def test_last_sequence_is_that_of_the_newest_event(store: ms.Store) -> None:
    for sequence in (1, 2, 9):
        store.commit_events([event("a", sequence), event("b", sequence * 10)])
        assert store.last_sequence("a") == sequence
        assert store.last_sequence("b") == sequence * 10


def test_an_unknown_aggregate_has_no_events_no_snapshot_no_last_sequence(store: ms.Store) -> None:
    store.commit_events([event("known")])
    store.commit_snapshot(ms.Snapshot("known", 1, None))
    assert store.get_events("unknown") == []
    assert store.get_snapshot("unknown") is None
    assert store.last_sequence("unknown") is None


def test_a_type_may_be_any_text(store: ms.Store) -> None:
    store.commit_events([event(type="\0 \N{SNOWMAN} " + "x" * 1000)])
    assert store.get_events("a")[0].type == "\0 \N{SNOWMAN} " + "x" * 1000


# Commits: the conflict.


@pytest.mark.parametrize("sequence", [0, 1, 4, 5])
def test_an_event_not_above_the_last_sequence_number_is_a_conflict_with_its_facts(
    store: ms.Store, sequence: int
) -> None:
    store.commit_events([event("a", 1), event("a", 5)])
    with unchanged(store, "a"), pytest.raises(ms.SequenceConflictError) as caught:
        store.commit_events([event("a", sequence)])
    conflict = caught.value
    assert (conflict.aggregate_id, conflict.sequence, conflict.last_sequence) == ("a", sequence, 5)


@pytest.mark.parametrize("place", range(4))
def test_a_conflict_of_one_aggregate_stores_nothing_of_any_other(store: ms.Store, place: int) -> None:
    store.commit_events([event("stale", 3)])
    batch = [event("a", 1), event("b", 1), event("a", 2)]
    batch.insert(place, event("stale", 3))
    with unchanged(store, "a", "b", "stale"), pytest.raises(ms.SequenceConflictError) as caught:
        store.commit_events(batch)
    conflict = caught.value
    assert (conflict.aggregate_id, conflict.sequence, conflict.last_sequence) == ("stale", 3, 3)


def test_a_conflict_of_the_first_event_stores_none_of_the_later_ones_of_its_aggregate(store: ms.Store) -> None:
    store.commit_events([event("a", 3)])
    with unchanged(store, "a"), pytest.raises(ms.SequenceConflictError):
        store.commit_events([event("a", 3), event("a", 4)])


def test_of_several_conflicts_the_first_in_the_commit_is_told(store: ms.Store) -> None:
    store.commit_events([event("a", 3), event("b", 4)])
    with pytest.raises(ms.SequenceConflictError) as caught:
        store.commit_events([event("c", 1), event("b", 2), event("a", 1), event("b", 4)])
    conflict = caught.value
    assert (conflict.aggregate_id, conflict.sequence, conflict.last_sequence) == ("b", 2, 4)


def test_an_invalid_event_is_told_before_a_conflict(store: ms.Store) -> None:
    store.commit_events([event("a", 3)])
    with unchanged(store, "a", "b"), pytest.raises(ms.InvalidEventError):
        store.commit_events([event("a", 3), event("b", 1, Trap())])


def test_a_commit_is_accepted_after_a_conflict_once_it_is_brought_up_to_date(store: ms.Store) -> None:
    store.commit_events([event("a", 1)])
    with pytest.raises(ms.SequenceConflictError) as caught:
        store.commit_events([event("a", 1), event("b", 1)])
    store.commit_events([event("a", caught.value.last_sequence + 1), event("b", 1)])
    assert sequences(store, "a") == [1, 2]
    assert sequences(store, "b") == [1]


def test_a_snapshot_does_not_make_an_event_late(store: ms.Store) -> None:
    store.commit_snapshot(ms.Snapshot("a", 5, None))
    store.commit_events([event("a", 1)])
    assert store.last_sequence("a") == 1


# Positions and timestamps.


def test_positions_count_from_one_without_gaps_in_the_order_of_commits(store: ms.Store) -> None:
    returned = [
        *store.commit_events([event("b", 1), event("a", 1), event("b", 2)]),
        *store.commit_events([event("a", 2)]),
        *store.commit_events([event("c", 1), event("a", 3)]),
    ]
    assert [e.position for e in returned] == [1, 2, 3, 4, 5, 6]
    assert store.stats()["last_position"] == 6


def test_refused_commits_and_snapshots_use_no_position(store: ms.Store) -> None:
    store.commit_events([event("a", 1)])
    with pytest.raises(ms.SequenceConflictError):
        store.commit_events([event("b", 1), event("a", 1)])
    with pytest.raises(ms.InvalidEventError):
        store.commit_events([event("b", 1), event("b", 2, Trap())])
    store.commit_snapshot(ms.Snapshot("a", 1, None))
    assert [e.position for e in store.commit_events([event("b", 1), event("a", 2)])] == [2, 3]


def test_a_position_that_the_caller_gave_is_replaced(store: ms.Store) -> None:
    assert store.commit_events([event(position=99)])[0].position == 1
    assert store.get_events("a")[0].position == 1


def test_timestamps_rise_from_event_to_event(store: ms.Store) -> None:
    returned = [e for n in range(1, 200) for e in store.commit_events([event("a", n), event("b", n)])]
    timestamps = [e.timestamp for e in returned if e.timestamp is not None]
    assert len(timestamps) == len(returned)
    assert all(before < after for before, after in pairwise(timestamps))


def test_a_timestamp_ahead_of_the_clock_is_kept_and_moves_it(store: ms.Store) -> None:
    now = store.commit_events([event("a", 1)])[0].timestamp
    assert now is not None
    ahead = now + (1 << 40)
    given, after = store.commit_events([event("a", 2, timestamp=ahead), event("b", 1)])
    assert given.timestamp == ahead
    assert after.timestamp is not None
    assert after.timestamp > ahead
    later = store.commit_events([event("a", 3)])[0].timestamp
    assert later is not None
    assert later > after.timestamp


def test_a_timestamp_behind_the_clock_is_kept_and_does_not_move_it_back(store: ms.Store) -> None:
    first, given, after = store.commit_events([event("a", 1), event("a", 2, timestamp=0), event("a", 3)])
    assert given.timestamp == 0
    assert store.get_events("a")[1].timestamp == 0
    assert first.timestamp is not None
    assert after.timestamp is not None
    assert after.timestamp > first.timestamp


def test_the_largest_timestamp_is_kept_and_the_clock_goes_on_above_it(make_store: MakeStore) -> None:
    store = make_store()
    given, after = store.commit_events([event("a", 1, timestamp=MAX_TIMESTAMP), event("a", 2)])
    assert given.timestamp == MAX_TIMESTAMP
    assert after.timestamp is not None
    assert after.timestamp > MAX_TIMESTAMP
    assert exactly(store.get_events("a")) == exactly([given, after])


def test_a_refused_commit_does_not_move_the_clock(store: ms.Store) -> None:
    before = store.commit_events([event("a", 1)])[0].timestamp
    assert before is not None
    ahead = before + (1 << 50)
    with pytest.raises(ms.SequenceConflictError):
        store.commit_events([event("b", 1, timestamp=ahead), event("a", 1)])
    after = store.commit_events([event("a", 2)])[0].timestamp
    assert after is not None
    assert before < after < ahead


# Bodies and metadata.


@pytest.mark.parametrize("body", STORABLE.values(), ids=STORABLE)
def test_a_body_comes_back_exactly(store: ms.Store, body: Any) -> None:
    store.commit_events([event("a", 1, body), event("a", 2, [{"deep": body}])])
    store.commit_snapshot(ms.Snapshot("a", 2, body))
    assert [exactly(e.body) for e in store.get_events("a")] == [exactly(body), exactly([{"deep": body}])]
    snapshot = store.get_snapshot("a")
    assert snapshot is not None
    assert exactly(snapshot.body) == exactly(body)


@pytest.mark.parametrize("metadata", [None, {}, {"user": "me", "tags": ({1}, True), 3: b""}], ids=repr)
def test_metadata_comes_back_exactly(store: ms.Store, metadata: dict[Any, Any] | None) -> None:
    returned = store.commit_events([event(metadata=metadata)])
    assert exactly(returned[0].metadata) == exactly(metadata)
    assert exactly(store.get_events("a")[0].metadata) == exactly(metadata)


def test_a_body_that_is_changed_after_its_commit_does_not_change_the_store(store: ms.Store) -> None:
    body, metadata, state = {"list": [1]}, {"list": [2]}, {"list": [3]}
    store.commit_events([event("a", 1, body, metadata=metadata)])
    store.commit_snapshot(ms.Snapshot("a", 1, state))
    with unchanged(store, "a"):
        for value in (body, metadata, state):
            value["list"].append(0)


def test_what_a_reader_does_to_a_body_does_not_change_the_store(store: ms.Store) -> None:
    returned = store.commit_events([event("a", 1, {"list": [1]}, metadata={"list": [2]})])
    store.commit_snapshot(ms.Snapshot("a", 1, {"list": [3]}))
    with unchanged(store, "a"):
        snapshot = store.get_snapshot("a")
        assert snapshot is not None
        snapshot.body["list"].append(0)
        for one in (*returned, *store.get_events("a")):
            one.body["list"].append(0)
            assert one.metadata is not None
            one.metadata["list"].append(0)


AGGREGATE_IDS = {
    "plain": "a",
    "other case": "A",
    "trailing space": "a ",
    "trailing NUL": "a\0",
    "leading NUL": "\0a",
    "NUL": "\0",
    "two NULs": "\0\0",
    "line break": "a\nb",
    "path": "../a/b",
    "wildcards": "%_*?'\"\\",
    "composed": "\u00e9",
    "decomposed": "e\u0301",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "right to left": "\u05d0\u05d1\u202e",
    "last code point": "\U0010ffff",
    "not a character": "\ufffe",
    "byte order mark": "\ufeffa",
    "long": "x" * 1000,
    "long with another end": "x" * 999 + "y",
    "long and wide": "\U0001f600" * 1000,
}


def test_aggregates_of_any_ids_are_kept_apart(store: ms.Store) -> None:
    store.commit_events([event(key, 1, name) for name, key in AGGREGATE_IDS.items()])
    for name, key in AGGREGATE_IDS.items():
        assert store.commit_snapshot(ms.Snapshot(key, 2, name))
    for name, key in AGGREGATE_IDS.items():
        assert [(e.aggregate_id, e.body) for e in store.get_events(key)] == [(key, name)]
        assert store.get_snapshot(key) == ms.Snapshot(key, 2, name)
        assert store.last_sequence(key) == 1


def test_a_conflict_tells_the_id_of_any_aggregate(store: ms.Store) -> None:
    for key in AGGREGATE_IDS.values():
        store.commit_events([event(key, 1)])
        with pytest.raises(ms.SequenceConflictError) as caught:
            store.commit_events([event(key, 1)])
        assert caught.value.aggregate_id == key


# Reads: the bounds.


def test_max_sequence_recreates_a_past_state(store: ms.Store) -> None:
    store.commit_events([event("a", n, n) for n in range(1, 6)])
    past = store.get_events("a", max_sequence=3)
    assert [e.body for e in past] == [1, 2, 3]
    store.commit_events([event("a", 6, 6)])
    assert exactly(store.get_events("a", max_sequence=3)) == exactly(past)


def test_min_sequence_gives_what_is_new(store: ms.Store) -> None:
    store.commit_events([event("a", n) for n in range(1, 6)])
    assert [e.sequence for e in store.get_events("a", 4)] == [4, 5]
    assert store.get_events("a", 6) == []


def test_reads_return_what_is_in_range_with_both_bounds_included(store: ms.Store) -> None:
    events = store.commit_events([event("a", n) for n in (1, 2, 4, 7)])
    snapshot = ms.Snapshot("a", 4, "state")
    store.commit_snapshot(snapshot)
    for low, high in product(range(-1, 9), repeat=2):
        assert store.get_events("a", low, max_sequence=high) == [e for e in events if ms.in_range(e, low, high)]
        assert store.get_snapshot("a", low, max_sequence=high) == (
            snapshot if ms.in_range(snapshot, low, high) else None
        )


def test_bounds_may_lie_beyond_all_sequence_numbers(store: ms.Store) -> None:
    store.commit_events([event("a", 0), event("a", ms.MAX_SEQUENCE)])
    store.commit_snapshot(ms.Snapshot("a", 0, None))
    for low, high in ((-1, ms.MAX_SEQUENCE + 1), (-(2**64), 2**64), (-(2**70), 2**70)):
        assert [e.sequence for e in store.get_events("a", low, max_sequence=high)] == [0, ms.MAX_SEQUENCE]
        assert store.get_snapshot("a", low, max_sequence=high) is not None
        assert store.get_events("a", high) == []
        assert store.get_events("a", max_sequence=low) == []
        assert store.get_snapshot("a", high) is None
        assert store.get_snapshot("a", max_sequence=low) is None


# Snapshots.


def test_a_first_snapshot_is_stored_also_of_an_aggregate_without_events(store: ms.Store) -> None:
    assert store.commit_snapshot(ms.Snapshot("a", 0, {"n": 0})) is True
    assert store.get_snapshot("a") == ms.Snapshot("a", 0, {"n": 0})
    assert store.get_events("a") == []
    assert store.last_sequence("a") is None


def test_a_newer_snapshot_replaces_the_stored_one(store: ms.Store) -> None:
    store.commit_snapshot(ms.Snapshot("a", 1, "old"))
    assert store.commit_snapshot(ms.Snapshot("a", 2, "new")) is True
    assert store.get_snapshot("a") == ms.Snapshot("a", 2, "new")
    assert store.get_snapshot("a", max_sequence=1) is None


@pytest.mark.parametrize("sequence", [4, 5], ids=["older", "equal"])
def test_a_snapshot_that_is_not_newer_is_not_stored(store: ms.Store, sequence: int) -> None:
    store.commit_snapshot(ms.Snapshot("a", 5, "stored"))
    with unchanged(store, "a"):
        assert store.commit_snapshot(ms.Snapshot("a", sequence, "late")) is False


def test_snapshots_of_aggregates_are_kept_apart(store: ms.Store) -> None:
    store.commit_snapshot(ms.Snapshot("a", 5, "a"))
    assert store.commit_snapshot(ms.Snapshot("b", 1, "b")) is True
    assert store.get_snapshot("a") == ms.Snapshot("a", 5, "a")
    assert store.get_snapshot("b") == ms.Snapshot("b", 1, "b")


def test_a_snapshot_leaves_the_events_and_their_figures_alone(store: ms.Store) -> None:
    store.commit_events([event("a", 1), event("a", 2)])
    before = store.stats()
    store.commit_snapshot(ms.Snapshot("a", 2, None))
    store.commit_snapshot(ms.Snapshot("b", 1, None))
    after = store.stats()
    assert [after[key] for key in FIGURES[:3]] == [before[key] for key in FIGURES[:3]]
    assert sequences(store) == [1, 2]


# What is refused.


class Bad(NamedTuple):
    """What the caller passes, and what the message must say of it."""

    value: Any
    message: str


class Number(int):
    """An int that would not come back as one."""


class Text(str):
    """A str that would not come back as one."""

    __slots__ = ()


BAD_IDS: dict[str, Any] = {
    "empty id": "",
    "id of None": None,
    "id of bytes": b"a",
    "id of int": 1,
    "id of a str subclass": Text("a"),
    "id with a surrogate": "a\ud800",
}

BAD_SEQUENCES: dict[str, Any] = {
    "negative sequence": -1,
    "too large sequence": ms.MAX_SEQUENCE + 1,
    "far too large sequence": 2**70,
    "bool sequence": True,
    "float sequence": 1.0,
    "str sequence": "1",
    "sequence of None": None,
    "sequence of an int subclass": Number(1),
}

BAD_BODIES: dict[str, Bad] = {
    "unstorable body": Bad(Trap(), "body: cannot store"),
    "unstorable body deep inside": Bad({"a": [0, (1, 2), Trap()]}, "body['a'][2]: cannot store"),
    "unstorable body in a tuple": Bad([({"k": Trap()},)], "body[0][0]['k']: cannot store"),
    "unstorable key": Bad({"a": {1.5: 0}}, "body['a']: cannot store the key 1.5 of type float"),
    "bytearray body": Bad([bytearray(b"x")], "body[0]: cannot store a value of type bytearray"),
    "surrogate in a body": Bad(["a\ud800"], "body[0]: cannot store a str that is not valid Unicode"),
    "body of an int subclass": Bad({"n": Number(1)}, "body['n']: cannot store"),
    "body of a str subclass": Bad({"n": Text("x")}, "body['n']: cannot store"),
    "body over the cap": Bad(b"x" * DEFAULT_COMMIT_BYTES, f"over the cap of {DEFAULT_COMMIT_BYTES:,}"),
}

BAD_COMMITS: dict[str, Bad] = {
    **{name: Bad([event(key)], "an aggregate id must be") for name, key in BAD_IDS.items()},
    **{name: Bad([event("a", sequence)], "sequence must be an int") for name, sequence in BAD_SEQUENCES.items()},
    **{name: Bad([event("a", 1, body.value)], body.message) for name, body in BAD_BODIES.items()},
    "equal sequences in one commit": Bad([event("a", 2), event("a", 2)], "does not rise above 2"),
    "falling sequences in one commit": Bad([event("a", 2), event("a", 1)], "does not rise above 2"),
    "falling sequences with others between": Bad([event("a", 2), event("b", 1), event("a", 1)], "rise above 2"),
    "empty type": Bad([event(type="")], "type must be a non-empty str"),
    "type of None": Bad([event(type=None)], "type must be a non-empty str"),
    "type of bytes": Bad([event(type=b"x")], "type must be a non-empty str"),
    "type with a surrogate": Bad([event(type="\udfff")], "type: cannot store a str that is not valid Unicode"),
    "negative timestamp": Bad([event(timestamp=-1)], "timestamp must be None or an int"),
    "too large timestamp": Bad([event(timestamp=MAX_TIMESTAMP + 1)], "timestamp must be None or an int"),
    "bool timestamp": Bad([event(timestamp=True)], "timestamp must be None or an int"),
    "float timestamp": Bad([event(timestamp=1.0)], "timestamp must be None or an int"),
    "metadata of a list": Bad([event(metadata=[])], "metadata must be None or a dict"),
    "metadata of a str": Bad([event(metadata="x")], "metadata must be None or a dict"),
    "unstorable metadata": Bad([event(metadata={"a": [Trap()]})], "metadata['a'][0]: cannot store"),
    "not an Event: None": Bad([None], "not an Event"),
    "not an Event: a NewEvent": Bad([ms.NewEvent("happened")], "not an Event"),
    "not an Event: a Snapshot": Bad([ms.Snapshot("a", 1, None)], "not an Event"),
    "metadata over the cap": Bad([event(metadata={"a": "x" * DEFAULT_COMMIT_BYTES})], "over the cap"),
    "type over the cap": Bad([event(type="x" * DEFAULT_COMMIT_BYTES)], "over the cap"),
    "id too long": Bad([event("x" * 65_536)], "at most 65,535 bytes"),
    "two halves over the cap": Bad([event("a", n, b"x" * (DEFAULT_COMMIT_BYTES // 2)) for n in (1, 2)], "over the cap"),
    "small events over the cap": Bad([event("a", n) for n in range(DEFAULT_COMMIT_BYTES // 64)], "over the cap"),
}

BAD_SNAPSHOTS: dict[str, Bad] = {
    **{name: Bad(ms.Snapshot(key, 2, None), "an aggregate id must be") for name, key in BAD_IDS.items()},
    **{name: Bad(ms.Snapshot("a", key, None), "sequence must be an int") for name, key in BAD_SEQUENCES.items()},
    **{name: Bad(ms.Snapshot("a", 2, body.value), body.message) for name, body in BAD_BODIES.items()},
    "not a Snapshot: None": Bad(None, "not a Snapshot"),
    "not a Snapshot: an Event": Bad(event("a", 2), "not a Snapshot"),
    "id too long": Bad(ms.Snapshot("x" * 65_536, 2, None), "at most 65,535 bytes"),
}

BAD_BOUNDS: dict[str, Any] = {
    "None": None,
    "bool": True,
    "float": 1.0,
    "str": "1",
    "int subclass": Number(1),
}


@pytest.mark.parametrize("bad", BAD_COMMITS.values(), ids=BAD_COMMITS)
def test_an_invalid_commit_is_refused_and_changes_nothing(store: ms.Store, bad: Bad) -> None:
    store.commit_events([event("seen", 1)])
    store.commit_snapshot(ms.Snapshot("seen", 1, "state"))
    with (
        unchanged(store, "seen", "a", "b"),
        pytest.raises(ms.InvalidEventError, match=re.escape(bad.message)),
    ):
        store.commit_events([event("seen", 2), *bad.value])


@pytest.mark.parametrize("bad", BAD_SNAPSHOTS.values(), ids=BAD_SNAPSHOTS)
def test_an_invalid_snapshot_is_refused_and_changes_nothing(store: ms.Store, bad: Bad) -> None:
    store.commit_events([event("a", 1)])
    store.commit_snapshot(ms.Snapshot("a", 0, "state"))
    with unchanged(store, "a"), pytest.raises(ms.InvalidEventError, match=re.escape(bad.message)):
        store.commit_snapshot(bad.value)


@pytest.mark.parametrize("read", ["get_events", "get_snapshot", "last_sequence"])
@pytest.mark.parametrize("aggregate_id", BAD_IDS.values(), ids=BAD_IDS)
def test_a_read_of_what_cannot_be_an_aggregate_id_is_refused(store: ms.Store, read: str, aggregate_id: Any) -> None:
    with pytest.raises(ms.InvalidEventError, match="an aggregate id must be"):
        operator.methodcaller(read, aggregate_id)(store)


@pytest.mark.parametrize("read", ["get_events", "get_snapshot"])
@pytest.mark.parametrize("bound", BAD_BOUNDS.values(), ids=BAD_BOUNDS)
def test_a_bound_that_is_no_integer_is_refused(store: ms.Store, read: str, bound: Any) -> None:
    store.commit_events([event()])
    with pytest.raises(ms.InvalidEventError, match="bounds of a read must be integers"):
        operator.methodcaller(read, "a", bound)(store)
    with pytest.raises(ms.InvalidEventError, match="bounds of a read must be integers"):
        operator.methodcaller(read, "a", max_sequence=bound)(store)


# The cap on the size of a commit.


def filled(size: int) -> ms.Event:
    """An event that counts for this many bytes."""
    probe = event("a", 1, bytes(1 << 17))
    return replace(probe, body=bytes((1 << 17) + size - record_size("a", codec.pack_event(probe))))


def test_a_commit_exactly_at_the_cap_is_stored(store: ms.Store) -> None:
    full = filled(DEFAULT_COMMIT_BYTES)
    store.commit_events([full])
    assert store.get_events("a")[0].body == full.body


def test_a_commit_one_byte_over_the_cap_is_refused(store: ms.Store) -> None:
    with unchanged(store, "a"), pytest.raises(ms.InvalidEventError, match="over the cap"):
        store.commit_events([filled(DEFAULT_COMMIT_BYTES + 1)])


def test_the_cap_is_on_all_events_of_a_commit_together(store: ms.Store) -> None:
    half = filled(DEFAULT_COMMIT_BYTES // 2)
    store.commit_events([half, replace(half, aggregate_id="b")])
    longer = replace(half, sequence=2, body=half.body + b"x")
    with unchanged(store, "a", "b"), pytest.raises(ms.InvalidEventError, match="over the cap"):
        store.commit_events([longer, replace(longer, aggregate_id="b", body=half.body)])


def test_a_snapshot_exactly_at_the_cap_is_stored_and_one_byte_more_is_refused(store: ms.Store) -> None:
    room = DEFAULT_COMMIT_BYTES - record_size("a", codec.pack_body(bytes(1 << 17))) + (1 << 17)
    assert store.commit_snapshot(ms.Snapshot("a", 1, bytes(room)))
    assert store.get_snapshot("a") == ms.Snapshot("a", 1, bytes(room))
    with unchanged(store, "a"), pytest.raises(ms.InvalidEventError, match="over the cap"):
        store.commit_snapshot(ms.Snapshot("a", 2, bytes(room + 1)))


def test_a_store_keeps_the_cap_that_it_was_created_with(make_store: MakeStore) -> None:
    store = make_store(max_commit_bytes=2 * DEFAULT_COMMIT_BYTES)
    store.commit_events([filled(2 * DEFAULT_COMMIT_BYTES)])
    assert sequences(store) == [1]
    with pytest.raises(ms.InvalidEventError, match=f"over the cap of {2 * DEFAULT_COMMIT_BYTES:,}"):
        store.commit_events([replace(filled(2 * DEFAULT_COMMIT_BYTES + 1), sequence=2)])


@pytest.mark.parametrize("cap", [0, 1023, (32 << 20) + 1, True, "1", 4096.0, None])
def test_a_cap_out_of_bounds_is_refused(make_store: MakeStore, store_kind: str, cap: Any) -> None:
    if cap is None and store_kind in ("named", "path", "path, power"):
        cap = -1  # None is what a store that exists has
    with pytest.raises(ValueError, match="max_commit_bytes must be an int from 1024 to 33554432"):
        make_store(max_commit_bytes=cap)


def test_the_longest_id_is_stored(store: ms.Store) -> None:
    longest = "x" * 65_535
    store.commit_events([event(longest)])
    store.commit_snapshot(ms.Snapshot(longest, 1, None))
    assert store.last_sequence(longest) == 1
    assert [stored.aggregate_id for stored in store.get_events(longest)] == [longest]
    assert store.get_snapshot(longest) == ms.Snapshot(longest, 1, None)


def test_a_commit_may_have_as_many_events_as_the_cap_has_room_for(make_store: MakeStore) -> None:
    many = 70_000  # more than 16 bits count
    store = make_store(max_commit_bytes=16 << 20)
    stored = store.commit_events(event("a", sequence) for sequence in range(many))
    assert [stored[0].position, stored[-1].position] == [1, many]
    assert store.last_sequence("a") == many - 1
    assert [read.sequence for read in store.get_events("a", many - 3)] == [many - 3, many - 2, many - 1]


# Figures, reset, close.


def test_stats_count_events_aggregates_and_positions(store: ms.Store) -> None:
    assert [store.stats()[key] for key in FIGURES[:3]] == [0, 0, 0]
    store.commit_events([event("a", 5), event("b", 1), event("a", 9)])
    stats = store.stats()
    assert [stats[key] for key in FIGURES[:3]] == [3, 2, 3]
    assert type(stats["bytes"]) is int
    assert stats["bytes"] > 0


def test_reset_forgets_events_and_snapshots(store: ms.Store) -> None:
    store.commit_events([event("a", 5), event("b", 1)])
    store.commit_snapshot(ms.Snapshot("a", 5, None))
    store.commit_snapshot(ms.Snapshot("c", 1, None))
    store.reset()
    assert [store.stats()[key] for key in FIGURES[:3]] == [0, 0, 0]
    for key in ("a", "b", "c"):
        assert store.get_events(key) == []
        assert store.get_snapshot(key) is None
        assert store.last_sequence(key) is None


def test_sequences_snapshots_and_positions_start_anew_after_a_reset(store: ms.Store) -> None:
    store.commit_events([event("a", 5), event("b", 1)])
    store.commit_snapshot(ms.Snapshot("a", 5, "before"))
    store.reset()
    assert [e.position for e in store.commit_events([event("a", 1, "after"), event("a", 2)])] == [1, 2]
    assert store.commit_snapshot(ms.Snapshot("a", 1, "after")) is True
    assert store.get_snapshot("a") == ms.Snapshot("a", 1, "after")
    assert [e.body for e in store.get_events("a")] == ["after", None]
    assert store.last_sequence("a") == 2


def test_timestamps_do_not_go_back_across_a_reset(make_store: MakeStore) -> None:
    store = make_store()
    now = store.commit_events([event("a", 1)])[0].timestamp
    assert now is not None
    ahead = now + (1 << 40)
    store.commit_events([event("a", 2, timestamp=ahead)])
    store.reset()
    after = store.commit_events([event("a", 1)])[0].timestamp
    assert after is not None
    assert after > ahead


def test_a_store_can_be_reset_again_and_again(store: ms.Store) -> None:
    for _ in range(5):
        store.reset()
        store.reset()
        assert store.commit_events([event("a", 1)])[0].position == 1


CALLS: dict[str, Callable[[ms.Store], object]] = {
    "commit_events": lambda store: store.commit_events([event("a", 2)]),
    "commit_events of nothing": lambda store: store.commit_events([]),
    "commit_snapshot": lambda store: store.commit_snapshot(ms.Snapshot("a", 2, None)),
    "get_events": lambda store: store.get_events("a"),
    "get_snapshot": lambda store: store.get_snapshot("a"),
    "last_sequence": lambda store: store.last_sequence("a"),
    "stats": lambda store: store.stats(),
    "reset": lambda store: store.reset(),
}


def test_a_closed_store_refuses_every_call(make_store: MakeStore) -> None:
    store = make_store()
    store.commit_events([event("a", 1)])
    store.commit_snapshot(ms.Snapshot("a", 1, None))
    for call in CALLS.values():
        call(store)
    store.close()
    for name, call in CALLS.items():
        with pytest.raises(ms.StoreClosedError) as caught:
            call(store)
        assert caught.value.target == store.target, name


def test_a_closed_store_says_so_whatever_it_is_given(make_store: MakeStore) -> None:
    store = make_store()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.commit_events([event("")]),
        lambda: store.commit_snapshot(ms.Snapshot("", -1, object())),
        lambda: store.get_events(""),
        lambda: store.get_snapshot("", cast("int", None)),
        lambda: store.last_sequence(""),
    ]
    for call in calls:
        with pytest.raises(ms.StoreClosedError):
            call()


def close_soon(store: ms.Store) -> int:
    time.sleep(0.05)
    store.close()
    return 1


@pytest.mark.usefixtures("hasty_threads")
def test_a_store_that_is_closed_under_its_readers_answers_or_says_that_it_is_closed(make_store: MakeStore) -> None:
    store = make_store()
    events = store.commit_events([event("a", sequence) for sequence in range(1, 200)])
    all_read = threading.Barrier(4)

    def read() -> int:
        for answers in count():
            try:
                assert store.get_events("a") == events
                assert store.last_sequence("a") == 199
                assert store.stats()["events"] == 199
            except ms.StoreClosedError:
                return answers
            if not answers:
                all_read.wait()
        raise AssertionError("there is no end of numbers")

    def close() -> int:
        all_read.wait()
        return close_soon(store)

    assert all(in_threads(read, read, read, close))


@pytest.mark.usefixtures("hasty_threads")
def test_a_store_that_is_closed_under_its_writers_commits_or_says_that_it_is_closed(make_store: MakeStore) -> None:
    store = make_store()

    def write(key: str) -> int:
        for sequence in count(1):
            try:
                store.commit_events([event(key, sequence)])
                store.commit_snapshot(ms.Snapshot(key, sequence, None))
            except ms.StoreClosedError:
                return sequence
        raise AssertionError("there is no end of numbers")

    assert all(in_threads(*(partial(write, key) for key in "abc"), partial(close_soon, store)))


def test_closing_twice_is_no_error(make_store: MakeStore) -> None:
    store = make_store()
    store.close()
    store.close()
    with pytest.raises(ms.StoreClosedError):
        store.stats()


def test_a_store_that_was_never_used_can_be_closed(make_store: MakeStore) -> None:
    store = make_store()
    store.close()
    with pytest.raises(ms.StoreClosedError):
        store.get_events("a")


def test_with_gives_the_store_itself_and_closes_it(make_store: MakeStore) -> None:
    store = make_store()
    with store as entered:
        assert entered is store
        store.commit_events([event()])
    with pytest.raises(ms.StoreClosedError):
        store.stats()


def test_with_closes_the_store_after_an_error_and_lets_the_error_through(make_store: MakeStore) -> None:
    store = make_store()
    with pytest.raises(KeyError), store:
        raise KeyError
    with pytest.raises(ms.StoreClosedError):
        store.stats()


def test_the_repr_of_a_store_names_its_target_also_when_closed(make_store: MakeStore) -> None:
    store = make_store()
    assert repr(store.target) in repr(store)
    store.close()
    assert repr(store.target) in repr(store)


def test_a_memory_store_refuses_to_be_pickled_and_says_what_to_use() -> None:
    with ms.connect("memory:") as store, pytest.raises(TypeError, match=re.escape("use maestro_shm.connect()")):
        pickle.dumps(store)


# Threads that share one store.


BATCH = 20
"""Events per commit where threads race: the longer a commit takes, the likelier it is that another gets in between."""


def append_compared(store: ms.Store, name: str, times: int) -> list[int]:
    """Append to the aggregate "a" by compare-and-append, and return the sequence numbers that were this writer's."""
    won: list[int] = []
    lost: list[ms.SequenceConflictError] = []
    while len(won) < times * BATCH:
        first = (store.last_sequence("a") or 0) + 1
        mine = range(first, first + BATCH)
        try:
            store.commit_events([event("a", sequence, name) for sequence in mine])
        except ms.SequenceConflictError as conflict:
            lost.append(conflict)
        else:
            won.extend(mine)
    assert all(conflict.last_sequence >= conflict.sequence for conflict in lost)
    return won


@pytest.mark.usefixtures("hasty_threads")
def test_writers_that_race_by_compare_and_append_lose_no_update(store: ms.Store) -> None:
    names = ["w", "x", "y", "z"]
    won = in_threads(*(partial(append_compared, store, name, 40) for name in names))
    expected = sorted((sequence, name) for name, mine in zip(names, won, strict=True) for sequence in mine)
    assert [(e.sequence, e.body) for e in store.get_events("a")] == expected
    last = 40 * BATCH * len(names)
    assert sequences(store) == list(range(1, last + 1))
    assert store.last_sequence("a") == last


@pytest.mark.usefixtures("hasty_threads")
def test_positions_of_a_commit_stand_together_and_have_no_gaps_when_writers_race(store: ms.Store) -> None:
    def write(mine: str, order: list[str]) -> list[list[ms.Event]]:
        return [store.commit_events([event(f"{mine} {name}", n) for name in order]) for n in range(1, 61)]

    orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "c"], ["a"]]
    commits = list(chain(*in_threads(*(partial(write, str(n), order) for n, order in enumerate(orders)))))
    for commit in commits:
        first = commit[0].position
        assert first is not None
        assert [e.position for e in commit] == list(range(first, first + len(commit)))
    every = sorted((e for commit in commits for e in commit), key=lambda e: e.position or 0)
    assert [e.position for e in every] == list(range(1, len(every) + 1))
    timestamps = [e.timestamp or 0 for e in every]
    assert all(before < after for before, after in pairwise(timestamps))


@pytest.mark.usefixtures("hasty_threads")
def test_racing_commits_over_the_same_aggregates_are_won_whole_or_not_at_all(store: ms.Store) -> None:
    def write(name: str, order: list[str]) -> int:
        wins = 0
        for n in range(1, 101):
            try:
                store.commit_events([event(key, n, name) for key in order])
                wins += 1
            except ms.SequenceConflictError:
                pass
        return wins

    wins = in_threads(partial(write, "there", ["a", "b", "c"]), partial(write, "back", ["c", "b", "a"]))
    streams = [[(e.sequence, e.body) for e in store.get_events(key)] for key in ("a", "b", "c")]
    assert streams[0] == streams[1] == streams[2]
    assert len(streams[0]) == sum(wins)


@pytest.mark.usefixtures("hasty_threads")
def test_a_reader_sees_a_commit_over_several_aggregates_whole_or_not_at_all(store: ms.Store) -> None:
    last = 150

    def write() -> int:
        for n in range(1, last + 1):
            store.commit_events([event(key, n, n) for key in ("first", "middle", "last")])
        return last

    def read() -> int:
        seen = 0
        while seen < last:
            # Each read is newer than the one before, so the numbers can only rise if commits are seen whole.
            rising = [
                store.last_sequence("first") or 0,
                len(store.get_events("last")),
                store.last_sequence("middle") or 0,
                len(store.get_events("first")),
                store.last_sequence("last") or 0,
            ]
            assert rising == sorted(rising)
            assert rising[0] >= seen
            seen = rising[-1]
        return seen

    assert in_threads(write, read, read) == [last] * 3


@pytest.mark.usefixtures("hasty_threads")
def test_a_reader_sees_several_events_of_one_aggregate_whole_or_not_at_all(store: ms.Store) -> None:
    commits = 100

    def write() -> int:
        for n in range(commits):
            store.commit_events([event("a", n * BATCH + i + 1, n) for i in range(BATCH)])
        return commits

    def read() -> int:
        seen = 0
        while seen < commits * BATCH:
            # Only what is new, since a read that takes long meets few commits.
            new = [e.sequence for e in store.get_events("a", seen + 1)]
            assert new == list(range(seen + 1, seen + 1 + len(new)))
            assert len(new) % BATCH == 0
            assert (store.last_sequence("a") or 0) % BATCH == 0
            seen += len(new)
        return seen // BATCH

    assert in_threads(write, read) == [commits, commits]


@pytest.mark.usefixtures("hasty_threads")
def test_of_racing_snapshots_the_newest_stays_and_each_is_stored_once_at_most(store: ms.Store) -> None:
    newest = 400
    rising = list(range(1, newest + 1))
    shuffled = random.Random(1).sample(rising, newest)

    def write(order: list[int]) -> list[int]:
        return [n for n in order if store.commit_snapshot(ms.Snapshot("a", n, {"n": n}))]

    def read() -> list[int]:
        seen = [0]
        while seen[-1] < newest:
            snapshot = store.get_snapshot("a")
            if snapshot is not None:
                assert snapshot.body == {"n": snapshot.sequence}
                seen.append(snapshot.sequence)
        return seen

    *stored, seen = in_threads(*(partial(write, order) for order in (rising, rising, rising, shuffled)), read)
    for ever in (*stored, seen):
        assert ever == sorted(ever)
    every = list(chain(*stored))
    assert len(every) == len(set(every))
    assert max(every) == newest
    assert store.get_snapshot("a") == ms.Snapshot("a", newest, {"n": newest})
