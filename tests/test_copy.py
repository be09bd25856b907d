from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from postgres_server import schema_url
from processes import PATIENCE, named_target, wait_until
from store_contract import STORABLE, STORES, event, exactly

import maestro_shm as ms
from maestro_shm import copying
from maestro_shm.__main__ import main
from maestro_shm.ahead import ahead
from maestro_shm.backend import Backend
from maestro_shm.clock import MAX_TIMESTAMP
from maestro_shm.copy_mark import TABLE
from maestro_shm.postgres.migration import migrate
from maestro_shm.transfer import Transfer
from maestro_shm.verification import Verification

LONG = "ä" * 30_000
"""Longer than a database's key may be."""
TABLES = ("names", "t\N{SNOWMAN}", "emptied", "maestro_shm/projection/p/1/x")


@pytest.fixture
def target_of(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """The target of a store that is not there yet, by its kind."""
    with ExitStack() as stack:

        def make(kind: str) -> str:
            if kind == "named":
                return stack.enter_context(named_target())
            if kind == "postgres":
                url = stack.enter_context(schema_url())
                migrate(url)
                return url
            target = str(tmp_path / f"store-{len(list(tmp_path.iterdir()))}")
            stack.callback(_destroy, target)
            return target

        yield make


def _destroy(target: str) -> None:
    if Path(target).exists():
        ms.destroy(target)


def copy(*arguments: str) -> int:
    return main(["copy", *arguments])


@contextmanager
def copier(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-W", "default:shared memory:RuntimeWarning", "-m", "maestro_shm", "copy"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def fill(store: ms.Store) -> None:
    for number, (name, value) in enumerate(STORABLE.items()):
        store.commit_events(
            [
                event(name, 3 * number, value, metadata={"why": value}),
                event("many\0", number, value, type="\N{SNOWMAN}"),
                event(name, 3 * number + 2, type="x", metadata={}),
            ]
        )
    store.commit_events([event(LONG, 1, timestamp=0), event(LONG + "x", ms.MAX_SEQUENCE, timestamp=7)])
    store.commit_events([event(LONG, 2)])
    for name, value in [*STORABLE.items(), (LONG, 1), ("without events\0", 2)]:
        store.commit_snapshot(ms.Snapshot(name, 1, value))
        store.commit_snapshot(ms.Snapshot(name, 5, value))
    store.transact(fill_tables)
    store.transact(lambda tx: tx.table("emptied").delete("a"))
    store.transact(lambda tx: tx.table("names").delete("str"))


def fill_tables(tx: Any) -> None:
    for name, value in STORABLE.items():
        tx.table("names")[name] = value
    for key in ("", "\0", "\U0001f600", LONG, LONG + "a"):
        tx.table(TABLES[1])[key] = key[:10]
    tx.table("emptied")["a"] = 1
    tx.table(TABLES[3])["k"] = 1


def content(store: ms.Store) -> Any:
    """All that can be read of it, but for the mark of a copy."""
    events = list(store.read())
    names = [name for name in backend(store)._cut().table_names() if name != TABLE]
    tables = {name: dict(store.table(name)) for name in names}
    return exactly(
        {
            "events": events,
            "streams": {name: store.get_events(name) for name in {e.aggregate_id for e in events}},
            "commits": [store.at(position=e.position).last_position for e in events[:: max(1, len(events) // 300)]],
            "snapshots": {s.aggregate_id: store.get_snapshot(s.aggregate_id) for s in snapshots(store)},
            "tables": {name: entries for name, entries in tables.items() if entries},
            "aggregates": store.stats()["aggregates"],
        }
    )


def snapshots(store: ms.Store) -> list[Any]:
    return sorted(backend(store)._cut().stored_snapshots())


def backend(store: ms.Store) -> Backend:
    assert isinstance(store, Backend)
    return store


@pytest.mark.parametrize(
    ("source", "target"),
    [("named", "path"), ("named", "postgres"), ("postgres", "named"), ("path", "named")],
)
def test_a_copy_is_the_same_to_the_last_bit(
    source: str, target: str, target_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = target_of(source), target_of(target)
    with ms.connect(names[0]) as original:
        fill(original)
        expected = content(original)
        assert copy(*names) == 0
        assert "is the same as" in capsys.readouterr().out
        with ms.connect(names[1]) as other:
            assert content(other) == expected
            (own,) = other.commit_events([event("new")])
            assert own.position == original.last_position + 1
            assert own.timestamp is not None
            assert own.timestamp > max(e.timestamp or 0 for e in original.read())
    # It is no copy any more.
    assert copy(*names) == 1
    assert "is no copy of" in capsys.readouterr().err


def test_the_clock_of_a_copy_goes_on_behind_the_highest_timestamp(target_of: Callable[[str], str]) -> None:
    for kind in ("named", "postgres"):
        names = target_of("path"), target_of(kind)
        with ms.connect(names[0]) as original:
            original.commit_events([event("a", 1, timestamp=MAX_TIMESTAMP - 9)])
        assert copy(*names) == 0
        with ms.connect(names[1]) as other:
            (own,) = other.commit_events([event("a", 2)])
            assert own.timestamp is not None
            assert own.timestamp > MAX_TIMESTAMP - 9
            assert other.at(time=MAX_TIMESTAMP - 9).last_position == 1


def test_a_clock_that_has_gone_beyond_what_callers_may_give_is_kept(target_of: Callable[[str], str]) -> None:
    names = target_of("named"), target_of("path")
    with ms.connect(names[0]) as original:
        original.commit_events([event("a", 1, timestamp=MAX_TIMESTAMP)])
        original.commit_events([event("a", 2)])
        assert copy(*names) == 0
        with ms.connect(names[1]) as other:
            assert other.get_events("a") == original.get_events("a")


def test_a_copy_of_another_store_without_events_is_no_copy_of_this_one(
    target_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, target = target_of("named"), target_of("postgres"), target_of("path")
    with ms.connect(first) as one, ms.connect(second) as other:
        one.transact(put_one, "x", 1)
        other.transact(put_one, "y", 2)
    assert copy(first, target) == 0
    assert copy(second, target) == 1
    assert f"it is a copy of {first}, not of postgresql://" in capsys.readouterr().err
    assert copy(first, target) == 0


def test_a_new_target_takes_commits_as_large_as_a_database_does(target_of: Callable[[str], str]) -> None:
    source, target = target_of("postgres"), target_of("path")
    with ms.connect(source, max_commit_bytes=8 << 20) as original:
        original.commit_events([event("a", 1, "x" * (2 << 20))])
        original.commit_snapshot(ms.Snapshot("a", 1, "y" * (3 << 20)))
    assert copy(source, target) == 0


@pytest.mark.parametrize("target", ["path", "postgres"])
def test_a_second_copy_brings_what_has_changed(target: str, target_of: Callable[[str], str]) -> None:
    names = target_of("named"), target_of(target)
    with ms.connect(names[0]) as original:
        fill(original)
        assert copy(*names) == 0
        original.commit_events([event(LONG, 9), event("new", 1)])
        original.commit_snapshot(ms.Snapshot(LONG, 9, "newer"))
        original.transact(change_tables)
        assert copy(*names) == 0
        with ms.connect(names[1]) as other:
            assert content(other) == content(original)
        original.transact(lambda tx: tx.table("names").put("zero", "back again"))
        assert copy(*names) == copy(*names) == 0
        with ms.connect(names[1]) as other:
            assert content(other) == content(original)


def change_tables(tx: Any) -> None:
    tx.table("names")["new"] = 1
    tx.table("names")["one"] = "changed"
    del tx.table("names")["zero"]
    for key in [*tx.table(TABLES[1])]:
        del tx.table(TABLES[1])[key]
    tx.table("emptied")["a"] = 2


@pytest.mark.parametrize("target", ["path", "postgres"])
def test_consumers_and_projections_go_on_where_they_were(target: str, target_of: Callable[[str], str]) -> None:
    names = target_of("named"), target_of(target)
    with ms.connect(names[0]) as original:
        original.commit_events([event("a", number) for number in range(1, 6)])
        with original.subscription("billing", partitions=2) as billing:
            for expected in (1, 2, 3):
                found = billing.get(timeout=PATIENCE)
                assert found is not None
                assert found.sequence == expected
                billing.ack(found)
        original.projector("count", Count()).catch_up()
    assert copy(*names) == 0
    with ms.connect(names[1]) as other:
        with other.subscription("billing") as billing:
            assert [next(billing).sequence] == [4]
        counting = Count()
        projector = other.projector("count", counting)
        projector.catch_up()
        assert counting.calls == 0
        other.commit_events([event("a", 6)])
        projector.catch_up()
        assert (counting.calls, projector.table("count")["a"]) == (1, 6)


class Count:
    def __init__(self) -> None:
        self.calls = 0

    def project(self, event: ms.Event, tables: ms.Tables) -> None:
        self.calls += 1
        table = tables["count"]
        table[event.aggregate_id] = table.get(event.aggregate_id, 0) + 1


def fill_much(store: ms.Store, events: int) -> None:
    done = 0
    while done < events:
        size = 1 + done % 7
        store.commit_events([event(f"a{number % 50}", done + number, "x" * 50) for number in range(size)])
        done += size
    for number in range(50):
        store.commit_snapshot(ms.Snapshot(f"a{number}", number, number))
    store.transact(lambda tx: tx.table("t").update({f"{number}": number for number in range(1_500)}))


@pytest.mark.parametrize("target", ["path", "postgres"])
def test_a_copy_that_is_killed_at_any_moment_goes_on(target: str, target_of: Callable[[str], str]) -> None:
    names = target_of("named"), target_of(target)
    chance = random.Random(7)
    with ms.connect(names[0]) as original:
        fill_much(original, 4_000)
        ends = {original.at(position=e.position).last_position for e in original.read()}
        for _ in range(3):
            with copier(*names) as process:
                time.sleep(chance.uniform(0.2, 0.8))
                process.kill()
                process.wait(PATIENCE)
            with ms.connect(names[1], **({"max_commit_bytes": 1 << 20} if target == "path" else {})) as other:
                assert other.last_position in {0, *ends}
        assert copy(*names) == 0
        with ms.connect(names[1]) as other:
            assert content(other) == content(original)


def test_a_copy_is_interrupted_and_goes_on(target_of: Callable[[str], str]) -> None:
    names = target_of("named"), target_of("path")
    with ms.connect(names[0]) as original:
        fill_much(original, 12_000)
        with copier(*names) as process:
            assert process.stderr is not None
            while not process.stderr.readline().startswith("events: 0 of"):
                pass
            with ms.connect(names[1]) as other:
                wait_until(lambda: other.last_position, "some are copied")
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            assert process.wait(PATIENCE) == 130
        assert said.endswith("interrupted; the same command goes on where it was\n")
        with ms.connect(names[1]) as other:
            assert 0 < other.last_position < original.last_position
        with copier(*names) as process:
            out, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert "events: 0 of" not in said
        assert out.startswith(f"{names[1]} is the same as {names[0]} up to position {original.last_position:,}: ")
        assert out.endswith(f"{original.last_position:,} events, 50 snapshots, and 1,500 entries of 1 tables\n")


def test_on_a_terminal_there_is_a_bar(target_of: Callable[[str], str]) -> None:
    names = target_of("named"), target_of("path")
    with ms.connect(names[0]) as original:
        fill_much(original, 2_000)
    here, there = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "maestro_shm", "copy", *names], stdout=subprocess.DEVNULL, stderr=there
    ) as process:
        assert process.wait(PATIENCE) == 0
    said = os.read(here, 1 << 16).decode()
    os.close(here)
    os.close(there)
    assert "\r\x1b[K[........................] events: 0 of " in said
    assert "[########################] events: " in said


def test_the_source_may_be_written_to_meanwhile(target_of: Callable[[str], str]) -> None:
    names = target_of("named"), target_of("postgres")
    with ms.connect(names[0]) as original:
        fill_much(original, 3_000)
        done = threading.Event()

        def write() -> None:
            for number in range(1, 100_000):
                if done.is_set():
                    return
                original.commit_events([event("meanwhile", number), event(f"new-{number}", 1)])
                original.commit_snapshot(ms.Snapshot("meanwhile", number, number))
                original.transact(put_one, f"new-{number % 9}", number)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            wait_until(lambda: original.last_sequence("meanwhile"), "it is written to")
            assert copy(*names) == 0
            with ms.connect(names[1]) as other:
                position = other.last_position
                assert list(other.read()) == list(original.read(limit=position))
        finally:
            done.set()
            writer.join()
        assert position < original.last_position
        assert copy(*names) == 0
        with ms.connect(names[1]) as other:
            assert content(other) == content(original)


def put_one(tx: Any, key: str, value: int) -> None:
    tx.table("t")[key] = value


def test_what_cannot_be_copied_is_refused(target_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    source, path, other = target_of("named"), target_of("path"), target_of("named")
    with ms.connect(source) as original:
        original.commit_events([event("a", 1)])
    for arguments, reason in (
        (("memory:", path), "a memory: store lives in one process"),
        ((source, "memory:"), "a memory: store lives in one process"),
        ((source, source), "cannot be copied into itself"),
        (("postgresql://a:secret@b/c",) * 2, "store 'postgresql://a:***@b/c': a store cannot be copied into itself"),
        ((other, path), "there is no such store"),
        (("other:x", path), "unknown target"),
        ((source, path, "--max-commit-bytes", "1"), "max_commit_bytes must be"),
    ):
        assert copy(*arguments) == 1
        assert reason in capsys.readouterr().err
    assert not Path(path).exists()
    with schema_url() as url:
        assert copy(source, url) == 1
        assert "python -m maestro_shm migrate" in capsys.readouterr().err


def _event_before(store: ms.Store) -> None:
    store.commit_events([event("b", 1)])


def _another_body(store: ms.Store) -> None:
    store.commit_events([event("a", 1, 1, timestamp=1), event("a", 2, "other", timestamp=2)])


def _too_many(store: ms.Store) -> None:
    store.commit_events([event("a", 1, 1, timestamp=1), event("a", 2, 2, timestamp=2), event("a", 3)])


def _the_same(store: ms.Store) -> None:
    store.commit_events([event("a", 1, 1, timestamp=1), event("a", 2, 2, timestamp=2)])


def _snapshot(store: ms.Store) -> None:
    store.commit_snapshot(ms.Snapshot("a", 1, 1))


def _entry(store: ms.Store) -> None:
    store.transact(lambda tx: tx.table("t").put("a", 1))


@pytest.mark.parametrize(
    ("target", "spoil", "reason"),
    [
        ("path", _event_before, "position 1: aggregate 'b' and not 'a', timestamp "),
        ("path", _another_body, "position 2: another payload; nothing was changed"),
        ("postgres", _too_many, "events up to position 3, and the source up to 2 only"),
        ("postgres", _the_same, "neither empty nor a copy of"),
        ("path", _snapshot, "neither empty nor a copy of"),
        ("postgres", _entry, "neither empty nor a copy of"),
    ],
)
def test_a_target_with_something_else_is_refused_before_anything_changes(
    target: str,
    spoil: Callable[[ms.Store], None],
    reason: str,
    target_of: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = target_of("named"), target_of(target)
    with ms.connect(names[0]) as original, ms.connect(names[1]) as other:
        original.commit_events([event("a", 1, 1, timestamp=1), event("a", 2, 2, timestamp=2)])
        spoil(other)
        mark = backend(other)._cut().mark
        assert copy(*names) == 1
        assert reason in capsys.readouterr().err
        assert backend(other)._cut().mark == mark


@pytest.mark.parametrize("kind", ["path", "postgres"])
def test_whoever_writes_to_the_target_meanwhile_is_noticed(kind: str, target_of: Callable[[str], str]) -> None:
    with ms.connect(target_of("named")) as original, ms.connect(target_of(kind)) as other:
        fill_much(original, 100)
        original.transact(lambda tx: tx.table("u").put("a", 1))

        def change_table(what: str, _done: int, _of: int | None) -> None:
            if what == "entries":
                other.transact(lambda tx: tx.table("u").put("a", 2))

        with pytest.raises(ms.StoreUnavailableError, match=r"somebody else writes to it: table 'u', key 'a'"):
            copying.copy(backend(original), backend(other), change_table)
        original.commit_events([event("more", 1)])

        def commit_event(what: str, _done: int, _of: int | None) -> None:
            if what == "events" and not other.last_sequence("intruder"):
                other.commit_events([event("intruder", 1)])

        last = original.last_position
        with pytest.raises(ms.StoreUnavailableError, match=f"its last position is {last} instead of {last - 1}"):
            copying.copy(backend(original), backend(other), commit_event)
        with pytest.raises(ms.StoreUnavailableError, match=f"is no copy of .*: position {last}: aggregate 'intruder'"):
            copying.copy(backend(original), backend(other), be_quiet)


@pytest.mark.parametrize("kind", ["path", "postgres"])
def test_two_do_not_copy_into_one_target_at_once(kind: str, target_of: Callable[[str], str]) -> None:
    names = target_of("named"), target_of(kind)
    with ms.connect(names[0]) as original, ms.connect(names[1]) as other:
        fill_much(original, 10)
        tries = []

        def try_too(what: str, _done: int, _of: int | None) -> None:
            if what == "events":
                tries.append(copy(*names))

        copying.copy(backend(original), backend(other), try_too)
        assert tries == [1, 1]


def be_quiet(what: str, done: int, of: int | None) -> None: ...


def _large_event(store: ms.Store) -> None:
    store.commit_events([event("a", 1), event("a", 2, "x" * 2_000)])


def _large_snapshot(store: ms.Store) -> None:
    store.commit_snapshot(ms.Snapshot("a", 1, "x" * 2_000))


def _large_entry(store: ms.Store) -> None:
    store.transact(lambda tx: tx.table("t").put("a", "x" * 2_000))


def _entry_with_its_key(store: ms.Store) -> None:
    store.transact(lambda tx: tx.table("t").put("a" * 950, 1))


@pytest.mark.parametrize(
    ("put", "what"),
    [
        (_large_event, "the commit at position 2, with 2 events, has 2,"),
        (_large_snapshot, "the snapshot of 'a' has 2,"),
        (_large_entry, "the entry 'a' of table 't' has 2,"),
        (_entry_with_its_key, "of table 't' with its key comes to more than the 1,024"),
    ],
)
def test_what_is_too_large_for_the_target_is_named(
    put: Callable[[ms.Store], None], what: str, target_of: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = target_of("named"), target_of("path")
    with ms.connect(names[0]) as original:
        original.commit_events([event("before")])
        put(original)
        assert copy(*names, "--max-commit-bytes", "1024") == 1
        said = capsys.readouterr().err
        assert what in said
        assert "copy with a larger --max-commit-bytes" in said
        with ms.connect(names[1]) as other:
            assert other.last_position == (0 if put is _large_event else 1)


def test_a_new_target_takes_commits_as_large_as_the_source_has(target_of: Callable[[str], str]) -> None:
    first, second, third = target_of("named"), target_of("path"), target_of("postgres")
    with ms.connect(first, max_commit_bytes=4 << 20) as original:
        original.commit_events([event("a", 1, "x" * (4_190_000))])
        original.commit_snapshot(ms.Snapshot("a", 1, "x" * 4_190_000))
        original.transact(lambda tx: tx.table("t").put("a", "x" * 4_190_000))
        assert copy(first, second) == copy(first, third) == 0


def test_each_difference_is_named() -> None:
    for put_here, put_there, difference in (
        (_the_same, _event_before, "position 1: aggregate 'b' and not 'a', timestamp "),
        (_the_same, _another_body, "position 2: another payload"),
        (_the_same, _in_two_commits, "position 2: a commit begins in only one of both"),
        (_the_same, _too_many, "it ends at position 3 and not at 2"),
        (_snapshot, _nothing, "the snapshot of 'a', at sequence 1 in the source"),
        (_nothing, _snapshot, "it has a snapshot of 'a', and the source has none"),
        (_entry, _nothing, "table 't', key 'a': it is missing"),
        (_nothing, _entry, "table 't', key 'a': the source has none"),
        (_entry, lambda store: store.transact(lambda tx: tx.table("t").put("a", 2)), "table 't', key 'a': another v"),
        (_the_same, _the_same, None),
    ):
        with ms.connect("memory:") as one, ms.connect("memory:") as other:
            put_here(one)
            put_there(other)
            found = Verification(backend(one)._cut(), backend(other)._cut(), be_quiet).first_difference()
            assert (found or "").startswith(difference or "")
            assert (found is None) == (difference is None)


def _nothing(_store: ms.Store) -> None: ...


def _in_two_commits(store: ms.Store) -> None:
    store.commit_events([event("a", 1, 1, timestamp=1)])
    store.commit_events([event("a", 2, 2, timestamp=2)])


def test_a_difference_in_the_end_is_an_error(
    target_of: Callable[[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = target_of("named"), target_of("path")
    monkeypatch.setattr(Transfer, "_bring_snapshots", lambda _: None)
    with ms.connect(names[0]) as original:
        fill_much(original, 10)
    assert copy(*names) == 1
    assert f"it differs from {names[0]}: the snapshot of 'a" in capsys.readouterr().err


def test_a_cut_tells_what_is_stored_as_of_its_time(store: ms.Store) -> None:
    store.commit_events([event("a", 1), event("b", 1)])
    store.commit_events([event("a", 2, timestamp=5)])
    for number in range(2_000):
        store.commit_snapshot(ms.Snapshot(f"s{number}", 1, number))
    store.transact(lambda tx: [tx.table(f"t{number}").put("a", 1) for number in range(300)])
    cut = backend(store)._cut()
    store.commit_events([event("a", 3), event("c", 1)])
    store.commit_snapshot(ms.Snapshot("s0", 2, None))
    store.commit_snapshot(ms.Snapshot("later", 2, None))
    store.transact(lambda tx: [tx.table(f"t{number}").put("b", 1) for number in range(299, 305)])
    stored = [one for batch in cut.stored_events(0) for one in batch]
    assert [(one.aggregate_id, one.sequence, one.position) for one in stored] == [("a", 1, 1), ("b", 1, 2), ("a", 2, 3)]
    assert stored[0].commit == stored[1].commit != stored[2].commit
    assert stored[2].timestamp == 5
    assert stored[1:] == [one for batch in cut.stored_events(1) for one in batch]
    assert list(cut.stored_events(3)) in ([], [[]])
    assert sorted((one.aggregate_id, one.sequence) for one in cut.stored_snapshots()) == sorted(
        (f"s{number}", 1) for number in range(2_000)
    )
    assert cut.table_names() == sorted(f"t{number}" for number in range(300))
    assert cut.versions("t299", ["a", "b", "a"]) == [0, -1, 0]
    assert backend(store)._cut().table_names() == sorted(f"t{number}" for number in range(305))


def test_what_is_made_ahead_comes_in_order_and_so_does_an_error() -> None:
    def parts() -> Iterator[int]:
        yield from range(3)
        raise LookupError

    found = ahead(parts())
    assert [next(found), next(found), next(found)] == [0, 1, 2]
    with pytest.raises(LookupError):
        next(found)


def test_snapshots_come_page_by_page_whatever_is_newer_than_the_cut() -> None:
    with STORES["postgres"]() as store:
        body = "x" * 300_000
        names = [f"{number:03}" for number in range(30)]
        for name in names[::2]:
            store.commit_snapshot(ms.Snapshot(name, 1, body))
        cut = backend(store)._cut()
        for name in names:
            store.commit_snapshot(ms.Snapshot(name, 2, body))
        assert [one.aggregate_id for one in cut.stored_snapshots()] == names[::2]


@pytest.mark.parametrize("is_source", [True, False])
def test_a_store_with_truncated_events_is_not_copied_and_no_target(
    target_of: Callable[[str], str], capsys: pytest.CaptureFixture[str], *, is_source: bool
) -> None:
    source, target = target_of("named"), target_of("path")
    with ms.connect(source) as store, ms.connect(target) as other:
        changed = store if is_source else other
        changed.commit_events([event("a", 1), event("a", 2)])
        changed.commit_snapshot(ms.Snapshot("a", 2, None))
        changed.truncate("a", before=2)
    assert copy(source, target) == 1
    assert "events of it were truncated" in capsys.readouterr().err
    with ms.connect(target) as other:
        assert other.last_position == (0 if is_source else 2)
        assert dict(other.table(TABLE)) == {}
