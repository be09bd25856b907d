"""Truncated streams of a PostgreSQL store: which rows go, and that nothing fails where they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from postgres_server import schema_url
from store_contract import event

import maestro_shm as ms
from maestro_shm.postgres import migration
from maestro_shm.postgres.migration import migrate
from maestro_shm.postgres.store import PostgresStore


@pytest.fixture
def url() -> Iterator[str]:
    with schema_url() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[ms.Store]:
    migrate(url)
    with ms.connect(url, allow_reset=True) as store:
        yield store


def run(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def fill(store: ms.Store) -> list[ms.Event]:
    stored: list[ms.Event] = []
    for number in range(1, 11):
        stored += store.commit_events([event("a", number, timestamp=number * 1000)])
        stored += store.commit_events([event("b", number)])
    for name in "ab":
        store.commit_snapshot(ms.Snapshot(name, 10, None))
    return stored


def let_time_pass(url: str) -> None:
    """Let so many commits follow that none of those before is sent again."""
    run(url, "UPDATE maestro_head SET commits = commits + 10000")


def test_rows_of_new_commits_lose_their_payload_and_old_ones_go(url: str, store: ms.Store) -> None:
    fill(store)
    store.truncate("a", before=4)
    emptied = run(url, "SELECT sequence FROM maestro_events WHERE length(payload) = 0 ORDER BY sequence")
    assert emptied == [(1,), (2,), (3,)]
    assert run(url, "SELECT count(*) FROM maestro_events_json") == [(17,)]
    let_time_pass(url)
    store.truncate("a", before=7)
    left = run(url, "SELECT sequence FROM maestro_events WHERE aggregate_id = 'a' ORDER BY sequence")
    assert left == [(7,), (8,), (9,), (10,)]
    store.truncate("a", before=100)
    assert run(url, "SELECT sequence, payload FROM maestro_events WHERE aggregate_id = 'a'") == [(10, b"")]
    assert store.stats()["events"] == len(list(store.read())) == 10


def test_a_commit_that_is_sent_again_after_its_event_was_truncated_is_not_done_again(url: str, store: ms.Store) -> None:
    assert isinstance(store, PostgresStore)
    (stored,) = store.commit_events([event("a", 1)])
    ((commit_id, payload),) = run(url, "SELECT commit_id, payload FROM maestro_events")
    store.commit_snapshot(ms.Snapshot("a", 1, None))
    store.truncate("a", before=2)
    with psycopg.connect(url) as connection:
        again = connection.execute(
            "SELECT first_position, timestamps, conflict FROM maestro_commit_events(%b, true, %b, %b, NULL, %b, NULL)",
            (commit_id, [b"a"], [1], [payload]),
        ).fetchone()
    assert again == (1, [stored.timestamp], None)


def test_where_rows_are_gone_the_feed_and_the_past_go_on(url: str, store: ms.Store) -> None:
    stored = fill(store)
    let_time_pass(url)
    store.truncate("a", before=100)
    store.truncate("b", before=6)
    assert [one.position for one in store.read()] == [12, 14, 16, 18, 20]
    assert [[one.position for one in batch] for batch in store._cut().stored_events(0)] == [[12, 14, 16, 18, 20]]  # type: ignore[attr-defined]
    for position in range(21):
        past = store.at(position=position)
        expected = [one for one in (12, 14, 16, 18, 20) if one <= position]
        assert [one.position for one in past.read()] == expected
        # Of the newest event of a stream a row stays, though it is truncated.
        assert past.last_position == max((one for one in (0, *expected, 19) if one <= position), default=0)
    for one in stored[11::2]:
        assert one.timestamp is not None
        assert store.at(time=one.timestamp).last_position == (19 if one.position == 18 else one.position)


def test_the_past_before_all_that_is_left_is_empty(url: str, store: ms.Store) -> None:
    fill(store)
    let_time_pass(url)
    store.truncate("a", before=100)
    store.truncate("b", before=100)
    past = store.at(position=5)
    assert (past.last_position, list(past.read()), past.last_sequence("a")) == (0, [], None)
    assert store.at(position=20).last_sequence("b") == 10


def test_a_transaction_whose_events_are_gone_runs_again_at_a_newer_state(url: str, store: ms.Store) -> None:
    fill(store)
    let_time_pass(url)
    with ms.connect(url) as other:
        runs = 0

        def look(tx: ms.Transaction) -> list[int]:
            nonlocal runs
            runs += 1
            if runs == 1:
                other.commit_events([event("a", 11)])
                other.commit_snapshot(ms.Snapshot("a", 11, None))
                other.truncate("a", before=100)
            return [one.sequence for one in tx.root(ms.Aggregate, "a").store.get_events("a", 11, complete=True)] + [
                one.sequence for one in tx.root(ms.Aggregate, "a").store.get_events("a", 10, complete=True)
            ]

        with pytest.raises(ms.TruncatedError):
            store.transact(look)
        assert runs == 2


def test_a_schema_that_has_events_gets_the_tables_of_truncation(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migration, "VERSION", 1)
        assert migrate(url) == (0, 1)
    with pytest.raises(ms.StoreUnavailableError, match="its schema has version 1"):
        ms.connect(url)
    run(
        url,
        "SELECT maestro_commit_events('0123456789abcdef', false, '{a,a}', '{1,2}', NULL, "
        r"ARRAY['\x93a174c0c0', '\x93a174c0c0']::bytea[], NULL)",
    )
    assert migrate(url) == (1, 2)
    with ms.connect(url) as store:
        assert [one.sequence for one in store.get_events("a")] == [1, 2]
        store.commit_snapshot(ms.Snapshot("a", 2, None))
        store.truncate("a", before=2)
        assert [one.sequence for one in store.get_events("a")] == [2]
