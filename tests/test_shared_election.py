from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from processes import Fork, in_forks, kill, named_target, servers_of

import maestro_shm as ms
from maestro_shm.shared import directory as directories
from maestro_shm.shared import election
from maestro_shm.shared.launch import launch
from maestro_shm.shared.store import path_of


def connect_and_commit(target: str, number: int) -> tuple[int, int]:
    with ms.connect(target) as store:
        store.commit_events([ms.Event(f"a-{number}", 1, "came", None)])
        stats = store.stats()
        return stats["server_pid"], stats["epoch"]


def test_a_crowd_that_finds_no_store_gets_one_server() -> None:
    with named_target() as target:
        found = in_forks(8, lambda number: connect_and_commit(target, number))
        assert len(set(found)) == 1
        assert len(servers_of(path_of(target))) == 1


def test_a_crowd_whose_server_was_killed_gets_one_server() -> None:
    with named_target() as target, ms.connect(target) as store:
        for epoch in (2, 3):
            kill(store.stats()["server_pid"])
            found = in_forks(8, lambda number, epoch=epoch: connect_and_commit(target, epoch * 10 + number))  # type: ignore[misc] # a lambda with a default
            assert {found_epoch for _, found_epoch in found} == {epoch}
        assert store.stats()["events"] == 16


def test_a_deleted_lock_file_does_not_give_two_servers() -> None:
    with named_target() as target, ms.connect(target) as store:
        directory = path_of(target)
        server = store.stats()["server_pid"]
        (directory / "lock").unlink()
        with pytest.raises(ms.StoreUnavailableError, match="another server holds the directory"):
            launch(directory, time.monotonic() + 30)
        assert set(in_forks(4, lambda number: connect_and_commit(target, number))) == {(server, 1)}
        assert servers_of(directory) == [server]


def test_a_server_whose_starter_was_killed_may_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch_two(path: Path, deadline: float) -> None:
        launch(path, deadline)
        launch(path, deadline)

    monkeypatch.setattr("maestro_shm.shared.launch.launch", launch_two)
    with named_target() as target:
        server, epoch = connect_and_commit(target, 1)
        assert epoch == 1
        assert servers_of(path_of(target)) == [server]


def test_a_stale_socket_misleads_nobody() -> None:
    with named_target() as target, ms.connect(target) as store:
        directory = path_of(target)
        kill(store.stats()["server_pid"])
        stale = directory / "socket-1"
        stale.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as nobody:
            nobody.bind(str(stale))
        assert connect_and_commit(target, 1)[1] == 2
        assert not stale.exists()


def test_a_server_that_was_overtaken_writes_no_more(tmp_path: Path) -> None:
    from maestro_shm.shared.journal import Journal

    former = Journal.open(tmp_path, max_commit_bytes=1 << 20)
    latter = Journal.open(tmp_path, max_commit_bytes=1 << 20)
    try:
        former.commit_events(os.urandom(16), [("a", 1, None, b"")], resent=False)
    except ms.StoreUnavailableError as error:
        assert "another server has taken over" in str(error)
    else:
        raise AssertionError("the overtaken server wrote")
    finally:
        former.close()
        latter.close()


def test_a_server_that_cannot_be_reached_is_not_given_a_rival() -> None:
    with named_target() as target, ms.connect(target) as store:
        server = store.stats()["server_pid"]
        (path_of(target) / "socket-1").unlink()
        with pytest.raises(
            ms.StoreUnavailableError, match=f"its server .process {server}. runs, but could not be reached"
        ):
            ms.connect(target, timeout=0.5)
        assert servers_of(path_of(target)) == [server]
        store.commit_events([ms.Event("a", 1, "still served", None)])


def test_who_holds_a_directory_without_serving_it_is_not_taken_for_its_last_server() -> None:
    with named_target() as target:
        with ms.connect(target) as store:
            server = store.stats()["server_pid"]
            kill(server)
        with (
            directories.holding(path_of(target)),
            pytest.raises(ms.StoreUnavailableError, match=r"another process .a repair, or") as told,
        ):
            ms.connect(target, timeout=0.3)
        assert str(server) not in str(told.value)


def test_an_election_ends_when_the_lock_is_let_go() -> None:
    with named_target() as target, ms.connect(target):
        with election._election(path_of(target), time.monotonic() + 5) as lock:
            assert lock.is_locked
        assert not lock.is_locked


def test_who_waits_for_the_lock_finds_a_server_that_began_meanwhile() -> None:
    with named_target() as target, ms.connect(target) as store:
        directory = path_of(target)
        kill(store.stats()["server_pid"])
        with election._election(directory, time.monotonic() + 5), Fork(lambda: connect_and_commit(target, 1)) as waiter:
            time.sleep(0.2)  # so that it waits for the lock; if it does not yet, the test passes all the same
            launch(directory, time.monotonic() + 30)
            assert waiter.result()[1] == 2
