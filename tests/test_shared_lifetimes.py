"""How long stores and servers live, and who may come, go, fork and die meanwhile. Real processes, real kills."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from processes import (
    PATIENCE,
    Fork,
    Program,
    cleaned_up,
    in_forks,
    is_gone,
    kill,
    named_target,
    open_descriptors,
    output_of,
    servers_of,
    wait_until,
)

import maestro_shm as ms
from maestro_shm.shared.store import SharedStore, path_of

METHODS: Final = ("fork", "spawn", "forkserver")


@pytest.fixture
def target() -> Iterator[str]:
    with named_target() as made:
        yield made


def append(store: ms.Store, aggregate_id: str, body: Any = None) -> ms.Event:
    """Commit the next event of an aggregate that nobody else writes to."""
    sequence = (store.last_sequence(aggregate_id) or 0) + 1
    (event,) = store.commit_events([ms.Event(aggregate_id, sequence, "type", body)])
    assert (event.aggregate_id, event.sequence) == (aggregate_id, sequence)
    return event


def bodies(store: ms.Store, aggregate_id: str) -> list[Any]:
    return [event.body for event in store.get_events(aggregate_id)]


def pid_of(store: ms.Store) -> int:
    pid: int = store.stats()["server_pid"]
    return pid


def directory_of(store: ms.Store) -> Path:
    return Path(store.stats()["directory"])


def hang_up(store: ms.Store) -> None:
    """Drop the handle's connections, as a call that was interrupted does."""
    assert isinstance(store, SharedStore)
    store._proxy.close()


# A private store


def test_a_private_store_ends_with_its_handle() -> None:
    with ms.connect() as store:
        directory, pid = directory_of(store), pid_of(store)
        append(store, "a")
        assert directory.is_dir()
    assert not directory.exists()
    wait_until(lambda: is_gone(pid), "the server has ended")


def test_a_private_store_ends_with_its_handle_though_a_call_was_interrupted() -> None:
    with ms.connect() as store:
        directory, pid = directory_of(store), pid_of(store)
        hang_up(store)
    assert not directory.exists()
    wait_until(lambda: is_gone(pid), "the server has ended")


def test_a_private_store_ends_with_its_handle_though_its_server_was_killed() -> None:
    with ms.connect() as store:
        directory = directory_of(store)
        append(store, "a")
        kill(pid_of(store))
    assert not directory.exists()
    assert servers_of(directory) == []


def test_a_private_store_ends_when_its_handle_is_forgotten() -> None:
    store = ms.connect()
    directory, pid = directory_of(store), pid_of(store)
    del store
    gc.collect()
    assert not directory.exists()
    wait_until(lambda: is_gone(pid), "the server has ended")


def test_a_private_store_whose_server_was_killed_goes_on() -> None:
    with ms.connect() as store:
        append(store, "a", 1)
        kill(pid_of(store))
        append(store, "a", 2)
        assert bodies(store, "a") == [1, 2]


CREATOR: Final = """
    import os, sys, time
    import maestro_shm as ms
    store = ms.connect()
    store.commit_events([ms.Event("a", 1, "type", None)])
    stats = store.stats()
    print(stats["directory"], stats["server_pid"], flush=True)
"""


def test_a_private_store_ends_when_its_creator_is_killed() -> None:
    with Program(CREATOR + "    time.sleep(600)") as creator:
        directory, pid = creator.line().split()
        assert Path(directory).is_dir()
        creator.kill()
        wait_until(lambda: is_gone(int(pid)), "the server has ended")
        wait_until(lambda: not Path(directory).exists(), "the directory is gone")


