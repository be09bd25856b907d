from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from processes import in_forks, kill, named_target, servers_of

import maestro_shm as ms
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
        code = "import sys; from maestro_shm.shared import server; server._HOLD_SECONDS = 0.2; server.main(sys.argv[1])"
        second = subprocess.run(
            [sys.executable, "-c", code, str(directory)], capture_output=True, timeout=30, check=False
        )
        assert second.returncode == 1
        assert b"another server holds the directory" in second.stdout
        assert connect_and_commit(target, 1) == (server, 1)


def test_a_stale_socket_and_a_reused_process_id_mislead_nobody() -> None:
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
