"""The schema of a PostgreSQL store: who makes it, where, and what people see of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from postgres_server import database_url, schema_url
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from store_contract import STORABLE, event

import maestro_shm as ms
from maestro_shm.postgres.location import in_schema, schema_of
from maestro_shm.postgres.migration import VERSION, migrate


@pytest.fixture
def url() -> Iterator[str]:
    with schema_url() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[ms.Store]:
    migrate(url)
    with ms.connect(url, allow_reset=True) as store:
        yield store


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.SQL(statement)).fetchall()


def drop(url: str, *schemas: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        for schema in schemas:
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


def test_a_schema_is_made_once_and_stays_as_it_is(url: str) -> None:
    assert migrate(url) == (0, VERSION)
    with ms.connect(url) as store:
        store.commit_events([event("a")])
    assert migrate(url, partitions=4) == (VERSION, VERSION)
    with ms.connect(url) as store:
        assert store.last_position == 1


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_of_those_who_migrate_at_once_one_makes_the_schema(url: str, isolation: str) -> None:
    options = f"{url}%20-cdefault_transaction_isolation%3D{isolation.replace(' ', '%5C%20')}"
    done: list[tuple[int, int]] = []
    threads = [threading.Thread(target=lambda: done.append(migrate(options))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [(0, VERSION)] + [(VERSION, VERSION)] * 3


def test_a_schema_that_is_not_there_is_made_and_those_behind_it_do_not_count(url: str) -> None:
    there = schema_of(url)
    assert there is not None
    missing = f"{there}_missing"
    behind = in_schema(url, missing).replace(f"%22{missing}%22", f"{missing},{there}")
    migrate(url)
    try:
        assert migrate(in_schema(url, missing)) == (0, VERSION)
        with ms.connect(behind) as store, ms.connect(url) as other:
            store.commit_events([event("a")])
            assert (store.last_position, other.last_position) == (1, 0)
        drop(url, missing)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(missing)))
        with pytest.raises(ms.StoreUnavailableError, match="it has no tables yet"):
            ms.connect(behind)
    finally:
        drop(url, missing)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///db?host=/tmp",
        "postgresql://u:a+b@/db?password=a+b&host=/tmp",
        "postgresql://u:a?b#c@host/db",
        "postgresql://a,b:1/db?target_session_attrs=read-write&options=-cgeqo%3Doff%20--search_path%3Dx",
        "postgresql://[::1]:5432",
    ],
)
def test_an_url_gets_another_schema_and_stays_as_it_was(url: str) -> None:
    before = conninfo_to_dict(url)
    after = conninfo_to_dict(in_schema(url, "A.b"))
    assert after.pop("options").split()[-1] == '-csearch_path="A.b"'  # type: ignore[union-attr] # it has options now
    before.pop("options", None)
    assert after == before
    assert schema_of(in_schema(in_schema(url, "a"), "b")) == "b"
    assert len((schema_of(in_schema(url, "\N{SNOWMAN}" * 40)) or "").encode()) <= 63


def test_two_schemas_of_a_database_are_two_stores() -> None:
    with schema_url() as one, schema_url() as other:
        migrate(one)
        migrate(other)
        with ms.connect(one) as first, ms.connect(other) as second:
            first.commit_events([event("a"), event("b")])
            second.commit_events([event("a")])
            assert [store.last_position for store in (first, second)] == [2, 1]
            assert not second.wait(2, timeout=0.2)


def test_a_store_that_was_dropped_and_made_anew_is_another_one(url: str, store: ms.Store) -> None:
    store.commit_events([event("a", n) for n in range(1, 6)])
    with store.subscribe(after=5) as subscription:
        schema = schema_of(url)
        assert schema is not None
        drop(database_url(), schema)
        migrate(url)
        store.commit_events([event("a", n) for n in range(1, 9)])
        with pytest.raises(ms.StoreUnavailableError, match="it was reset"):
            subscription.get(5)


def test_a_reset_that_is_sent_again_forgets_nothing_new(url: str, store: ms.Store) -> None:
    ((former,),) = rows(url, "SELECT incarnation FROM maestro_head")
    store.reset()
    store.commit_events([event("a")])
    rows(url, f"SELECT maestro_reset({former})")
    assert store.last_position == 1


@pytest.mark.parametrize("partitions", [1, 7])
def test_events_in_partitions_are_one_store(url: str, partitions: int) -> None:
    assert migrate(url, partitions) == (0, VERSION)
    (tables,) = rows(url, "SELECT count(*) FROM pg_partition_tree('maestro_events') WHERE isleaf")
    assert tables == (partitions,)
    with ms.connect(url) as store:
        for number in range(1, 4):
            store.commit_events([event(key, number) for key in "abcdefgh"])
        assert [one.position for one in store.read()] == list(range(1, 25))
        assert [one.aggregate_id for one in store.read(8, limit=8)] == list("abcdefgh")
        assert [one.sequence for one in store.get_events("d")] == [1, 2, 3]
        assert store.at(position=12).last_sequence("h") == 2
        assert store.at(position=8).last_sequence("h") == 1
        with pytest.raises(ms.SequenceConflictError):
            store.commit_events([event("new"), event("a", 3)])
        assert store.stats()["events"] == 24
        assert store.last_sequence("new") is None


@pytest.mark.parametrize("wrong", [0, -1, 1025, True, "4", 2.0])
def test_what_is_no_number_of_partitions_is_refused_before_anything_is_made(url: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match="partitions must be None or an int from 1 to 1024"):
        migrate(url, wrong)
    assert rows(url, "SELECT to_regclass('maestro_head') IS NULL") == [(True,)]


def test_ids_and_keys_that_are_too_long_for_an_index_are_kept_whole_and_in_order(store: ms.Store) -> None:
    beginning = "x" * 999
    names = [beginning, beginning + "\N{SNOWMAN}", *(beginning + "y" + str(n) * 3000 for n in range(5)), "y"]
    store.commit_events([event(name) for name in names])
    store.transact(lambda tx: tx.table("t").update(dict.fromkeys(names, 1)))
    assert [one.aggregate_id for one in store.read()] == names
    assert [one.aggregate_id for one in store.read(aggregate_prefix=names[4])] == [names[4]]
    assert list(store.table("t")) == sorted(names)
    for start in names:
        assert [key for key, _ in store.table("t").range(start)] == [name for name in sorted(names) if name >= start]


def test_a_table_of_many_keys_is_read_in_parts(store: ms.Store) -> None:
    keys = [f"key-{number:05}" for number in range(1_300)]
    store.transact(lambda tx: tx.table("t").update({key: n for n, key in enumerate(keys)}))
    store.transact(lambda tx: [tx.table("t").pop(key) for key in keys[100:900]])
    left = keys[:100] + keys[900:]
    assert dict(store.table("t").items()) == {key: n for n, key in enumerate(keys) if key in set(left)}
    assert list(store.table("t")) == left


# For people with psql


def shown(url: str) -> list[tuple[Any, ...]]:
    return rows(url, "SELECT type, body, metadata FROM maestro_events_json ORDER BY position")


def test_people_see_bodies_and_metadata_as_json(url: str, store: ms.Store) -> None:
    body = {
        "number": -1.5,
        "list": [1, -33, 300, -70_000, 2**63, 2**70, -(2**70), True, None],
        "text": "naïve \N{SNOWMAN}" + "x" * 300,
        "nested": {"a": [{}, []], 3: "three"},
        "money": Decimal("1.50"),
        "id": UUID(int=5),
        "when": datetime(2024, 2, 29, 23, 59, 59, 5, tzinfo=UTC),
        "there": datetime(2024, 2, 29, 1, 2, 3, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
        "day": date(2024, 2, 29),
        "hour": time(1, 2, 3),
        "long": timedelta(1, 2, 3),
        "bytes": b"xyz",
        "pair": (1, {2}),
    }
    store.commit_events([ms.Event("a", 1, "made", body, metadata={"by": "me"})])
    ((kind, found, metadata),) = shown(url)
    assert (kind, metadata) == ("made", {"by": "me"})
    assert found == {
        **body,
        "nested": {"a": [{}, []], "3": "three"},
        "money": "1.50",
        "id": "00000000-0000-0000-0000-000000000005",
        "when": "2024-02-29T23:59:59.000005+00:00",
        "there": "2024-02-29T01:02:03.000000-05:30",
        "day": "2024-02-29",
        "hour": "01:02:03.000000",
        "long": "1 days, 2 seconds, 3 microseconds",
        "bytes": "eHl6",
        "pair": [1, [2]],
    }


@pytest.mark.parametrize("value", STORABLE.values(), ids=STORABLE)
def test_whatever_can_be_stored_can_be_shown(url: str, store: ms.Store, value: Any) -> None:
    store.commit_events([ms.Event("a\0", 1, "made", value)])
    ((_, found, _),) = shown(url)
    json.dumps(found)


def test_people_see_events_from_any_search_path(url: str, store: ms.Store) -> None:
    store.commit_events([event("a", body=[{"b": 1}])])
    schema = schema_of(url)
    assert rows(database_url(), f"SELECT body FROM {schema}.maestro_events_json") == [([{"b": 1}],)]


def test_a_long_list_is_shown_soon(url: str, store: ms.Store) -> None:
    store.commit_events([event("a", body=list(range(5_000)))])
    assert shown(url)[0][1] == list(range(5_000))
