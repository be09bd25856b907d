"""What a PostgreSQL store survives: sessions that are ended, servers that crash, hang or are lost, forks and crowds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alarm import Alarm
from postgres_server import REPLICA, PostgresServer, database_url, schema_url
from processes import Fork, in_forks, open_descriptors, wait_until
from store_contract import event, in_threads

import maestro_shm as ms
from maestro_shm.postgres.connections import MOST_CONNECTIONS
from maestro_shm.postgres.migration import migrate
from maestro_shm.postgres.store import PostgresStore

SESSIONS = """SELECT pid FROM pg_stat_activity WHERE application_name = 'maestro_shm' AND pid <> pg_backend_pid()"""
PATIENT = 60.0


@pytest.fixture
def url() -> Iterator[str]:
    with schema_url() as made:
        migrate(made)
        yield made


@pytest.fixture
def store(url: str) -> Iterator[ms.Store]:
    with ms.connect(url, timeout=PATIENT) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    """For servers of one's own: whoever they run as can reach it, and the path of a socket is short."""
    with tempfile.TemporaryDirectory(prefix="maestro-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def server(place: Path) -> Iterator[PostgresServer]:
    with PostgresServer(place / "server").running() as made:
        migrate(made.url)
        yield made


@contextlib.contextmanager
def administrator() -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url(), autocommit=True) as connection:
        yield connection


def sessions(connection: psycopg.Connection, condition: str = "true") -> list[int]:
    return [pid for (pid,) in connection.execute(f"{SESSIONS} AND {condition}".encode()).fetchall()]


def end_sessions(connection: psycopg.Connection, condition: str = "true") -> int:
    """End them, and wait until they are over."""
    ended = sessions(connection, condition)
    for pid in ended:
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    return len(ended)


def write_until(store: ms.Store, name: str, is_over: threading.Event) -> int:
    """How many events were acknowledged, each in a commit."""
    count = 0
    while not is_over.is_set():
        store.commit_events([event(name, count + 1)])
        count += 1
    return count


def assert_is_stored(store: ms.Store, acknowledged: dict[str, int]) -> None:
    """All that was acknowledged, and nothing else; once, in a feed without gaps."""
    feed = list(store.read())
    assert [stored.position for stored in feed] == list(range(1, len(feed) + 1))
    for name, count in acknowledged.items():
        assert [stored.sequence for stored in feed if stored.aggregate_id == name] == list(range(1, count + 1))
        assert store.get_events(name) == [stored for stored in feed if stored.aggregate_id == name]
    assert len(feed) == sum(acknowledged.values())


@contextlib.contextmanager
def at_work(store: ms.Store, writers: int = 4) -> Iterator[dict[str, int]]:
    """Writers, for so long; what they were told is there afterwards."""
    is_over = threading.Event()
    acknowledged: dict[str, int] = {}
    with ThreadPoolExecutor(writers) as pool:
        works = {name: pool.submit(write_until, store, name, is_over) for name in map(str, range(writers))}
        try:
            wait_until(lambda: store.last_position > writers, "all are at work")
            yield acknowledged
            last = store.last_position
            wait_until(lambda: store.last_position > last + writers, "all are at work again")
        finally:
            is_over.set()
        acknowledged.update({name: work.result() for name, work in works.items()})


# Sessions that are ended


def test_sessions_that_are_ended_lose_and_double_no_commit(store: ms.Store) -> None:
    with administrator() as connection, at_work(store) as acknowledged:
        for _ in range(12):
            wait_until(lambda: end_sessions(connection, "state = 'active'"), "somebody was at work")
    assert_is_stored(store, acknowledged)


def test_a_wait_goes_on_when_its_session_is_ended(store: ms.Store) -> None:
    with administrator() as connection, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.wait, 1, PATIENT)
        for _ in range(3):
            wait_until(lambda: end_sessions(connection, "query LIKE '%maestro_head%' AND state = 'idle'"), "it listens")
        assert not waiting.done()
        store.commit_events([event()])
        assert waiting.result(PATIENT)


def test_a_notification_of_somebody_else_disturbs_no_wait(url: str, store: ms.Store) -> None:
    assert not store.wait(1, timeout=0)
    with psycopg.connect(url, autocommit=True) as connection:
        ((channel,),) = connection.execute("SELECT channel FROM maestro_head").fetchall()
        for payload in ("", "x", "1 2", "a b c"):
            connection.execute("SELECT pg_notify(%s, %s)", (channel, payload))
        waiting = threading.Thread(target=lambda: store.commit_events([event("a")]))
        waiting.start()
        assert store.wait(1, timeout=PATIENT)
        waiting.join()