def test_a_private_store_ends_when_its_creator_is_killed_though_its_children_live_on() -> None:
    source = (
        CREATOR
        + """
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        sys.stdin.readline()
        for call in (
            lambda: store.commit_events([ms.Event("a", 2, "type", None)]),
            lambda: store.get_events("a"),
        ):
            try:
                call()
                print("no error", flush=True)
            except ms.StoreError as error:
                print(type(error).__name__, error, flush=True)
    time.sleep(600)
    """
    )
    with Program(source) as creator:
        directory, pid = creator.line().split()
        child = int(creator.line())
        creator.kill()
        wait_until(lambda: is_gone(int(pid)), "the server has ended")
        assert not Path(directory).exists()
        assert not is_gone(child)
        creator.tell()
        for said in (creator.line(), creator.line()):
            assert said.startswith(("StoreUnavailableError", "StoreClosedError"))
            assert "no such store" in said or "ended" in said or "is closed" in said


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "os._exit(0)", "del store"])
def test_a_private_store_ends_when_its_creator_ends_without_closing_it(end: str) -> None:
    with Program(CREATOR + f"    {end}") as creator:
        code, out, err = creator.outcome()
        assert (code, err) == (0, "")
        directory, pid = out.split()
        wait_until(lambda: is_gone(int(pid)), "the server has ended")
        wait_until(lambda: not Path(directory).exists(), "the directory is gone")


def test_what_a_killed_creator_and_a_killed_server_left_is_swept_by_the_next() -> None:
    with Program(CREATOR + "    time.sleep(600)") as creator:
        directory, pid = creator.line().split()
        with cleaned_up(directory):
            os.kill(int(pid), signal.SIGSTOP)
            creator.kill()
            kill(int(pid))
            assert Path(directory).exists()
            ms.connect().close()
            assert not Path(directory).exists()


def test_several_programs_may_sweep_at_once() -> None:
    from maestro_shm.shared import directory as directories

    dead = directories.Settings(1 << 20, 30.0, "999999999:1")
    left = []
    for _ in range(200):
        path = directories.new_private_path()
        path.mkdir()
        directories.found(path, dead)
        left.append(path)
    in_forks(4, lambda _: directories.sweep_private())
    assert not any(path.exists() for path in left)


def test_private_stores_leave_nothing_behind() -> None:
    def mine() -> set[str]:
        return {path.name for path in Path("/dev/shm").iterdir() if f"-private-{os.getpid()}-" in path.name}

    ms.connect().close()
    before, descriptors, threads = mine(), open_descriptors(), threading.active_count()
    for _ in range(4):
        with ms.connect() as store:
            append(store, "a")
    gc.collect()
    assert mine() == before
    assert (open_descriptors(), threading.active_count()) == (descriptors, threads)


# Its children


def commit_in_worker(store: ms.Store, name: str) -> tuple[int | None, int]:
    event = append(store, name, os.getpid())
    clients: int = store.stats()["clients"]
    store.close()
    return event.position, clients


@pytest.mark.parametrize("method", METHODS)
def test_children_use_a_private_store_by_pickle_and_their_closing_does_not_end_it(method: str) -> None:
    context = multiprocessing.get_context(method)
    with ms.connect() as store:
        with context.Pool(2) as pool:
            names = [f"task-{number}" for number in range(8)]
            results = pool.starmap_async(commit_in_worker, [(store, name) for name in names]).get(PATIENCE)
        assert sorted(position for position, _ in results) == list(range(1, 9))  # type: ignore[type-var] # no position is None
        assert all(len(bodies(store, name)) == 1 for name in names)
        append(store, "after")


def put_in_worker(store: ms.Store) -> None:
    append(store, "child", "from the child")


