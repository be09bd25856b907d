"""How stores end: closed, destroyed, left behind, removed by hand, whatever state they are in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from processes import (
    Fork,
    Program,
    cleaned_up,
    is_gone,
    kill,
    named_target,
    open_descriptors,
    output_of,
    servers_of,
    wait_until,
)

import maestro_shm as ms
from maestro_shm.shared import creator as creators
from maestro_shm.shared import directory as directories
from maestro_shm.shared import election, places
from maestro_shm.shared import header as head
from maestro_shm.shared.store import SharedStore, path_of
from maestro_shm.shared.transport import Line


def commit(store: ms.Store, aggregate_id: str) -> None:
    store.commit_events([ms.Event(aggregate_id, 1, "made", None)])


def test_a_private_store_ends_with_the_server_that_another_process_has_started_anew() -> None:
    store = ms.connect()
    directory = Path(store.stats()["directory"])
    with cleaned_up(directory):
        commit(store, "a")  # so that a line to the first server lies at rest
        kill(store.stats()["server_pid"])
        with Fork(lambda: commit(store, "b")) as fork:
            fork.result()
        server = store.stats()["server_pid"]
        store.close()
        assert not directory.exists()
        wait_until(lambda: is_gone(server), "the second server has ended")


def test_a_private_store_whose_server_is_silent_says_so_when_closed_and_lets_go_of_what_is_here() -> None:
    before = open_descriptors()
    store = ms.connect(timeout=5)
    directory = Path(store.stats()["directory"])
    with cleaned_up(directory):
        server = store.stats()["server_pid"]
        os.kill(server, signal.SIGSTOP)
        with pytest.raises(ms.StoreUnavailableError, match="does not answer"):
            store.close()
        assert open_descriptors() == before
        os.kill(server, signal.SIGCONT)


def test_a_private_store_that_fails_at_its_beginning_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("maestro_shm.shared.store.Reader", fail)
    path = places.new_private_path(creators.identity(os.getpid()))
    monkeypatch.setattr(places, "new_private_path", lambda _: path)
    before = open_descriptors()
    with pytest.raises(KeyboardInterrupt):
        ms.connect()
    assert not path.exists()
    wait_until(lambda: not servers_of(path), "its server has ended")
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "damage", ["no key", "wrong key", "no header", "half a header", "another format", "no settings"]
)
def test_a_damaged_store_can_be_destroyed(path: Path, damage: str) -> None:
    with ms.connect(path) as store:
        commit(store, "a")
        kill(store.stats()["server_pid"])
    if damage == "no key":
        (path / directories.AUTHKEY).unlink()
    elif damage == "wrong key":
        (path / directories.AUTHKEY).write_bytes(b"short")
    elif damage == "no header":
        (path / head.NAME).unlink()
    elif damage == "half a header":
        (path / head.NAME).write_bytes(b"maestro")
    elif damage == "another format":
        (path / head.NAME).write_bytes(bytes(4096))
    else:
        (path / directories.SETTINGS).write_text("{")
    ms.destroy(path)
    assert not path.exists()


def test_a_store_that_was_destroyed_by_half_is_an_empty_store(path: Path) -> None:
    with ms.connect(path) as store:
        commit(store, "a")
        kill(store.stats()["server_pid"])
    for entry in path.iterdir():
        if entry.name != directories.SETTINGS:
            entry.unlink()
    with ms.connect(path) as store:
        assert store.stats()["events"] == 0
        commit(store, "a")
    ms.destroy(path)
    assert not path.exists()


def test_stores_are_made_and_destroyed_by_a_crowd_without_a_strange_word() -> None:
    end = time.monotonic() + 3

    def make(number: int) -> int:
        made = 0
        while time.monotonic() < end:
            with ms.connect(target) as store:
                try:
                    store.commit_events([ms.Event(f"{number}-{made}", 1, "made", None)])
                except ms.StoreUnavailableError as error:
                    assert "no such store" in str(error)  # destroyed before the first event
                made += 1
        return made

    def destroy() -> int:
        destroyed = 0
        while time.monotonic() < end:
            try:
                ms.destroy(target)
                destroyed += 1
            except ms.StoreUnavailableError as error:
                assert "still in use" in str(error) or "no such store" in str(error)
            time.sleep(0.001)
        return destroyed

    with named_target() as target, Fork(lambda: make(1)) as one, Fork(lambda: make(2)) as two, Fork(destroy) as third:
        assert one.result() > 0
        assert two.result() > 0
        assert third.result() > 0


def test_a_server_whose_directory_was_removed_by_hand_leaves(path: Path) -> None:
    with ms.connect(path) as store:
        server = store.stats()["server_pid"]
        shutil.rmtree(path)
        with ms.connect(path) as fresh:
            wait_until(lambda: is_gone(server), "the server has left")
            with ms.connect(path) as another:
                commit(another, "a")
            assert fresh.stats()["events"] == 1


def test_what_others_put_beside_private_stores_is_left_alone_and_hinders_nobody() -> None:
    dead = "4194305-1-" + creators.identity(os.getpid()).rpartition("-")[2]
    assert not creators.is_alive(dead)
    strange = [places.new_private_path(dead) for _ in range(5)]
    fifo, file, foreign, link, nameless = strange
    leavings = places.new_private_path(dead)
    nameless = nameless.with_name(f"{nameless.name.partition('private-')[0]}private-99999999999-1-1-x")
    try:
        os.mkfifo(fifo)
        file.write_text("")
        foreign.mkdir()
        if os.geteuid() == 0:
            os.chown(foreign, 12345, -1)
        link.symlink_to("/")
        nameless.mkdir()
        leavings.mkdir()
        os.mkfifo(leavings / directories.SETTINGS)
        with ms.connect() as store:
            commit(store, "a")
        assert not leavings.exists()
        assert all(os.path.lexists(path) for path in (fifo, file, link, nameless))
        assert foreign.exists() or os.geteuid() != 0
    finally:
        for path in (foreign, nameless, leavings):
            shutil.rmtree(path, ignore_errors=True)
        for path in (fifo, file, link):
            path.unlink(missing_ok=True)


def test_a_forked_child_that_does_nothing_is_no_client() -> None:
    with named_target() as target:
        store = ms.connect(target)
        commit(store, "a")
        with Fork(lambda: time.sleep(30)):
            store.close()
            ms.destroy(target)


def test_a_forked_child_has_none_of_its_parents_lines() -> None:
    with ms.connect() as store:
        threads = [threading.Thread(target=commit, args=(store, f"thread-{n}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = len(store._proxy._at_rest)  # type: ignore[attr-defined] # how many there are is nobody's business else
        assert lines > 0
        before = open_descriptors()
        with Fork(open_descriptors) as fork:
            assert fork.result() <= before - lines + 1  # its pipe


def test_a_private_store_survives_a_server_that_has_no_descriptor_left() -> None:
    with Program(
        """
        import resource, time
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
        import maestro_shm as ms
        from maestro_shm.shared import directory as directories
        from pathlib import Path
        import socket
        with ms.connect(timeout=20) as store:
            store.commit_events([ms.Event("a", 1, "made", None)])
            directory = Path(store.stats()["directory"])
            address = str(directories.socket_path(directory, 1))
            idle = []
            try:
                while len(idle) < 60:
                    idle.append(socket.socket(socket.AF_UNIX))
                    idle[-1].connect(address)
            except OSError:
                idle.pop().close()
            print(len(idle) > 5, flush=True)
            time.sleep(2.5)
            store.commit_events([ms.Event("a", 2, "made", None)])
            print(store.stats()["events"], flush=True)
            for connection in idle:
                connection.close()
        """
    ) as program:
        assert program.line() == "True"
        assert program.line() == "2"
        program.output()


RAW_FORK = """
import ctypes, os, sys
import maestro_shm as ms