def test_leases_end_with_who_has_them_though_a_fork_lives(url: str, store: ms.Store) -> None:
    assert isinstance(store, PostgresStore)
    end, hold_on = os.pipe()

    def hold() -> None:
        os.close(hold_on)
        with ms.connect(url) as own:
            assert isinstance(own, PostgresStore)
            held = own._leases("some")
            assert held.take(5)
            os.fork()  # both live until somebody lets go
            os.read(end, 1)

    leases = store._leases("some")
    try:
        with Fork(hold):
            wait_until(lambda: leases.taken_by_others(5, 6) == [5], "the lease is taken")
        wait_until(lambda: leases.take(5), "the lease is free")
    finally:
        leases.close()
        for descriptor in (end, hold_on):
            os.close(descriptor)


def test_consumers_go_on_when_their_sessions_are_ended(url: str, store: ms.Store) -> None:
    store.subscription("work", 4)
    done: list[int] = []

    def consume() -> None:
        with ms.connect(url, timeout=PATIENT) as own:
            while len(set(done)) < 60:
                # Another one may have gone on with it meanwhile; a consumer that is not closed keeps its partitions.
                with contextlib.suppress(ms.SubscriptionError), contextlib.closing(own.subscription("work")) as mine:
                    while len(set(done)) < 60:
                        if (given := mine.get(timeout=0.1)) is not None:
                            done.append(given.position or 0)
                            mine.ack(given)

    def disturb() -> None:
        with administrator() as connection:
            for number in range(1, 61):
                store.commit_events([event(f"aggregate-{number % 7}", number)])
                if number % 20 == 0:
                    wait_until(lambda number=number: len(set(done)) > number - 15, "they go on")  # type: ignore[misc] # mypy cannot infer a lambda with a default
                    end_sessions(connection)

    in_threads(consume, consume, disturb)
    assert set(done) == set(range(1, 61))


def test_a_runner_of_a_projection_goes_on_when_its_session_is_ended(store: ms.Store) -> None:
    class Sum:
        def project(self, event: ms.Event, tables: ms.Tables) -> None:
            tables["sums"]["a"] = tables["sums"].get("a", 0) + event.sequence

    with administrator() as connection, ThreadPoolExecutor(1) as pool:
        with store.projector("sums", Sum()) as projector:
            running = pool.submit(projector.run)
            for number in range(1, 4):
                (stored,) = store.commit_events([event("a", number)])
                assert store.projector("sums").wait_for(stored.position or 0, PATIENT)
                end_sessions(connection)
        running.result(PATIENT)
    assert store.projector("sums").table("sums")["a"] == 6


class InterruptError(Exception):
    """What a program's own handler may raise."""


def test_a_call_that_a_signal_interrupted_is_told_its_outcome_when_it_is_made_again(store: ms.Store) -> None:
    def interrupt() -> None:
        raise InterruptError

    def commit(sequence: int) -> list[ms.Event] | None:
        """None where it was interrupted: the delays grow until none is."""
        told = None
        try:
            alarm.set(1e-5 * (sequence % 50 + 1) ** 1.5)
            told = store.commit_events([event(sequence=sequence)])
            alarm.clear()
        except InterruptError:
            alarm.clear()  # maybe behind the call
        return told

    # The warning is of a connection that got lost.
    with Alarm(interrupt) as alarm, warnings.catch_warnings(action="ignore", category=ResourceWarning):
        told = [commit(sequence) or store.commit_events([event(sequence=sequence)]) for sequence in range(1, 301)]
    assert [stored for (stored,) in told] == list(store.read())
    in_threads(*(lambda: store.last_sequence("a") for _ in range(2 * MOST_CONNECTIONS)))  # no turn was lost


# Servers that end, hang, or wait for others


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["crash", "restart"])
def test_a_server_that_ends_and_starts_again_loses_and_doubles_no_commit(
    server: PostgresServer, how: signal.Signals
) -> None:
    with ms.connect(server.url, timeout=PATIENT) as store, store.subscribe() as subscription:
        with at_work(store) as acknowledged:
            server.stop(how)
            server.start()
        assert_is_stored(store, acknowledged)
        assert [subscription.get(0) for _ in range(store.last_position)] == list(store.read())


def test_a_call_to_a_server_that_hangs_ends_in_its_time_and_is_told_its_outcome_when_it_is_made_again(
    server: PostgresServer,
) -> None:
    with ms.connect(server.url, timeout=0.5) as store:
        store.commit_events([event()])
        frozen = server.processes
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(ms.StoreUnavailableError, match=r"did not answer in time; .* make the same call again"):
                store.commit_events([event(sequence=2)])
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        wait_until(lambda: store.last_sequence("a") == 2, "the commit is there")
        assert store.commit_events([event(sequence=2)]) == store.get_events("a", 2)
        assert store.last_position == 2