@pytest.mark.parametrize("method", METHODS)
def test_a_child_gets_a_private_store_as_an_argument(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with ms.connect() as store:
        child = context.Process(target=put_in_worker, args=(store,))
        child.start()
        try:
            child.join(PATIENCE)
            assert child.exitcode == 0
        finally:
            child.kill()
            child.join()
        assert bodies(store, "child") == ["from the child"]
        append(store, "child", "from the parent")


def test_raw_forks_inherit_a_private_store_and_their_end_does_not_end_it() -> None:
    with ms.connect() as store:
        append(store, "before")
        results = in_forks(4, lambda number: append(store, f"child-{number}", number).body)
        assert results == [0, 1, 2, 3]
        append(store, "before")
        assert [bodies(store, f"child-{number}") for number in range(4)] == [[0], [1], [2], [3]]


def test_closing_in_a_forked_child_does_not_end_a_private_store() -> None:
    with ms.connect() as store:

        def close() -> bool:
            append(store, "child")
            store.close()
            return directory_exists()

        directory = directory_of(store)
        directory_exists = directory.is_dir
        with Fork(close) as child:
            assert child.result()
        append(store, "child")
        assert directory.is_dir()


def test_a_forked_child_that_exits_in_the_usual_way_does_not_end_a_private_store() -> None:
    source = (
        CREATOR
        + """
    child = os.fork()
    if child == 0:
        store.commit_events([ms.Event("child", 1, "type", None)])
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    store.commit_events([ms.Event("a", 2, "type", None)])
    print(len(store.get_events("child")), flush=True)
    """
    )
    with Program(source) as program:
        assert program.output().splitlines()[-1] == "1"


def test_a_child_may_have_a_private_store_of_its_own() -> None:
    def work() -> bool:
        with ms.connect() as own:
            append(own, "own")
            return own.last_sequence("parents") is None

    with ms.connect() as store:
        append(store, "parents")
        with Fork(work) as child:
            assert child.result()
        append(store, "parents")


def test_forks_of_a_connected_process_each_get_their_own_replies(target: str) -> None:
    with ms.connect(target) as store:

        def work(number: int) -> bool:
            for step in range(100):
                event = append(store, f"child-{number}", [number, step])
                assert store.get_events(f"child-{number}", event.sequence) == [event]
            return True

        assert in_forks(6, work) == [True] * 6
        assert store.stats()["last_position"] == 600


def test_prefork_workers_commit_through_a_handle_of_their_parent(target: str) -> None:
    with ms.connect(target) as store:

        def worker(number: int) -> list[int | None]:
            found: list[int | None] = []
            while len(found) < 50:
                sequence = (store.last_sequence("shared") or 0) + 1
                try:
                    (event,) = store.commit_events([ms.Event("shared", sequence, "type", number)])
                except ms.SequenceConflictError:
                    continue
                found.append(event.position)
            return found

        positions = [position for found in in_forks(4, worker) for position in found]
        assert sorted(position or 0 for position in positions) == list(range(1, 201))
        assert [event.sequence for event in store.get_events("shared")] == list(range(1, 201))


def test_a_fork_while_another_thread_unpickles_a_handle_does_not_hang_the_child(target: str) -> None:
    from maestro_shm.shared import store as module

    with ms.connect(target) as store:
        data = pickle.dumps(store)

        def work() -> None:
            signal.alarm(5)
            pickle.loads(data)

        with module._reconnect_lock:  # as that thread holds it
            child = Fork(work)
        with child:
            child.result()


# Named and path stores


@pytest.fixture(params=["name", "path"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "name":
        with named_target() as made:
            yield made
    else:
        with cleaned_up(tmp_path / "store"):
            yield str(tmp_path / "store")


def test_a_lasting_store_outlives_its_creator_and_another_program_finds_it(lasting: str) -> None:
    source = """
        import sys
        import maestro_shm as ms
        with ms.connect(sys.argv[1]) as store:
            sequence = (store.last_sequence("a") or 0) + 1
            store.commit_events([ms.Event("a", sequence, "type", sequence)])
            print(store.stats()["server_pid"], len(store.get_events("a")))
    """
    first, second = output_of(source, lasting), output_of(source, lasting)
    assert [said.split()[1] for said in (first, second)] == ["1", "2"]
    assert first.split()[0] == second.split()[0], "the same server"
    with ms.connect(lasting) as store:
        assert bodies(store, "a") == [1, 2]


def test_a_server_without_clients_leaves_and_comes_back_with_all_the_data(lasting: str) -> None:
    with ms.connect(lasting, idle_timeout=0.5) as store:
        append(store, "a", 1)
        store.commit_snapshot(ms.Snapshot("a", 1, "state"))
        pid = pid_of(store)
        hang_up(store)
        wait_until(lambda: is_gone(pid), "the server has left")
        assert bodies(store, "a") == [1], "reads need no server"
        assert is_gone(pid_of(store))
        append(store, "a", 2)
        assert bodies(store, "a") == [1, 2]
        assert store.get_snapshot("a") == ms.Snapshot("a", 1, "state")
        assert pid_of(store) != pid
        assert not is_gone(pid_of(store))


def test_a_server_with_a_client_does_not_leave(target: str) -> None:
    with ms.connect(target, idle_timeout=0.1) as store:
        pid = pid_of(store)
        time.sleep(1.5)
        assert not is_gone(pid)


def test_the_next_commit_after_a_server_was_killed_goes_through(lasting: str) -> None:
    with ms.connect(lasting) as store, ms.connect(lasting) as other:
        for round_ in range(3):
            kill(pid_of(store))
            append(store, "a", round_)
            append(other, "b", round_)
            assert other.commit_snapshot(ms.Snapshot("a", round_, round_))
        assert bodies(other, "a") == bodies(store, "b") == [0, 1, 2]


def test_what_was_acknowledged_while_servers_were_killed_is_there_once(target: str, tmp_path: Path) -> None:
    def work(number: int) -> list[ms.Event]:
        with ms.connect(target) as store:
            (tmp_path / str(number)).touch()
            acknowledged = []
            for step in range(2_000):
                acknowledged.append(append(store, f"a-{number}", step))
                if (tmp_path / "enough").exists() and step > 100:
                    break
            return acknowledged

    with ms.connect(target) as store:
        forks = [Fork(lambda number=number: work(number)) for number in range(4)]  # type: ignore[misc] # mypy cannot infer a lambda with a default
        try:
            wait_until(lambda: len(list(tmp_path.iterdir())) == 4, "all are connected")
            for _ in range(4):
                time.sleep(0.05)
                epoch = store.stats()["epoch"]
                kill(pid_of(store))
                wait_until(lambda epoch=epoch: store.stats()["epoch"] > epoch, "another server is there")
            (tmp_path / "enough").touch()
            everything = [event for fork in forks for event in fork.result()]
        finally:
            for fork in forks:
                fork.kill()
        everything.sort(key=lambda event: event.position or 0)
        assert [event.position for event in everything] == list(range(1, len(everything) + 1))
        for number in range(4):
            mine = [event for event in everything if event.aggregate_id == f"a-{number}"]
            assert store.get_events(f"a-{number}") == mine


def test_sigterm_ends_a_server_cleanly_and_the_next_call_starts_another(lasting: str) -> None:
    with ms.connect(lasting) as store:
        append(store, "a", 1)
        pid, directory = pid_of(store), directory_of(store)
        kill(pid, signal.SIGTERM)
        assert list(directory.glob("socket-*")) == []
        assert bodies(store, "a") == [1]
        append(store, "a", 2)
        assert bodies(store, "a") == [1, 2]
        assert (directory / "server.log").read_text() == ""


def test_sigterm_does_not_end_a_private_store() -> None:
    with ms.connect() as store:
        append(store, "a", 1)
        kill(pid_of(store), signal.SIGTERM)
        append(store, "a", 2)
        assert bodies(store, "a") == [1, 2]


def test_what_is_typed_at_the_terminal_does_not_reach_the_server() -> None:
    source = """
        import signal, sys, time
        import maestro_shm as ms
        store = ms.connect()
        print(store.stats()["server_pid"], flush=True)
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            store.commit_events([ms.Event("a", 1, "type", None)])
            print(store.stats()["server_pid"], flush=True)
    """
    with Program(source) as program:
        pid = program.line()
        assert os.getsid(int(pid)) not in (os.getsid(0), os.getsid(program.pid))
        assert os.getpgid(int(pid)) != os.getpgid(program.pid)
        program.signal(signal.SIGINT)
        assert program.line() == pid
        assert program.output() == ""


def test_sigint_to_the_server_itself_is_ignored(target: str) -> None:
    with ms.connect(target) as store:
        pid = pid_of(store)
        os.kill(pid, signal.SIGINT)
        append(store, "a")
        assert pid_of(store) == pid
        assert not is_gone(pid)


# Interruptions and threads


class Interrupted(BaseException):
    """What the signal handler raises, as Ctrl-C raises KeyboardInterrupt."""


def commit_under_fire(store: ms.Store, rounds: int) -> int:
    """Commit while a signal handler raises at random moments; every reply must be that of its own request."""
    fired = 0

    def fire(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGALRM, fire)
    chance = random.Random(7)
    for round_ in range(rounds):
        sequence = (store.last_sequence("a") or 0) + 1
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 4e-4))
            try:
                (event,) = store.commit_events([ms.Event("a", sequence, "type", round_)])
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:
            fired += 1
        except ms.SequenceConflictError:
            pass  # the interrupted commit before was under way still
        else:
            assert (event.sequence, event.body) == (sequence, round_)
            assert store.get_events("a", sequence) == [event]
    return fired


def test_an_interrupted_call_leaves_the_handle_usable_and_replies_never_mix(target: str) -> None:
    with ms.connect(target) as store:
        with Fork(lambda: commit_under_fire(store, 600)) as child:
            fired = child.result()
        assert fired > 50
        sequences = [event.sequence for event in store.get_events("a")]
        assert sequences == list(range(1, len(sequences) + 1))
        append(store, "a")
        wait_until(lambda: store.stats()["clients"] == 1, "the connections of the child are closed")


def test_an_interrupted_connect_leaves_no_lock_behind(target: str) -> None:
    def work() -> int:
        def fire(*_: object) -> None:
            raise Interrupted

        signal.signal(signal.SIGALRM, fire)
        fired = 0
        chance = random.Random(7)
        for _ in range(30):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-4, 0.05))
                try:
                    ms.connect(target).close()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                fired += 1
            for pid in servers_of(path_of(target)):
                kill(pid)
        return fired

    with Fork(work) as child:
        assert child.result() > 3
    with ms.connect(target, timeout=20) as store:
        append(store, "a")


