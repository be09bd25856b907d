"""Tables and transactions of the shared store: in its files, over kills and restarts, between processes."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from books import Books, pretend_reboot
from ledger import Account, Person, TakenError, balances, count, deposit, put, transfer
from processes import Fork, in_forks, kill, named_target
from relay import Cut, Fault, Relay

import maestro_shm as ms
from maestro_shm.errors import InvalidEntryError, InvalidEventError, StaleReadError, TableConflictError
from maestro_shm.shared.frame import ENTRY, EVENT, SNAPSHOT, TABLE
from maestro_shm.shared.reader import Reader
from maestro_shm.shared.repair import repair
from maestro_shm.shared.store import SharedStore, path_of

NOTHING: list[Any] = []


def change(books: Books, *changes: tuple[str, str, int, bytes], reads: Any = ()) -> None:
    books.journal.commit(os.urandom(16), NOTHING, changes, reads, resent=False)


def keys(reader: Reader, table: str = "t") -> list[str]:
    return list(reader.cut().keys(table).keys)


@pytest.fixture
def target() -> Iterator[str]:
    with named_target() as target:
        yield target


# The journal


def test_a_change_must_follow_on_the_version_that_is_there(books: Books) -> None:
    change(books, ("t", "x", 0, b"1"))
    for version in (0, -1, True, None, 2**63):
        with pytest.raises((TableConflictError, InvalidEntryError)):
            change(books, ("t", "x", version, b"2"))  # type: ignore[arg-type] # what a strange client sends
    change(books, ("t", "x", 1, b"2"))
    assert books.reader.payload("t", "x") == b"2"


@pytest.mark.parametrize(
    ("read", "error"),
    [
        ((EVENT, "a", "", -1), StaleReadError),
        ((EVENT, "a", "", 2), StaleReadError),
        ((EVENT, "b", "", 1), StaleReadError),
        ((ENTRY, "t", "x", -1), TableConflictError),
        ((ENTRY, "t", "y", 0), TableConflictError),
        ((TABLE, "t", "", -1), TableConflictError),
        ((TABLE, "u", "", 0), TableConflictError),
        ((SNAPSHOT, "a", "", 0), InvalidEventError),
        ((EVENT, "\ud800", "", 0), InvalidEventError),
        ((ENTRY, "", "x", 0), InvalidEntryError),
        ((ENTRY, "t", "\ud800", 0), InvalidEntryError),
        ((TABLE, "a\0b", "", 0), InvalidEntryError),
    ],
)
def test_a_read_that_is_stale_or_none_refuses_the_commit(
    books: Books, read: tuple[int, str, str, int], error: type[Exception]
) -> None:
    books.commit(("a", 1, None))
    change(books, ("t", "x", 0, b"1"))
    with pytest.raises(error):
        change(books, ("t", "x", 1, b"2"), reads=[read])
    change(books, ("t", "x", 1, b"2"), reads=[(EVENT, "a", "", 1), (EVENT, "b", "", -1), (ENTRY, "t", "y", -1)])
    books.check()


@pytest.mark.parametrize(
    "row",
    [
        ("", "x", 0, b"1"),
        ("a\0b", "x", 0, b"1"),
        (5, "x", 0, b"1"),
        ("t", 5, 0, b"1"),
        ("t", "\ud800", 0, b"1"),
        ("t", "x", 0, "1"),
        ("t", "x" * 2**16, 0, b"1"),
    ],
)
def test_a_row_that_is_no_change_is_refused(books: Books, row: Any) -> None:
    with pytest.raises(InvalidEntryError):
        change(books, ("t", "fine", 0, b"1"), row)
    assert keys(books.reader) == []
    with pytest.raises(InvalidEventError, match="at least one event or change"):
        change(books)


def test_the_same_key_may_change_twice_in_a_commit(books: Books) -> None:
    change(books, ("t", "x", 0, b"1"), ("t", "x", 1, b"2"), ("t", "y", 0, b"1"), ("t", "y", 1, b""))
    assert keys(books.reader) == ["x"]
    change(books, ("t", "x", 2, b""), ("t", "x", 3, b"3"), ("t", "z", 0, b""))
    assert books.reader.payload("t", "x") == b"3"
    assert keys(books.reader) == ["x"]
    assert books.reader.cut().keys("t").version == 0


def test_a_table_without_events_counts_no_aggregate(books: Books) -> None:
    change(books, ("t", "x", 0, b"1"))
    books.commit(("a", 1, None))
    change(books, ("t", "y", 0, b"1"))
    books.check()


def test_a_commit_sent_again_is_not_done_twice_though_it_has_no_events(books: Books) -> None:
    commit_id = os.urandom(16)
    sent = commit_id, NOTHING, [("t", "x", 0, b"1")], [(TABLE, "t", "", -1)]
    first = books.journal.commit(*sent, resent=False)
    assert books.journal.commit(*sent, resent=True) == first == (1, [])
    books.reopen()
    assert books.journal.commit(*sent, resent=True) == first
    with pytest.raises(TableConflictError):
        books.journal.commit(os.urandom(16), *sent[1:], resent=True)


@pytest.mark.parametrize("reboots", [False, True])
def test_tables_outlive_servers_and_machines_while_the_index_grows(books: Books, *, reboots: bool) -> None:
    expected = {}
    for number in range(1500):
        key = f"{number % 700:03}"
        version = number // 700
        is_put = number % 3 > 0
        change(books, ("t", key, version, b"%d" % number if is_put else b""))
        expected[key] = b"%d" % number if is_put else None
        if number % 100 == 0:
            books.commit((f"a-{number}", 1, None))
        if number % 499 == 0:
            books.reboot() if reboots else books.reopen()
    for reader in (books.reader, Reader(books.directory)):
        assert keys(reader) == sorted(key for key, payload in expected.items() if payload)
        assert {key: reader.payload("t", key) for key in expected} == expected
    books.check()


def test_a_cut_shows_what_was_there_however_many_changes_follow(books: Books) -> None:
    cuts = []
    for number in range(40):
        change(books, ("t", f"{number % 9}", number // 9, b"%d" % number if number % 4 else b""))
        cuts.append((books.reader.cut(), keys(books.reader), [books.reader.payload("t", f"{n}") for n in range(9)]))
    for cut, there, payloads in reversed(cuts):
        assert list(cut.keys("t").keys) == there
        assert [cut.entry("t", f"{number}").payload for number in range(9)] == payloads
    fresh = Reader(books.directory)
    assert list(fresh.cut().keys("t").keys) == cuts[-1][1]


def test_a_cut_that_a_reset_has_ended_says_so_or_goes_on(target: str) -> None:
    with ms.connect(target, allow_reset=True) as store, ms.connect(target) as other:
        store.transact(put, "t", x=1)

        def look(tx: ms.Transaction) -> Any:
            store.reset()
            return tx.table("t").get("x")

        try:
            assert other.transact(look) == 1
        except ms.StoreUnavailableError as error:
            assert "was reset while it was read" in str(error)


# Kills and lost replies


def test_a_transaction_whose_reply_is_lost_is_done_once(target: str) -> None:
    with ms.connect(target) as store:
        assert isinstance(store, SharedStore)
        for fate in (Cut.UNANSWERED, Cut.UNAWAITED, Cut.BEFORE):
            store._proxy._hang_up()
            with Relay(store.directory) as relay:
                relay.take_place()
                relay.meet(b"commit", Fault(fate))
                store.transact(count, fate.name)
                assert relay.met == [fate]
            assert store.table("counters")[fate.name] == 1
            store.transact(count, fate.name)
            assert store.table("counters")[fate.name] == 2


def test_transfers_keep_their_total_whoever_is_killed(target: str) -> None:
    accounts = [f"account-{number}" for number in range(5)]
    with ms.connect(target) as store:
        for account in accounts:
            Account(store, account).evaluate(deposit(1000))

        def work(number: int) -> int:
            choices = random.Random(number)
            with ms.connect(target) as own:
                moved = 0
                for _ in range(60):
                    source, to = choices.sample(accounts, 2)
                    own.transact(transfer_and_note, source, to, choices.randint(1, 5))
                    moved += 1
                    assert sum(own.transact(balances, *accounts)) == 5000
                return moved

        over = threading.Event()
        killer = threading.Thread(target=_kill_now_and_then, args=(store, over))
        killer.start()
        try:
            moved = sum(in_forks(4, work))
        finally:
            over.set()
            killer.join()
        assert sum(store.transact(balances, *accounts)) == 5000
        assert store.stats()["events"] == 5 + 2 * moved
        assert sum(store.table("moves").values()) == moved


def transfer_and_note(tx: ms.Transaction, source: str, target: str, amount: int) -> None:
    transfer(tx, source, target, amount)
    moves = tx.table("moves")
    moves[source] = moves.get(source, 0) + 1


def _kill_now_and_then(store: ms.Store, over: threading.Event) -> None:
    while not over.wait(0.15):
        kill(store.stats()["server_pid"])


def test_names_that_eight_workers_race_for_belong_to_one_each(target: str) -> None:
    names = [f"name-{number}" for number in range(40)]

    def work(number: int) -> list[str]:
        claimed = []
        with ms.connect(target) as own:
            for name in random.Random(number).sample(names, len(names)):
                try:
                    Person(own, f"{name}-of-{number}").evaluate(ms.Command("claim", name))
                    claimed.append(name)
                except TakenError:
                    pass
        return claimed

    with ms.connect(target) as store:
        claims = in_forks(8, work)
        assert sorted(name for claimed in claims for name in claimed) == sorted(names)
        assert dict(store.table("names")) == {
            name: f"{name}-of-{number}" for number, claimed in enumerate(claims) for name in claimed
        }
        assert store.stats()["events"] == len(names)


def test_a_worker_that_dies_in_a_transaction_leaves_nothing_of_it(target: str) -> None:
    def die(tx: ms.Transaction) -> None:
        tx.root(Account, "a").evaluate(deposit(1))
        tx.table("t")["x"] = 1
        time.sleep(60)

    with ms.connect(target) as store:
        with Fork(lambda: store.transact(die)) as worker:
            time.sleep(0.3)
            os.kill(worker.pid, 9)
        assert store.last_sequence("a") is None
        assert dict(store.table("t")) == {}


def test_tables_are_shared_by_handles_and_forks(target: str) -> None:
    with ms.connect(target) as store, ms.connect(target) as other:
        in_forks(4, lambda _: [store.transact(count) for _ in range(10)] and None)
        assert other.table("counters")["n"] == 40


# Repair


def test_a_repair_keeps_the_tables_but_for_the_commits_that_are_lost(path: Path) -> None:
    with ms.connect(path) as store:
        offsets = []
        for number in range(6):
            offsets.append(store._reader.view.words[17])  # type: ignore[attr-defined]
            store.transact(put_and_deposit, f"k{number}", number)
        kill(store.stats()["server_pid"])
    with (path / "log-1-000000").open("r+b", buffering=0) as log:
        (byte,) = os.pread(log.fileno(), 1, offsets[2] + 60)
        os.pwrite(log.fileno(), bytes([byte ^ 1]), offsets[2] + 60)
    report = repair(path)
    assert (report.commits, report.lost_events, report.refusals) == (5, 1, [])
    with ms.connect(path) as store:
        assert dict(store.table("t")) == {f"k{number}": number for number in (0, 1, 3, 4, 5)}
        assert store.transact(balances, "k1", "k2", "k3") == [1, 0, 3]
        store.transact(put_and_deposit, "k2", 7)
        assert store.table("t")["k2"] == 7
        kill(store.stats()["server_pid"])
    assert repair(path).is_whole
    pretend_reboot(path)
    with ms.connect(path) as store:
        assert list(store.table("t")) == [f"k{number}" for number in range(6)]


def put_and_deposit(tx: ms.Transaction, key: str, value: int) -> None:
    tx.table("t")[key] = value
    tx.root(Account, key).evaluate(deposit(value))


def test_a_deletion_whose_insertion_is_lost_is_repaired_to_nothing(path: Path) -> None:
    steps: list[Callable[[ms.Transaction], Any]] = [
        lambda tx: tx.table("t").put("y", 1),
        lambda tx: tx.table("t").put("x", 1),
        lambda tx: tx.table("t").delete("x"),
    ]
    with ms.connect(path) as store:
        offsets = []
        for step in steps:
            offsets.append(store._reader.view.words[17])  # type: ignore[attr-defined]
            store.transact(step)
        kill(store.stats()["server_pid"])
    with (path / "log-1-000000").open("r+b", buffering=0) as log:
        os.pwrite(log.fileno(), b"?", offsets[1] + 60)
    report = repair(path)
    assert (report.commits, report.refusals) == (2, [])
    with ms.connect(path) as store:
        assert dict(store.table("t")) == {"y": 1}
        store.transact(put, "t", x=2)
        assert list(store.table("t")) == ["x", "y"]


def test_the_directory_of_a_store_with_tables_is_as_before(target: str) -> None:
    with ms.connect(target) as store:
        store.transact(put, "t", x=1)
        names = {entry.name.partition("-")[0] for entry in path_of(target).iterdir()}
    assert names == {
        "authkey",
        "header",
        "index",
        "lock",
        "log",
        "mail",
        "positions",
        "server.log",
        "settings",
        "socket",
    }
