from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

import maestro_shm as ms

RECORDS: dict[str, Any] = {
    "Event": ms.Event("a", 1, "opened", {"n": [1]}, 5, 6, {"by": "me"}),
    "NewEvent": ms.NewEvent("opened", {"n": [1]}, {"by": "me"}),
    "Snapshot": ms.Snapshot("a", 1, {"n": [1]}),
    "Command": ms.Command("open", {"n": [1]}),
}

every_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)


@every_record
def test_no_field_of_a_record_can_be_set_or_deleted(record: Any) -> None:
    for field in fields(record):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field.name, None)
        with pytest.raises(FrozenInstanceError):
            delattr(record, field.name)


@every_record
def test_a_record_has_slots_and_no_dict(record: Any) -> None:
    assert not hasattr(record, "__dict__")
    assert set(type(record).__slots__) == {field.name for field in fields(record)}


@every_record
def test_records_are_equal_iff_all_their_fields_are(record: Any) -> None:
    assert record == copy.deepcopy(record)
    for field in fields(record):
        assert record != replace(record, **{field.name: "other"})


def test_records_of_different_classes_are_never_equal() -> None:
    command: object = ms.Command("open", 1)
    assert command != ms.NewEvent("open", 1)


@every_record
def test_a_record_survives_pickle(record: Any) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(record, protocol)) == record


def test_what_the_caller_need_not_give_is_none() -> None:
    event = ms.Event("a", 1, "opened", {})
    assert (event.timestamp, event.position, event.metadata) == (None, None, None)
    new_event = ms.NewEvent("opened")
    assert (new_event.body, new_event.metadata) == (None, None)
    assert ms.Command("open").data is None


def test_the_largest_sequence_number_is_that_of_63_bits() -> None:
    assert ms.MAX_SEQUENCE == 9_223_372_036_854_775_807


@pytest.mark.parametrize(
    "record", [ms.Event("a", 5, "opened", None), ms.Snapshot("a", 5, None)], ids=["Event", "Snapshot"]
)
@pytest.mark.parametrize(
    ("low", "high", "inside"),
    [(5, 5, True), (4, 6, True), (5, 9, True), (0, 5, True), (6, 9, False), (0, 4, False), (6, 4, False)],
)
def test_in_range_includes_both_bounds(record: ms.Event | ms.Snapshot, low: int, high: int, inside: bool) -> None:  # noqa: FBT001 (a column of the table)
    assert ms.in_range(record, low, high) is inside