@pytest.mark.usefixtures("hasty_threads")
def test_threads_share_a_handle(target: str) -> None:
    with ms.connect(target) as store:
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for step in range(40):
                    event = append(store, f"thread-{number}", [number, step])
                    assert store.get_events(f"thread-{number}", event.sequence) == [event]
            except BaseException as error:  # noqa: BLE001 (the test shows it)
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert errors == []
        assert store.stats()["events"] == 640
        assert store.stats()["clients"] <= 16


def test_stats_may_be_asked_while_files_come_and_go() -> None:
    with ms.connect() as store:
        failures: list[BaseException] = []
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                try:
                    store.stats()
                except BaseException as error:  # noqa: BLE001 (the test shows it)
                    failures.append(error)
                    return

        thread = threading.Thread(target=ask)
        thread.start()
        for _ in range(100):
            store.reset()
            append(store, "a")
        over.set()
        thread.join(PATIENCE)
        assert failures == []


# Handles


def test_handles_that_open_and_close_leave_nothing_behind(target: str) -> None:
    with ms.connect(target) as keeper:
        pid = pid_of(keeper)

        def figures() -> tuple[int, int, int]:
            gc.collect()
            return open_descriptors(), threading.active_count(), len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (a count)

        ms.connect(target).close()
        wait_until(lambda: keeper.stats()["clients"] == 1, "the server has seen the end of the first")
        before = figures()
        for number in range(200):
            with ms.connect(target) as store:
                append(store, f"a-{number}")
        wait_until(lambda: keeper.stats()["clients"] == 1, "the server has seen the end of all")
        wait_until(lambda: figures() == before, f"the figures are {before} again, they are {figures()}")