store = ms.connect()
store.commit_events([ms.Event("parent", 1, "made", None)])
fork = ctypes.PyDLL(None).fork  # as a server written in C forks: no hook of Python runs
workers = []
for number in range(2):
    pid = fork()
    if pid == 0:
        wrong = 0
        for sequence in range(1, 201):
            (stored,) = store.commit_events([ms.Event(f"worker-{number}", sequence, "made", number)])
            wrong += store.get_events(f"worker-{number}", sequence) != [stored]
        os._exit(wrong)
    workers.append(pid)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers], store.stats()["events"])
store.commit_events([ms.Event("parent", 2, "made", None)])
store.close()
"""


def test_workers_that_were_forked_in_c_do_not_take_each_others_replies() -> None:
    assert output_of(RAW_FORK) == "[0, 0] 401"


def test_a_lock_that_was_looked_at_is_free_though_a_fork_has_a_copy(path: Path) -> None:
    path.mkdir()
    held = directories.hold(path)
    assert held is not None
    with Fork(lambda: time.sleep(30)):
        directories.let_go(held)
        assert not directories.is_served(path)


def test_a_handle_that_is_closed_while_it_connects_is_no_client() -> None:
    with named_target() as target, ms.connect(target) as first:
        lazy = SharedStore(target, path_of(target), timeout=30.0, allow_reset=False)
        attach = election.attach

        def close_meanwhile(*arguments: Any) -> Line:
            line = attach(*arguments)
            lazy.close()
            return line

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(election, "attach", close_meanwhile)
            with pytest.raises(ms.StoreClosedError):
                commit(lazy, "a")
        wait_until(lambda: first.stats()["clients"] == 1, "the closed handle is gone")


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o300, 0o600])
def test_a_directory_of_ours_that_we_may_not_use_is_refused_with_what_to_do(path: Path, mode: int) -> None:
    path.mkdir()
    path.chmod(mode)
    try:
        for call in (ms.connect, ms.destroy):
            with pytest.raises(ms.StoreUnavailableError, match="chmod 700"):
                call(path)
    finally:
        path.chmod(0o700)


def test_a_memory_store_has_nothing_to_destroy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with cleaned_up(tmp_path / "memory:"):
        ms.connect(Path("memory:")).close()
        with pytest.raises(ms.StoreUnavailableError, match="has no directory"):
            ms.destroy("memory:")
        assert (tmp_path / "memory:").exists()


def test_an_interrupted_connect_says_nothing_else_and_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        os.kill(_server_of(arguments[0]), signal.SIGSTOP)
        raise KeyboardInterrupt

    monkeypatch.setattr("maestro_shm.shared.store.Reader", interrupt)
    path = places.new_private_path(creators.identity(os.getpid()))
    monkeypatch.setattr(places, "new_private_path", lambda _: path)
    with cleaned_up(path):
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ms.connect(timeout=30)
        assert time.monotonic() - started < 20


def _server_of(directory: Path) -> int:
    (server,) = servers_of(directory)
    return server


def calls_of(store: ms.Store) -> list[str]:
    """The errors that calls of a store end with."""

    def commit() -> None:
        store.commit_events([ms.Event("a", (store.last_sequence("a") or 0) + 1, "made", None)])

    calls = (
        lambda: store.commit_events([ms.Event("a", 2, "made", None)]),
        lambda: store.commit_events(iter([ms.Event("a", 2, "made", None)])),
        lambda: store.commit_snapshot(ms.Snapshot("a", 2, None)),
        lambda: store.transact(lambda tx: tx.table("t").put("key", 1)),
        lambda: store.submit([ms.Event("a", 2, "made", None)]).result(),
        lambda: store.wait(99, timeout=1),
        lambda: store.get_events("a"),
        commit,
    )
    errors = []
    for call in calls:
        with pytest.raises(ms.StoreError) as caught:
            call()
        errors.append(type(caught.value).__name__)
    return errors


def test_every_call_says_that_a_private_store_is_over_in_the_processes_that_its_creator_has_started() -> None:
    store = ms.connect()
    store.commit_events([ms.Event("a", 1, "made", None)])
    reader, writer = os.pipe()

    def child() -> list[str]:
        assert store.last_position == 1
        assert os.read(reader, 1) == b"x"
        return calls_of(store)

    with Fork(child) as fork:
        time.sleep(0.2)  # it has read by then, or will find it over
        store.close()
        os.write(writer, b"x")
        assert set(fork.result()) == {"StoreClosedError"}
    for end in (reader, writer):
        os.close(end)


def test_every_call_says_that_a_store_was_destroyed(path: Path) -> None:
    store = ms.connect(path)
    store.commit_events([ms.Event("a", 1, "made", None)])
    kill(store.stats()["server_pid"])
    ms.destroy(path)
    assert set(calls_of(store)) == {"StoreClosedError"}
    store.close()


def test_a_store_that_finds_no_room_says_so_and_leaves_no_directory(small_file_system: Path) -> None:
    with (small_file_system / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    with pytest.raises(ms.StoreFullError) as caught:
        ms.connect(small_file_system / "store")
    assert (caught.value.directory, caught.value.available) == (str(small_file_system), 0)
    assert [path.name for path in small_file_system.iterdir()] == ["filler"]


def test_a_memory_store_is_refused_to_a_fork_whose_commits_nobody_would_see() -> None:
    with ms.connect("memory:") as store:
        store.commit_events([ms.Event("a", 1, "made", None)])

        def child() -> str:
            with pytest.raises(ms.StoreUnavailableError, match="lives in one process") as caught:
                store.commit_events([ms.Event("a", 2, "made", None)])
            with pytest.raises(ms.StoreUnavailableError):
                store.get_events("a")
            return str(caught.value)

        with Fork(child) as fork:
            assert "use maestro_shm.connect()" in fork.result()
        assert store.last_position == 1


def test_a_name_that_a_store_has_not_is_told_as_usual() -> None:
    with ms.connect() as store, pytest.raises(AttributeError, match="'SharedStore' object has no attribute 'commit'"):
        store.commit()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "a private store has no option 'idle_timeout'; it has timeout, max_commit_bytes"),
        ("memory:", "a memory: store has no option 'idle_timeout'; it has max_commit_bytes"),
        ("postgresql://h", "a store in a database has no option 'idle_timeout'; it has timeout, allow_reset, "),
    ],
)
def test_an_option_that_a_target_has_not_is_refused_with_those_that_it_has(target: str | None, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        ms.connect(target, idle_timeout=3)
    assert str(caught.value).startswith(message)