def _change(tx: ms.Transaction) -> str:
    tx.table("names")["a"] = 1
    return "changed"


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.commit_events([event()]),
        lambda store: store.commit_snapshot(ms.Snapshot("a", 1, None)),
        lambda store: store.transact(_change),
    ],
    ids=["events", "snapshot", "transaction"],
)
def test_a_commit_is_not_acknowledged_before_it_is_replicated_however_often_it_is_sent(
    server: PostgresServer, call: Callable[[ms.Store], object]
) -> None:
    server.set("synchronous_standby_names", "nobody")
    with (
        ms.connect(server.url, timeout=PATIENT) as store,
        server.connect() as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        told = pool.submit(call, store)
        for _ in range(2):
            wait_until(lambda: end_sessions(connection, "wait_event = 'SyncRep'"), "it is stored, and waits")
        wait_until(lambda: sessions(connection, "wait_event = 'SyncRep'"), "it waits again")
        assert not told.done()
        server.set("synchronous_standby_names", "")
        assert told.result(PATIENT)


def test_a_replica_that_is_promoted_has_all_that_was_acknowledged_and_clients_go_on(place: Path) -> None:
    waits = {"synchronous_standby_names": REPLICA}
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(PostgresServer(place / "one", **waits).running())
        replica = PostgresServer(place / "other")
        replica.follow(primary)
        stack.enter_context(replica.running())
        primary.wait_for_replica()
        url = PostgresServer.url_of(primary, replica)
        migrate(url)
        store = stack.enter_context(ms.connect(url, timeout=PATIENT))
        subscription = stack.enter_context(store.subscribe())
        consumer = stack.enter_context(store.subscription("work", 2))
        with at_work(store, 3) as acknowledged:
            first = consumer.get(PATIENT)
            primary.kill()
            replica.promote()
            assert first is not None
            consumer.ack(first)
        assert_is_stored(store, acknowledged)
        feed = list(store.read())
        assert [subscription.get(0) for _ in feed] == feed
        consumed = {first.position}
        while (given := consumer.get(0)) is not None:
            consumed.add(given.position)
            consumer.ack(given)
        assert consumed == {stored.position for stored in feed}


def test_a_host_that_does_not_answer_leaves_time_for_the_others(server: PostgresServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://maestro@/postgres?host=127.0.0.1,{server.directory}&port={port},5432"
        with ms.connect(url, timeout=9) as store:
            store.commit_events([event()])


# Processes and threads


def test_forks_use_a_handle_beside_their_parent(store: ms.Store) -> None:
    store.commit_events([event("parent", 1)])

    def commit(number: int) -> int:
        (stored,) = store.commit_events([event(f"child {number}", 1)])
        return stored.position or 0

    positions = in_forks(4, commit)
    assert sorted(positions) == [2, 3, 4, 5]
    store.commit_events([event("parent", 2)])
    assert store.last_position == 6


def test_a_fork_waits_by_a_connection_of_its_own(store: ms.Store) -> None:
    with Fork(lambda: store.wait(1, PATIENT)) as child:
        store.commit_events([event()])
        assert child.result()


def test_a_fork_that_closes_its_copy_closes_nothing_of_its_parent(store: ms.Store) -> None:
    store.commit_events([event()])
    with Fork(store.close) as child:
        child.result()
    with administrator() as connection:
        before = sessions(connection)
        store.commit_events([event(sequence=2)])
        assert sessions(connection) == before


def _commit(task: tuple[ms.Store, int]) -> tuple[int, int]:
    store, number = task
    (stored,) = store.commit_events([event(f"task {number}", 1)])
    return os.getpid(), stored.position or 0


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_the_workers_of_a_pool_take_a_pickled_handle(store: ms.Store, method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        done = pool.map(_commit, [(store, number) for number in range(8)], chunksize=1)
        pool.close()
        pool.join()
    assert sorted(position for _, position in done) == list(range(1, 9))


def test_a_handle_that_is_unpickled_where_it_is_in_use_is_the_same(store: ms.Store) -> None:
    assert pickle.loads(pickle.dumps(store)) is store


def test_a_hundred_threads_share_the_connections_of_a_handle(store: ms.Store) -> None:
    most = 0
    is_over = threading.Event()

    def commit(number: int) -> None:
        for sequence in range(1, 4):
            store.commit_events([event(f"thread {number}", sequence)])

    def count() -> None:
        nonlocal most
        with administrator() as connection:
            while not is_over.is_set():
                most = max(most, len(sessions(connection)))

    with administrator() as connection:
        others = len(sessions(connection))
    with ThreadPoolExecutor(101) as pool:
        counting = pool.submit(count)
        for work in [pool.submit(commit, number) for number in range(100)]:
            work.result(PATIENT)
        is_over.set()
        counting.result(PATIENT)
    assert store.last_position == 300
    assert 1 < most - others <= MOST_CONNECTIONS


def test_threads_that_get_no_connection_in_time_are_told_so(url: str) -> None:
    with administrator() as connection, ms.connect(url, timeout=0.5) as store:
        ((lock,),) = connection.execute(
            "SELECT (%s)::regclass::oid::bigint::bit(32)::integer",
            (f"{url.rpartition('search_path%3D')[2]}.maestro_head",),
        ).fetchall()
        connection.execute("SELECT pg_advisory_lock(1835102323, %s)", (lock,))
        with ThreadPoolExecutor(40) as pool:
            works = [pool.submit(store.commit_events, [event(str(number))]) for number in range(40)]
        reasons = [error.reason for work in works if isinstance(error := work.exception(), ms.StoreUnavailableError)]
        assert len(reasons) == 40
        assert any("none of 16 connections" in reason for reason in reasons)
        connection.execute("SELECT pg_advisory_unlock(1835102323, %s)", (lock,))
        assert [store.commit_events([event(str(number))])[0].sequence for number in range(40)] == [1] * 40


def test_close_ends_every_wait_and_leaves_nothing_behind(url: str) -> None:
    with administrator() as connection:
        before = len(sessions(connection))
        descriptors, threads = open_descriptors(), threading.active_count()
        store = ms.connect(url, timeout=PATIENT)
        with ThreadPoolExecutor(3) as pool:
            waits = [pool.submit(store.wait, 1) for _ in range(3)]
            wait_until(lambda: sessions(connection, "query LIKE '%maestro_head%'"), "they wait")
            store.close()
            for wait in waits:
                assert isinstance(wait.exception(PATIENT), ms.StoreClosedError)
        assert (open_descriptors(), threading.active_count()) == (descriptors, threads)
        wait_until(lambda: len(sessions(connection)) == before, "the server has seen it")
        with pytest.raises(ms.StoreClosedError):
            store.last_sequence("a")
        store.close()


def test_a_handle_that_nobody_has_any_more_leaves_nothing_behind(url: str) -> None:
    descriptors, threads = open_descriptors(), threading.active_count()
    store: Any = ms.connect(url, timeout=PATIENT)
    store.commit_events([event()])
    assert store.wait(1)
    assert not store.wait(2, 0.01)
    del store
    wait_until(lambda: (open_descriptors(), threading.active_count()) == (descriptors, threads), "all is closed")


# Partitions


@pytest.fixture
def partitioned() -> Iterator[ms.Store]:
    with schema_url() as url:
        migrate(url, partitions=4)
        with ms.connect(url, allow_reset=True) as store:
            yield store


def test_partitions_keep_the_order_of_the_feed(partitioned: ms.Store) -> None:
    for number in range(1, 41):
        partitioned.commit_events([event(f"a{number}", 1), event(f"b{number % 3}", number)])
    feed = list(partitioned.read())
    assert [stored.position for stored in feed] == list(range(1, 81))
    assert [stored.aggregate_id for stored in feed[:4]] == ["a1", "b1", "a2", "b2"]
    assert [stored.sequence for stored in partitioned.get_events("b1")] == list(range(1, 41, 3))
    assert [stored.position for stored in partitioned.read(aggregate_prefix="b", limit=2)] == [2, 4]


def test_partitions_keep_the_past(partitioned: ms.Store) -> None:
    for number in range(1, 10):
        partitioned.commit_events([event(f"a{number}", 1), event("b", number)])
    past = partitioned.at(position=7)
    assert (past.last_position, past.last_sequence("b"), past.last_sequence("a5")) == (8, 4, None)
    moment = past.get_events("b")[-1].timestamp
    assert partitioned.at(time=moment).last_position == 8


def test_partitions_refuse_whoever_is_behind(partitioned: ms.Store) -> None:
    partitioned.commit_events([event("a", 1), event("b", 2)])
    with pytest.raises(ms.SequenceConflictError) as caught:
        partitioned.commit_events([event("c", 1), event("b", 2)])
    assert caught.value.args == ("b", 2, 2)
    assert partitioned.last_sequence("c") is None
    partitioned.reset()
    assert partitioned.stats()["events"] == 0