def test_a_handle_that_is_forgotten_hangs_up_without_a_warning(target: str) -> None:
    with ms.connect(target) as keeper:
        store = ms.connect(target)
        append(store, "a")
        del store
        gc.collect()
        wait_until(lambda: keeper.stats()["clients"] == 1, "the server has seen its end")


def test_a_handle_pickles_as_its_target_and_comes_back_as_itself(lasting: str) -> None:
    with ms.connect(lasting) as store:
        append(store, "a", "x" * 10_000)
        data = pickle.dumps(store)
        assert len(data) < 1_000
        assert pickle.loads(data) is store
        assert pickle.loads(pickle.dumps([store, store])) == [store, store]


def test_a_closed_handle_is_refused_by_pickle_and_by_every_call(target: str) -> None:
    store = ms.connect(target)
    data = pickle.dumps(store)
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: pickle.dumps(store),
        lambda: append(store, "a"),
        lambda: store.get_events("a"),
        lambda: store.commit_snapshot(ms.Snapshot("a", 1, None)),
        store.stats,
    ]
    for call in calls:
        with pytest.raises(ms.StoreClosedError, match="is closed"):
            call()
    again = pickle.loads(data)
    assert again is not store
    append(again, "a")
    again.close()


def test_a_handle_that_is_unpickled_twice_in_a_worker_connects_once(target: str) -> None:
    source = """
        import pickle, sys
        data = bytes.fromhex(sys.argv[1])
        first, second = pickle.loads(data), pickle.loads(data)
        assert first is second
        first.commit_events([type_ for type_ in []])
        print(first.stats()["clients"])
    """
    with ms.connect(target) as store:
        assert output_of(source, pickle.dumps(store).hex()) == "2"


