"""The server as a process among others: what it runs, which signals and failures it survives, how calls to it end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import Fork, Program, cleaned_up, is_gone, kill, named_target, other_package, output_of, wait_until

import maestro_shm as ms
from maestro_shm.shared import complaints
from maestro_shm.shared import directory as directories
from maestro_shm.shared.store import path_of
from maestro_shm.shared.transport import Line


def commit(store: ms.Store, sequence: int) -> None:
    store.commit_events([ms.Event("a", sequence, "made", None)])


def test_a_server_runs_the_package_of_its_client_whatever_else_is_installed(path: Path, tmp_path: Path) -> None:
    package = other_package(tmp_path, f"open({str(tmp_path / 'started')!r}, 'w').write(__file__)")
    said = output_of(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import maestro_shm as ms
        ms.connect(sys.argv[2]).close()
        """,
        package.parent,
        path,
    )
    assert said == ""
    assert (tmp_path / "started").read_text() == str(package / "shared" / "process.py")


FAIL_ONCE = """
from maestro_shm.shared.positions import Positions

put = Positions.put

def fail_once(self, first_position, offsets):
    if first_position == 3 and not os.path.exists({flag!r}):
        open({flag!r}, "w").close()
        raise OSError("out of order")
    put(self, first_position, offsets)

Positions.put = fail_once
"""


