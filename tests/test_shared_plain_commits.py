"""Commits of one event have a way of their own through client, server and journal; they end as by the usual one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from books import CAP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import maestro_shm as ms
from maestro_shm import validation
from maestro_shm.errors import InvalidEventError, StoreError
from maestro_shm.shared.frame import COMMIT_ID_BYTES
from maestro_shm.shared.journal import Journal

sequences = st.integers(0, ms.MAX_SEQUENCE)


ids = st.sampled_from(["a", "b", "ü", "c" * 300])
good = st.tuples(ids, st.integers(0, 12), st.binary(max_size=40) | st.just(bytes(30_000)))
anything: st.SearchStrategy[Any] = st.sampled_from(
    [None, -1, ms.MAX_SEQUENCE + 1, True, 2.0, "", "\ud800", b"a", [], bytes(CAP)]
)
bad = st.tuples(ids | anything, st.integers(0, 12) | anything, st.binary(max_size=40) | anything)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands, so that both journals give the same timestamps."""
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)


@pytest.fixture
def twins(tmp_path: Path, still: None) -> Iterator[tuple[Journal, Journal]]:
    del still
    journals = []
    for name in ("usual", "plain"):
        (tmp_path / name).mkdir()
        journals.append(Journal.open(tmp_path / name, max_commit_bytes=CAP))
    yield journals[0], journals[1]
    for journal in journals:
        journal.close()


def usual(journal: Journal, commit_id: Any, row: tuple[Any, Any, Any]) -> Any:
    aggregate_id, sequence, payload = row
    try:
        return journal.commit_events(commit_id, [(aggregate_id, sequence, None, payload)], resent=None)
    except (StoreError, TypeError) as error:
        return repr(error)


def content(journal: Journal) -> dict[str, bytes]:
    found = {}
    for path in journal.directory.iterdir():
        with path.open("rb") as file:
            found[path.name] = file.read(CAP)  # the commits are in there
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(rows=st.lists(good | bad, max_size=30), wrong_id=st.integers(0, 60))
def test_a_commit_of_one_event_is_stored_the_plain_way_as_it_is_the_usual_way(
    rows: list[tuple[Any, Any, Any]], wrong_id: int, tmp_path_factory: pytest.TempPathFactory, still: None
) -> None:
    del still
    directory = tmp_path_factory.mktemp("twins")
    journals = []
    for name in ("usual", "plain"):
        (directory / name).mkdir()
        journals.append(Journal.open(directory / name, max_commit_bytes=CAP))
    by_the_usual_way, by_the_plain_way = journals
    try:
        for number, row in enumerate(rows):
            commit_id: Any = number.to_bytes(COMMIT_ID_BYTES) if number != wrong_id else "an id"
            expected = usual(by_the_usual_way, commit_id, row)
            aggregate_id, sequence, payload = row
            answer: Any = by_the_plain_way.commit_event(commit_id, aggregate_id, sequence, payload)
            if answer is None:
                answer = usual(by_the_plain_way, commit_id, row)
            assert answer == expected
        assert by_the_plain_way.last_position == by_the_usual_way.last_position
        assert content(by_the_plain_way) == content(by_the_usual_way)
    finally:
        for journal in journals:
            journal.close()


def test_the_second_event_of_a_stream_goes_the_plain_way(twins: tuple[Journal, Journal]) -> None:
    _, journal = twins
    commit_ids = [number.to_bytes(COMMIT_ID_BYTES) for number in range(3)]
    assert journal.commit_event(commit_ids[0], "a", 1, b"payload") is None
    journal.commit_events(commit_ids[0], [("a", 1, None, b"payload")], resent=None)
    assert journal.commit_event(commit_ids[1], "a", 2, b"payload") is not None
    assert journal.commit_event(commit_ids[2], "a", 2, b"payload") is None


def test_one_that_must_not_write_takes_no_plain_way(twins: tuple[Journal, Journal], tmp_path: Path) -> None:
    former, _ = twins
    former.commit_events(bytes(COMMIT_ID_BYTES), [("a", 1, None, b"payload")], resent=None)
    latter = Journal.open(tmp_path / "usual", max_commit_bytes=CAP)
    try:
        assert former.commit_event(bytes(COMMIT_ID_BYTES), "a", 2, b"payload") is None
    finally:
        latter.close()


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
bodies = st.recursive(values, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
strange = st.sampled_from([None, -1, 2**63, True, 1.5, "", "\ud800", "x" * 70_000, b"b", {1.5: 2}, bytearray(), {}])
proposed = st.builds(
    ms.Event,
    aggregate_id=st.text(max_size=80) | strange,
    sequence=sequences | strange,
    type=st.text(max_size=8) | strange,
    body=bodies | st.just("b" * 700) | st.just(object()) | strange,
    timestamp=st.none() | sequences | strange,
    metadata=st.none() | st.just({"by": "me"}) | strange,
)


@given(event=proposed | st.just("no event"))
def test_a_plain_event_is_packed_as_any(event: Any) -> None:
    plain = validation.pack_plain(event)
    try:
        packed = validation.pack_events([event], 1024)
    except InvalidEventError:
        assert plain is None
    else:
        assert plain in (None, packed[0])


def test_the_usual_events_are_plain() -> None:
    body = {"amount": 12345, "note": "x" * 150, "tags": ["a", "b"], "ok": True}
    assert validation.pack_plain(ms.Event("account-1", 7, "deposited", body)) is not None
    assert validation.pack_plain(ms.Event("счёт-1", 0, "открыт", None)) is not None