def test_stats_tell_of_the_store_and_its_server(lasting: str) -> None:
    with ms.connect(lasting) as store:
        append(store, "a")
        append(store, "a")
        append(store, "b")
        stats = store.stats()
        assert set(stats) >= {
            "events",
            "aggregates",
            "last_position",
            "bytes",
            "server_pid",
            "epoch",
            "clients",
            "directory",
        }
        assert (stats["events"], stats["aggregates"], stats["last_position"]) == (3, 2, 3)
        assert (stats["epoch"], stats["clients"]) == (1, 1)
        assert stats["bytes"] > 0
        assert servers_of(stats["directory"]) == [stats["server_pid"]]


# The end of a store


def test_a_store_in_use_is_not_destroyed_and_an_unused_one_is(lasting: str) -> None:
    with ms.connect(lasting) as store:
        append(store, "a")
        directory, pid = directory_of(store), pid_of(store)
        with pytest.raises(ms.StoreUnavailableError, match="in use"):
            ms.destroy(lasting)
        append(store, "a")
    ms.destroy(lasting)
    assert not directory.exists()
    wait_until(lambda: is_gone(pid), "the server has ended")
    with ms.connect(lasting) as store:
        assert store.last_sequence("a") is None


def test_a_store_without_a_server_can_be_destroyed(lasting: str) -> None:
    with ms.connect(lasting) as store:
        directory = directory_of(store)
        kill(pid_of(store))
    ms.destroy(lasting)
    assert not directory.exists()


def test_what_is_not_there_cannot_be_destroyed(target: str, tmp_path: Path) -> None:
    for nothing in (target, tmp_path / "nothing", "memory:"):
        with pytest.raises(ms.StoreUnavailableError, match="no such store"):
            ms.destroy(nothing)


def test_a_handle_of_a_destroyed_store_says_so(lasting: str) -> None:
    with ms.connect(lasting) as store:
        append(store, "a")
        hang_up(store)
        directory = directory_of(store)
        wait_until(lambda: store.stats()["clients"] == 0, "the server has seen it go")
        ms.destroy(lasting)
        assert not directory.exists()
        calls: list[Callable[[], object]] = [
            lambda: store.commit_events([ms.Event("a", 2, "type", None)]),
            lambda: store.commit_snapshot(ms.Snapshot("a", 2, None)),
            lambda: store.get_events("a"),
            lambda: store.last_sequence("a"),
            lambda: store.get_snapshot("a"),
            store.stats,
            lambda: pickle.loads(pickle.dumps(store)).stats(),
        ]
        for call in calls:
            with pytest.raises((ms.StoreClosedError, ms.StoreUnavailableError), match=r"is closed|no such store"):
                call()
        assert not directory.exists()


def test_destroying_one_store_from_many_processes_works_once(target: str) -> None:
    ms.connect(target).close()

    def work(_: int) -> str:
        try:
            ms.destroy(target)
        except ms.StoreUnavailableError as error:
            return str(error)
        return "destroyed"

    results = in_forks(4, work)
    assert results.count("destroyed") >= 1
    assert not path_of(target).exists()
