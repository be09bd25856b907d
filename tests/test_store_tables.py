"""Tables, one rule per test, over every kind of store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger import count, put
from store_contract import STORABLE, event, exactly, in_threads

import maestro_shm as ms

MakeStore = Callable[..., ms.Store]


def test_a_table_that_nobody_wrote_to_is_empty(store: ms.Store) -> None:
    table = store.table("t")
    assert (dict(table), len(table), "x" in table, table.get("x")) == ({}, 0, False, None)
    with pytest.raises(KeyError, match="x"):
        table["x"]


@pytest.mark.parametrize("name", STORABLE)
def test_a_value_comes_back_exactly(store: ms.Store, name: str) -> None:
    store.transact(put, "t", x=STORABLE[name])
    assert exactly(store.table("t")["x"]) == exactly(STORABLE[name])
    assert exactly(store.transact(lambda tx: tx.table("t")["x"])) == exactly(STORABLE[name])
    assert "x" in store.table("t")


def test_a_table_is_a_mapping_in_the_order_of_its_keys(store: ms.Store) -> None:
    values = {"b": 2, "a": 1, "": 0, "\N{SNOWMAN}": 4, "c\0": 3}
    store.transact(lambda tx: tx.table("t").update(values))
    table = store.table("t")
    assert isinstance(table, Mapping)
    assert list(table) == sorted(values) == list(table.keys())
    assert list(table.items()) == sorted(values.items())
    assert list(table.values()) == [values[key] for key in sorted(values)]
    assert table == values
    assert len(table) == 5
    assert repr(table) == "<Table 't'>"


def test_a_range_begins_with_its_start_and_ends_before_its_stop(store: ms.Store) -> None:
    store.transact(put, "t", a=1, b=2, ba=3, c=4)
    table = store.table("t")
    assert list(table.range("b", "c")) == [("b", 2), ("ba", 3)]
    assert list(table.range(stop="b")) == [("a", 1)]
    assert list(table.range("bb")) == [("c", 4)]
    assert list(table.range()) == list(table.items())
    assert list(table.prefix("b")) == [("b", 2), ("ba", 3)]
    assert list(table.prefix("x")) == []
    assert list(table.prefix("")) == list(table.items())


def test_a_table_is_read_at_one_cut_however_long_it_takes(store: ms.Store) -> None:
    store.transact(put, "t", a=1, b=1, c=1)
    items = iter(store.table("t").items())
    seen = [next(items)]
    store.transact(put, "t", b=2, d=2)
    store.transact(lambda tx: tx.table("t").delete("c"))
    seen += items
    assert seen == [("a", 1), ("b", 1), ("c", 1)]
    assert dict(store.table("t")) == {"a": 1, "b": 2, "d": 2}


def test_tables_have_nothing_to_do_with_each_other_nor_with_aggregates(store: ms.Store) -> None:
    store.transact(put, "t", x=1)
    store.transact(put, "tt", x=2)
    store.commit_events([event("t"), event("t\0x")])
    assert (dict(store.table("t")), dict(store.table("tt"))) == ({"x": 1}, {"x": 2})
    figures = store.stats()
    assert (figures["events"], figures["aggregates"], figures["last_position"]) == (2, 2, 2)


def test_what_is_deleted_is_gone_and_may_come_back(store: ms.Store) -> None:
    store.transact(put, "t", x=1, y=1)
    assert store.transact(lambda tx: tx.table("t").delete("x"))
    assert dict(store.table("t")) == {"y": 1}
    assert not store.transact(lambda tx: tx.table("t").delete("x"))
    store.transact(put, "t", x=2)
    assert dict(store.table("t")) == {"x": 2, "y": 1}


def test_an_insert_puts_only_where_nothing_is(store: ms.Store) -> None:
    def insert(tx: ms.Transaction, value: int) -> tuple[bool, Any]:
        return tx.table("t").insert("x", value), tx.table("t").setdefault("x", value)

    assert store.transact(insert, 1) == (True, 1)
    assert store.transact(insert, 2) == (False, 1)


def test_a_transaction_reads_its_own_changes(store: ms.Store) -> None:
    store.transact(put, "t", a=1, b=1, c=1)

    def change(tx: ms.Transaction) -> None:
        table = tx.table("t")
        table["b"] = 2
        del table["c"]
        table["d"] = table["b"] + 1
        assert dict(table) == dict(tx.table("t")) == {"a": 1, "b": 2, "d": 3}
        assert len(table) == 3
        assert list(table.prefix("d")) == [("d", 3)]
        assert "c" not in table
        with pytest.raises(KeyError):
            del table["c"]
        table["c"] = 4
        assert table.pop("d") == 3

    store.transact(change)
    assert dict(store.table("t")) == {"a": 1, "b": 2, "c": 4}


def test_a_transaction_may_change_what_it_goes_through(store: ms.Store) -> None:
    store.transact(put, "t", a=1, b=2, c=3)

    def double(tx: ms.Transaction) -> None:
        for key, value in tx.table("t").items():
            tx.table("t")[key] = value * 2
            tx.table("t").delete("c")

    store.transact(double)
    assert dict(store.table("t")) == {"a": 2, "b": 4}


def test_a_count_that_many_keep_is_right(store: ms.Store) -> None:
    in_threads(*(lambda: [store.transact(count) for _ in range(20)] for _ in range(4)))
    assert store.table("counters")["n"] == 80


@pytest.mark.parametrize("look", [len, list, lambda table: list(table.prefix("k"))])
def test_who_has_gone_through_a_table_conflicts_with_whoever_adds_a_key(
    store: ms.Store, look: Callable[[Any], Any]
) -> None:
    def add_unless_there_are_two(tx: ms.Transaction, key: str) -> None:
        look(tx.table("t"))
        if len(tx.table("t")) < 2:
            tx.table("t")[key] = None

    in_threads(*(lambda number=number: store.transact(add_unless_there_are_two, f"k{number}") for number in range(6)))
    assert len(store.table("t")) == 2


def test_who_has_gone_through_the_keys_does_not_conflict_with_another_value(store: ms.Store) -> None:
    store.transact(put, "t", a=1)
    rivals = iter([True])
    runs = []

    def look(tx: ms.Transaction) -> None:
        runs.append(list(tx.table("t")))
        if next(rivals, False):
            in_threads(lambda: store.transact(put, "t", a=2))
        tx.table("other")["x"] = 1

    store.transact(look)
    assert runs == [["a"]]


def test_that_a_key_is_not_there_is_a_read_like_any_other(store: ms.Store) -> None:
    rivals = iter([True])
    runs = []

    def look(tx: ms.Transaction) -> None:
        runs.append(tx.table("t").get("a"))
        if next(rivals, False):
            in_threads(lambda: store.transact(put, "t", a=2))
        tx.table("other")["x"] = 1

    store.transact(look)
    assert runs == [None, 2]


def test_nothing_is_written_blindly(store: ms.Store) -> None:
    rivals = iter([True])
    runs = []

    def write(tx: ms.Transaction) -> None:
        runs.append(tx)
        tx.table("t")["a"] = 1
        if next(rivals, False):
            in_threads(lambda: store.transact(put, "t", a=2))

    store.transact(write)
    assert len(runs) == 2
    assert store.table("t")["a"] == 1


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 256, "\N{SNOWMAN}" * 86, 5, None, b"t"])
def test_what_cannot_be_the_name_of_a_table_is_refused(store: ms.Store, name: Any) -> None:
    for get in (store.table, lambda name: store.transact(lambda tx: tx.table(name))):
        with pytest.raises(ms.InvalidEntryError, match="the name of a table must"):
            get(name)


@pytest.mark.parametrize("key", ["\ud800", "x" * 65_280, 5, None, b"k"])
def test_what_cannot_be_a_key_is_refused(store: ms.Store, key: Any) -> None:
    def change(tx: ms.Transaction) -> None:
        for use in (tx.table("t").get, lambda key: tx.table("t").put(key, 1), tx.table("t").delete):
            with pytest.raises(ms.InvalidEntryError, match="a key must"):
                use(key)

    store.transact(change)
    table = store.table("t")
    for use in (table.get, table.prefix, table.__contains__, lambda key: table.range("a", key or "\ud800")):
        with pytest.raises(ms.InvalidEntryError, match="a key must"):
            use(key)


def test_the_longest_names_and_keys_are_stored(store: ms.Store) -> None:
    name, key = "t" * 255, "\N{SNOWMAN}" * (65_279 // 3)
    store.transact(lambda tx: tx.table(name).put(key, 1))
    assert dict(store.table(name)) == {key: 1}


def test_a_reset_forgets_tables(store: ms.Store) -> None:
    table = store.table("t")
    store.transact(put, "t", x=1)
    assert len(table) == 1
    store.reset()
    assert dict(table) == {}
    store.transact(put, "t", y=1)
    assert dict(table) == {"y": 1}


def test_tables_of_a_closed_store_are_closed(make_store: MakeStore) -> None:
    store = make_store()
    table = store.table("t")
    store.close()
    for use in (lambda: table.get("x"), lambda: list(table), lambda: store.transact(count)):
        with pytest.raises(ms.StoreClosedError):
            use()


steps = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "insert"]), st.sampled_from(["", "a", "aa", "b", "\0"]), st.integers()),
    max_size=6,
)


# Each example begins with an empty store.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transactions=st.lists(st.tuples(steps, st.booleans()), max_size=8))
def test_a_table_is_what_a_dict_would_be(
    kept_stores: Callable[[str], ms.Store], store_kind: str, transactions: list[tuple[list[Any], bool]]
) -> None:
    store = kept_stores(store_kind)
    store.reset()
    model: dict[str, int] = {}

    def apply(tx: ms.Transaction, todo: list[tuple[str, str, int]], *, fails: bool) -> dict[str, int]:
        expected = dict(model)
        table = tx.table("t")
        for what, key, value in todo:
            if what == "put":
                expected[key] = table[key] = value
            elif what == "insert":
                assert table.insert(key, value) == (key not in expected)
                expected.setdefault(key, value)
            else:
                assert table.delete(key) == (expected.pop(key, None) is not None)
            assert dict(table) == expected
        if fails:
            raise ZeroDivisionError
        return expected

    for todo, fails in transactions:
        if fails:
            with pytest.raises(ZeroDivisionError):
                store.transact(apply, todo, fails=True)
        else:
            model = store.transact(apply, todo, fails=False)
        assert list(store.table("t").items()) == sorted(model.items())
        assert {key: store.table("t").get(key) for key in model} == model
