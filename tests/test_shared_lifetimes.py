from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from pathlib import Path

import pytest
from alarm import Alarm
from processes import (
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
from maestro_shm.shared.store import path_of

CREATOR = """
import maestro_shm as ms, os, sys
store = ms.connect()
stats = store.stats()
store.commit_events([ms.Event("a", 1, "made", None)])
print(stats["server_pid"], stats["directory"], flush=True)
"""


def append(store: ms.Store, aggregate_id: str, count: int) -> int:
    """Append to a stream of one's own; top-level, so that every kind of pool can run it."""
    for sequence in range(1, count + 1):
        store.commit_events([ms.Event(aggregate_id, sequence, "appended", os.getpid())])
    return len(store.get_events(aggregate_id))


def ends(server: str, directory: str) -> None:
    wait_until(lambda: is_gone(int(server)) and not Path(directory).exists(), "the private store is gone")


def test_a_private_store_ends_when_it_is_closed() -> None:
    store = ms.connect()
    stats = store.stats()
    store.close()
    assert not Path(stats["directory"]).exists()
    wait_until(lambda: is_gone(stats["server_pid"]), "the server has ended")


def test_a_private_store_ends_when_its_creator_is_killed_though_its_child_lives() -> None:
    with Program(
        CREATOR + "\nif os.fork() == 0:\n    import time; time.sleep(30)\nelse:\n    sys.stdin.read()"
    ) as creator:
        server, directory = creator.line().split()
        os.kill(creator.pid, signal.SIGKILL)
        ends(server, directory)


def test_a_private_store_ends_when_its_creator_leaves_without_closing_it() -> None:
    ends(*output_of(CREATOR).split())


def test_the_leavings_of_a_killed_creator_and_a_killed_server_are_swept_by_the_next_private_store() -> None:
    with Program(CREATOR + "sys.stdin.read()") as creator:
        server, directory = creator.line().split()
        os.kill(int(server), signal.SIGSTOP)
        creator.kill()
        kill(int(server))
    assert Path(directory).exists()
    ms.connect().close()
    assert not Path(directory).exists()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_pool_share_a_store_that_is_sent_to_them(method: str) -> None:
    with ms.connect() as store, multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(append, [(store, f"{method}-{task}", 5) for task in range(8)]) == [5] * 8
        assert store.stats()["events"] == 40
        # Tasks are many, connections are one for each process: this one and two workers.
        assert store.stats()["clients"] <= 3


def test_forks_use_what_they_inherit_and_get_their_own_replies() -> None:
    with ms.connect() as store:
        assert in_forks(6, lambda number: append(store, f"fork-{number}", 50)) == [50] * 6
        assert append(store, "parent", 50) == 50


def test_a_fork_that_closes_its_handle_ends_nothing() -> None:
    with ms.connect() as store:
        with Fork(store.close) as fork:
            fork.result()
        store.commit_events([ms.Event("a", 1, "still", None)])


def test_threads_share_a_handle() -> None:
    with ms.connect() as store:
        threads = [threading.Thread(target=append, args=(store, f"thread-{n}", 30)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [store.last_sequence(f"thread-{n}") for n in range(16)] == [30] * 16


def test_a_handle_pickles_as_its_target_and_comes_back_as_itself_in_the_same_process() -> None:
    with ms.connect() as store:
        assert pickle.loads(pickle.dumps(store)) is store
    with pytest.raises(ms.StoreClosedError):
        pickle.dumps(store)


def test_a_root_goes_to_a_worker_and_sees_what_happened_there() -> None:
    with ms.connect() as store:
        counter = Counter.new(store)
        with multiprocessing.get_context("spawn").Pool(3) as pool:
            pool.map(count, [counter] * 9)
        assert counter.fetch() == 90


class Counter(ms.Aggregate):
    initial_state = 0

    @ms.on_command("count")
    def count(self, _command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("counted")]

    @ms.on_event("counted")
    def counted(state: int, _event: ms.Event) -> int:  # noqa: N805 (a plain function)
        return state + 1


def count(counter: Counter) -> None:
    for _ in range(10):
        counter.evaluate(ms.Command("count"))


def test_a_named_store_outlives_its_program_and_is_found_by_another() -> None:
    writer = "import maestro_shm as ms, sys\nms.connect(sys.argv[1]).commit_events([ms.Event('a', 1, 'made', [1])])"
    reader = "import maestro_shm as ms, sys\nprint(ms.connect(sys.argv[1]).get_events('a')[0].body)"
    with named_target() as target:
        output_of(writer, target)
        assert output_of(reader, target) == "[1]"
        ms.destroy(target)
        assert not path_of(target).exists()


def test_a_server_without_clients_leaves_and_comes_back_with_all_the_data(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with cleaned_up(path):
        with ms.connect(path, idle_timeout=0.1) as store:
            append(store, "a", 3)
            first = store.stats()["server_pid"]
        wait_until(lambda: is_gone(first), "the idle server has left")
        with ms.connect(path) as store:
            assert store.last_sequence("a") == 3
            assert store.stats()["epoch"] == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["private", "path"])
def test_a_killed_server_loses_nothing_and_the_next_call_starts_another(
    kind: str, number: signal.Signals, tmp_path: Path
) -> None:
    with cleaned_up(tmp_path / "store"), ms.connect(None if kind == "private" else tmp_path / "store") as store:
        for sequence in range(1, 5):
            store.commit_events([ms.Event("a", sequence, "kept", None)])
            kill(store.stats()["server_pid"], number)
            assert store.last_sequence("a") == sequence
        store.commit_snapshot(ms.Snapshot("a", 4, None))
        assert store.stats()["epoch"] == 5


def test_writers_lose_and_double_nothing_while_the_server_is_killed_under_them() -> None:
    with ms.connect() as store, multiprocessing.get_context("fork").Pool(4) as pool:
        results = [pool.apply_async(append, (store, f"writer-{n}", 400)) for n in range(4)]
        for _ in range(5):
            before = store.stats()["last_position"]
            kill(store.stats()["server_pid"])
            wait_until(lambda before=before: store.stats()["last_position"] > before + 20, "commits go on")  # type: ignore[misc] # a lambda with a default
        assert [result.get(60) for result in results] == [400] * 4
        assert store.stats()["events"] == 1600


class InterruptError(Exception):
    pass


def test_an_interrupted_call_never_gives_its_reply_to_a_later_one() -> None:
    def interrupt() -> None:
        raise InterruptError

    interrupted = 0
    with ms.connect() as store, Alarm(interrupt) as alarm:
        for number in range(1, 400):
            try:
                alarm.set(20e-6 + number % 40 * 3e-6)
                stored = store.commit_events([ms.Event(f"a-{number}", number, "tried", number)])
                alarm.clear()
                assert stored[0].body == number
            except InterruptError:
                interrupted += 1
            alarm.clear()
            (event,) = store.commit_events([ms.Event(f"b-{number}", number, "done", number)])
            assert store.get_events(f"b-{number}") == [event]
    assert interrupted > 20


def test_what_is_typed_at_the_terminal_does_not_reach_the_server() -> None:
    with ms.connect() as store:
        server = store.stats()["server_pid"]
        assert os.getsid(server) != os.getsid(0)
        os.kill(server, signal.SIGINT)
        append(store, "a", 2)
        assert store.stats()["server_pid"] == server


def test_opening_and_closing_leaves_no_descriptor_and_no_thread() -> None:
    with named_target() as target, ms.connect(target):
        ms.connect(target).close()
        descriptors, threads = open_descriptors(), threading.active_count()
        for _ in range(200):
            with ms.connect(target) as store:
                store.last_sequence("a")
        assert (open_descriptors(), threading.active_count()) == (descriptors, threads)


def test_private_stores_leave_nothing_behind() -> None:
    ms.connect().close()
    descriptors = open_descriptors()
    for _ in range(5):
        with ms.connect() as store:
            append(store, "a", 2)
            directory = store.stats()["directory"]
        wait_until(lambda directory=directory: not servers_of(directory), "the server has ended")  # type: ignore[misc] # a lambda with a default
        assert not Path(directory).exists()
    assert open_descriptors() == descriptors


def test_a_store_in_use_is_not_destroyed_and_one_that_is_not_there_neither() -> None:
    with named_target() as target:
        with ms.connect(target) as store:
            with pytest.raises(ms.StoreUnavailableError, match="still in use by 1 "):
                ms.destroy(target)
            append(store, "a", 1)
        ms.destroy(target)
        with pytest.raises(ms.StoreUnavailableError, match="no such store"):
            ms.destroy(target)


def test_a_handle_of_a_store_that_is_gone_says_so() -> None:
    with named_target() as target:
        store = ms.connect(target)
        kill(store.stats()["server_pid"])
        ms.destroy(target)
        with pytest.raises(ms.StoreError, match=r"closed|no such store"):
            store.last_sequence("a")
        with pytest.raises(ms.StoreError, match=r"closed|no such store"):
            store.commit_events([ms.Event("a", 1, "late", None)])
        store.close()


def test_figures_of_a_served_store_tell_of_its_server() -> None:
    with ms.connect() as store:
        stats = store.stats()
        assert stats.keys() >= {"events", "aggregates", "last_position", "bytes", "server_pid", "epoch", "clients"}
        # The server greets a client before it counts it.
        wait_until(lambda: store.stats()["clients"] == 1, "the client is counted")
        assert servers_of(stats["directory"]) == [stats["server_pid"]]
