from __future__ import annotations

import pickle
from typing import Any

import pytest
from store_contract import event, exactly

import maestro_shm as ms
from maestro_shm import codec, validation
from maestro_shm.clock import MAX_TIMESTAMP
from maestro_shm.options import DEFAULT_COMMIT_BYTES, RECORD_OVERHEAD

ROOM = DEFAULT_COMMIT_BYTES


def refused(*events: Any, limit: int = ROOM) -> ms.InvalidEventError:
    with pytest.raises(ms.InvalidEventError) as caught:
        validation.pack_events(events, limit)
    return caught.value


def test_packed_events_are_what_was_given_in_the_order_given() -> None:
    given = [event("b", 2, (1,), metadata={"k": 1}), event("a", 0, timestamp=7), event("b", 3, type="closed")]
    packed = validation.pack_events(iter(given), ROOM)
    assert [facts for *facts, _ in packed] == [["b", 2, None], ["a", 0, 7], ["b", 3, None]]
    for (aggregate_id, sequence, _, payload), wanted in zip(packed, given, strict=True):
        again = codec.unpack_event(aggregate_id, sequence, 1, 2, payload)
        assert exactly((again.type, again.body, again.metadata)) == exactly((wanted.type, wanted.body, wanted.metadata))


def test_no_events_are_valid() -> None:
    assert validation.pack_events([], 0) == []


def test_sequences_of_different_aggregates_are_compared_each_with_its_own() -> None:
    events = [event("a", 5), event("b", 1), event("a", 6), event("b", 2)]
    assert len(validation.pack_events(events, ROOM)) == 4


@pytest.mark.parametrize("timestamp", [None, 0, MAX_TIMESTAMP])
@pytest.mark.parametrize("sequence", [0, ms.MAX_SEQUENCE])
def test_the_limits_themselves_are_valid(sequence: int, timestamp: int | None) -> None:
    (packed,) = validation.pack_events([event("a", sequence, timestamp=timestamp)], ROOM)
    assert packed[:3] == ("a", sequence, timestamp)


def test_a_refusal_says_which_event_of_the_commit_is_meant() -> None:
    error = refused(event("fine", 1), event("ann", 7, [object()]), event("bob", 8, object()))
    assert (error.aggregate_id, error.sequence) == ("ann", 7)
    assert (
        str(error)
        == "body[0]: cannot store a value of type object: no exact way back from bytes (aggregate 'ann', sequence 7)"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"sequence": -1},
        {"sequence": "7"},
        {"type": ""},
        {"timestamp": -1},
        {"metadata": []},
        {"metadata": {1.5: 1}},
        {"body": b"x" * ROOM},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_refused_event_is_named_by_its_aggregate_and_sequence(fields: dict[str, Any]) -> None:
    error = refused(event(**{"aggregate_id": "ann", "sequence": 7, **fields}))
    assert error.aggregate_id == "ann"
    assert error.sequence == fields.get("sequence", 7)


def test_a_sequence_that_does_not_rise_is_refused_with_the_one_before() -> None:
    error = refused(event("a", 3), event("b", 9), event("a", 3))
    assert error.reason == "its sequence does not rise above 3 within the commit"
    assert (error.aggregate_id, error.sequence) == ("a", 3)


@pytest.mark.parametrize(
    "bad",
    [
        event("a", 10**5000),
        event("a", 1, timestamp=10**5000),
        event(10**5000, 1),
        event("a", 1, type=10**5000),
        event("a", 1, metadata=10**5000),
        10**5000,
    ],
    ids=["sequence", "timestamp", "aggregate_id", "type", "metadata", "event"],
)
def test_an_int_too_long_to_print_is_refused_like_any_other_fault(bad: Any) -> None:
    assert str(refused(bad))


def test_a_bound_too_long_to_print_beside_one_of_a_wrong_type_is_refused_like_any_other_fault() -> None:
    with pytest.raises(ms.InvalidEventError):
        validation.check_bounds(10**5000, None)


def test_a_record_counts_its_id_in_bytes_and_its_payload_and_an_overhead() -> None:
    assert validation.record_size("abc", b"12345") == 3 + 5 + RECORD_OVERHEAD
    assert validation.record_size("\N{SNOWMAN}", b"") == 3 + RECORD_OVERHEAD