def test_a_server_that_breaks_off_in_the_midst_of_a_commit_leaves_and_its_successor_undoes_it(
    path: Path, tmp_path: Path
) -> None:
    package = other_package(tmp_path, FAIL_ONCE.format(flag=str(tmp_path / "failed")))
    said = output_of(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import maestro_shm as ms

        def commit(*keys):
            store.commit_events([ms.Event(key, 1, "made", None) for key in keys])

        with ms.connect(sys.argv[2]) as store:
            commit("a", "b")
            server = store.stats()["server_pid"]
            try:
                commit("c", "d")
            except ms.StoreUnavailableError as error:
                print("server.log" in str(error), "out of order" in str(error))
            print(store.last_sequence("c"), store.stats()["events"])
            commit("d", "c")
            print(store.get_events("c")[0].position, store.stats()["events"], store.stats()["server_pid"] != server)
        """,
        package.parent,
        path,
    )
    assert said.splitlines() == ["True True", "None 2", "4 4 True"]


def fake_python(tmp_path: Path, script: str) -> Path:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\n{script}")
    python.chmod(0o700)
    return python


WITH_PYTHON = """
import multiprocessing, sys, time
import maestro_shm as ms
multiprocessing.set_executable(sys.argv[1])
started = time.monotonic()
try:
    ms.connect(timeout=3)
except ms.StoreUnavailableError as error:
    print(time.monotonic() - started < 20, error)
"""


def test_a_server_that_does_not_get_ready_in_time_is_ended(tmp_path: Path) -> None:
    said = output_of(WITH_PYTHON, fake_python(tmp_path, "sleep 60 & wait"))
    assert said.startswith("True")
    assert "did not become ready in time" in said
    wait_until(lambda: is_gone(int((tmp_path / "pid").read_text())), "the one that hangs has ended")


@pytest.mark.parametrize("said", ["maestro_shm: failed", "maestro_shm: failed; printf '\\\\0\\\\0\\\\0\\\\1\\\\301'"])
def test_a_server_whose_last_words_cannot_be_read_has_them_in_the_error(tmp_path: Path, said: str) -> None:
    assert "could not start" in output_of(WITH_PYTHON, fake_python(tmp_path, f"echo {said}; exit 1"))


def test_a_frozen_program_does_not_start_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ms.StoreUnavailableError, match="set_executable"):
        ms.connect()


def test_a_server_hears_the_signals_that_its_client_blocks() -> None:
    with named_target() as target:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            with ms.connect(target) as store:
                server = store.stats()["server_pid"]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.kill(server, signal.SIGTERM)
        wait_until(lambda: is_gone(server), "the server has left")


def test_a_call_to_a_silent_server_ends_in_time_though_signals_come_all_the_time() -> None:
    with named_target() as target, ms.connect(target) as store:
        server = store.stats()["server_pid"]
        with Program(
            """
            import maestro_shm as ms, os, signal, sys
            with ms.connect(sys.argv[1], timeout=1) as store:
                store.commit_events([ms.Event("a", 1, "made", None)])
                os.kill(int(sys.argv[2]), signal.SIGSTOP)
                signal.signal(signal.SIGALRM, lambda *_: None)
                signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
                try:
                    store.commit_events([ms.Event("a", 2, "made", None)])
                except ms.StoreUnavailableError as error:
                    print(error)
                signal.setitimer(signal.ITIMER_REAL, 0)  # Python gives up its handlers before it ends
            """,
            target,
            server,
        ) as program:
            assert (
                "no reply within 1 s; the commit that was under way may or may not have been stored" in program.output()
            )
        os.kill(server, signal.SIGCONT)


def test_a_program_with_the_default_sigpipe_survives_the_end_of_the_server() -> None:
    with named_target() as target:
        said = output_of(
            """
            import maestro_shm as ms, os, signal, sys, time
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            with ms.connect(sys.argv[1]) as store:
                store.commit_events([ms.Event("a", 1, "made", None)])
                os.kill(store.stats()["server_pid"], signal.SIGKILL)
                time.sleep(0.2)
                store.commit_events([ms.Event("a", 2, "made", None)])
                print(store.stats()["events"])
            """,
            target,
        )
        assert said == "2"


def test_a_directory_whose_name_is_no_unicode_is_served_and_named_in_errors(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/st\xff"))
    with cleaned_up(path), ms.connect(path) as store, ms.connect(path) as other:
        commit(store, 1)
        commit(other, 2)
        server = store.stats()["server_pid"]
        with pytest.raises(ms.StoreUnavailableError, match="still in use") as caught:
            ms.destroy(path)
        assert caught.value.target == str(path)
        commit(store, 3)
        assert store.stats()["server_pid"] == server


def test_complaints_are_limited_and_survive_a_full_disk() -> None:
    def complain() -> int:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        os.dup2(writer, 2)
        mine = complaints.Complaints()
        for number in range(20_000):
            mine.about(f"\ud800 {number} is too much")
        written = 0
        os.set_blocking(reader, False)
        while True:
            try:
                written += len(os.read(reader, 1 << 20))
            except BlockingIOError:
                break
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
        complaints.Complaints().about("no room")
        return written

    with Fork(complain) as fork:
        assert 0 < fork.result() <= 1 << 16


def test_a_servers_log_does_not_grow_for_ever(path: Path) -> None:
    ms.connect(path).close()
    log = path / directories.SERVER_LOG
    log.write_bytes(b"x" * (1 << 19))
    with ms.connect(path) as store:
        commit(store, 1)
        kill(store.stats()["server_pid"])
        commit(store, 2)
    assert log.stat().st_size < 1 << 19


def last_sequence(store: ms.Store) -> int | None:
    return store.last_sequence("a")


def test_a_handle_of_a_store_that_is_gone_fails_where_it_is_used_and_not_in_the_pool() -> None:
    with named_target() as target, ms.connect(target) as store, multiprocessing.get_context("spawn").Pool(1) as pool:
        commit(store, 7)
        assert pool.apply(last_sequence, (store,)) == 7
        with named_target() as other:
            gone = ms.connect(other)
            kill(gone.stats()["server_pid"])
            shutil.rmtree(path_of(other))
            with pytest.raises(ms.StoreUnavailableError, match="no such store"):
                pool.apply_async(last_sequence, (gone,)).get(timeout=30)
            gone.close()
        assert pool.apply(last_sequence, (store,)) == 7


def test_a_commit_under_way_when_its_store_is_removed_says_that_it_is_no_more() -> None:
    with named_target() as target, ms.connect(target) as store:
        commit(store, 1)
        kill(store.stats()["server_pid"])
        shutil.rmtree(path_of(target))
        for _ in range(2):  # to make it again would be in vain
            with pytest.raises(ms.StoreClosedError, match=f"{target}.*was destroyed"):
                commit(store, 2)


def test_a_server_that_breaks_off_every_time_leaves_the_outcome_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(*_: object) -> None:
        raise EOFError

    with ms.connect() as store, monkeypatch.context() as patch:
        commit(store, 1)
        patch.setattr(Line, "send", break_off)
        with pytest.raises(ms.StoreUnavailableError, match=r"several times.*may or may not have been stored"):
            commit(store, 2)


def test_an_error_that_a_signals_handler_raises_comes_through_a_call() -> None:
    said = output_of(
        """
        import maestro_shm as ms, os, signal

        def late(*_):
            raise TimeoutError("mine")

        with ms.connect() as store:
            server = store.stats()["server_pid"]
            store.commit_events([ms.Event("a", 1, "made", None)])
            os.kill(server, signal.SIGSTOP)
            signal.signal(signal.SIGALRM, late)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                store.commit_events([ms.Event("a", 2, "made", None)])
            except TimeoutError as error:
                print(error)
            os.kill(server, signal.SIGCONT)
            store.commit_events([ms.Event("b", 1, "made", None)])
        """
    )
    assert said == "mine"


def test_the_time_of_a_call_is_one_time_however_many_steps_it_takes() -> None:
    with named_target() as target, ms.connect(target) as store:
        server = store.stats()["server_pid"]
        os.kill(server, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(ms.StoreUnavailableError, match="does not answer"):
            ms.connect(target, timeout=1)
        assert time.monotonic() - started >= 1
        os.kill(server, signal.SIGCONT)


DIES_EARLY = """
import os
from maestro_shm.shared import process

say_ready = process._say_ready

def die(directory):
    started = {directory!r} + "/started"
    open(started, "a").write("x")
    if os.path.getsize(started) <= {times}:
        os.kill(os.getpid(), 9)
    say_ready(directory)

process._say_ready = die
"""


@pytest.mark.parametrize(("times", "said"), [(3, "1"), (4, "could not start")])
def test_a_server_that_is_killed_while_it_starts_gets_a_successor(
    path: Path, tmp_path: Path, times: int, said: str
) -> None:
    package = other_package(tmp_path, DIES_EARLY.format(directory=str(tmp_path), times=times))
    source = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import maestro_shm as ms
        try:
            with ms.connect(sys.argv[2]) as store:
                print(store.commit_events([ms.Event("a", 1, "made", None)])[0].position)
        except ms.StoreUnavailableError as error:
            print(error)
    """
    with cleaned_up(path):
        assert said in output_of(source, package.parent, path)
    assert (tmp_path / "started").stat().st_size == 4