@pytest.mark.parametrize("aggregate_id", ["a", "\N{SNOWMAN}" * 10])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_commit_may_fill_the_limit_but_not_go_over_it(count: int, aggregate_id: str) -> None:
    events = [event(aggregate_id, n, "body") for n in range(count)]
    size = sum(validation.record_size(aggregate_id, codec.pack_event(one)) for one in events)
    assert len(validation.pack_events(events, size)) == count
    error = refused(*events, limit=size - 1)
    assert f"the commit has {size:,} bytes, over the cap of {size - 1:,}" in str(error)
    assert error.sequence == count - 1


def test_a_snapshot_may_fill_the_limit_but_not_go_over_it() -> None:
    snapshot = ms.Snapshot("ann", 3, {"n": (1,)})
    payload = codec.pack_body(snapshot.body)
    size = validation.record_size("ann", payload)
    assert validation.pack_snapshot(snapshot, size) == payload
    with pytest.raises(ms.InvalidEventError, match="over the cap") as caught:
        validation.pack_snapshot(snapshot, size - 1)
    assert (caught.value.aggregate_id, caught.value.sequence) == ("ann", 3)


def test_an_endless_commit_is_refused_as_soon_as_it_is_too_large() -> None:
    def endless() -> Any:
        n = 0
        while True:
            yield event("a", n)
            n += 1

    with pytest.raises(ms.InvalidEventError, match="over the cap"):
        validation.pack_events(endless(), 10_000)


@pytest.mark.parametrize("aggregate_id", ["", None, b"a", 1, ("a",), "\udc80"], ids=repr)
def test_what_is_no_aggregate_id_is_refused(aggregate_id: object) -> None:
    with pytest.raises(ms.InvalidEventError) as caught:
        validation.check_aggregate_id(aggregate_id)
    assert repr(aggregate_id) in str(caught.value)


@pytest.mark.parametrize(
    "aggregate_id",
    ["a", "\0", " ", "\ufffe", "\U0010ffff", "x" * 65_535, "\N{SNOWMAN}" * 21_845],
    ids=lambda name: ascii(name[:9]),
)
def test_any_other_text_is_an_aggregate_id(aggregate_id: str) -> None:
    validation.check_aggregate_id(aggregate_id)


@pytest.mark.parametrize("aggregate_id", ["x" * 65_536, "\N{SNOWMAN}" * 21_846], ids=["ascii", "snowmen"])
def test_an_aggregate_id_has_at_most_65535_bytes(aggregate_id: str) -> None:
    with pytest.raises(ms.InvalidEventError, match=r"at most 65,535 bytes, not 65,53[68]"):
        validation.check_aggregate_id(aggregate_id)


class SpecialEvent(ms.Event):
    pass


class SpecialSnapshot(ms.Snapshot):
    pass


def test_a_subclass_of_a_record_is_refused_since_it_would_not_come_back_as_one() -> None:
    with pytest.raises(ms.InvalidEventError, match="not an Event"):
        validation.pack_events([SpecialEvent("a", 1, "happened", None)], ROOM)
    with pytest.raises(ms.InvalidEventError, match="not a Snapshot"):
        validation.pack_snapshot(SpecialSnapshot("a", 1, None), ROOM)


def test_a_refusal_can_be_pickled_whatever_was_refused() -> None:
    error = refused(event(sequence=lambda: 1))
    assert pickle.loads(pickle.dumps(error)).sequence == error.sequence
    assert "lambda" in str(error)


@pytest.mark.parametrize("bounds", [(0, 0), (5, 1), (-1, 2**70)])
def test_any_integers_are_bounds(bounds: tuple[int, int]) -> None:
    validation.check_bounds(*bounds)


@pytest.mark.parametrize("bounds", [(None, 1), (0, None), (0.0, 1), (0, 1.0), (True, 1), (0, False), ("0", 1)])
def test_what_is_no_integer_is_no_bound(bounds: tuple[object, object]) -> None:
    with pytest.raises(ms.InvalidEventError, match="bounds of a read must be integers"):
        validation.check_bounds(*bounds)
