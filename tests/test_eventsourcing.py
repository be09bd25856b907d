"""Applications of the `eventsourcing` library on our stores. Its own test cases are in `test_eventsourcing_library`."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import psycopg
import pytest
from alarm import Alarm
from eventsourcing.application import Application
from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InternalError,
    Notification,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
    WaitInterruptedError,
)
from eventsourcing.projection import ProjectionRunner
from eventsourcing.system import SingleThreadedRunner, System
from eventsourcing.utils import Environment
from postgres_server import schema_url
from processes import Fork, cleaned_up, in_forks, kill, open_descriptors, output_of
from psycopg import sql
from shop import Bookkeeping, Counting, Counts, Order, Orders
from store_contract import in_threads

import maestro_shm as ms
from maestro_shm.eventsourcing import Factory, MaestroApplicationRecorder, MaestroTrackingRecorder, target_of
from maestro_shm.eventsourcing.turns import MOST_CALLS, Turns
from maestro_shm.postgres.location import schema_of
from maestro_shm.shared.places import named_path
from maestro_shm.shared.store import path_of

MODULE = "maestro_shm.eventsourcing"
APPLICATIONS = ("", "Orders", "Bookkeeping", "counting", "Other")


@pytest.fixture
def target() -> Iterator[str]:
    """Of applications that no other test sees; whatever serves them is ended afterwards."""
    target = f"shm:test-{uuid4().hex[:12]}"
    with ExitStack() as stack:
        for application in APPLICATIONS:
            stack.enter_context(cleaned_up(path_of(target_of(target, application))))
        yield target


@pytest.fixture
def env(target: str) -> dict[str, str]:
    return {"PERSISTENCE_MODULE": MODULE, "MAESTRO_TARGET": target}


@pytest.fixture
def factory(env: dict[str, str]) -> Iterator[Factory]:
    with Factory(env) as factory:
        yield factory


def stored(originator_id: UUID | str, version: Any = 1, topic: str = "topic", state: Any = b"state") -> StoredEvent:
    return StoredEvent(originator_id, version, topic, state)


def ids(notifications: Any) -> list[int]:
    return [notification.id for notification in notifications]


# The environment


def test_a_missing_target_is_an_error_that_names_the_keys() -> None:
    with pytest.raises(OSError, match="set ORDERS_MAESTRO_TARGET or MAESTRO_TARGET in the environment"):
        Orders({"PERSISTENCE_MODULE": MODULE})
    with pytest.raises(OSError, match="set MAESTRO_TARGET in the environment: to 'shm:NAME', a path, 'postgres"):
        Factory({"MAESTRO_TARGET": ""})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"MAESTRO_TARGET": ":memory:"}, "which would be a path; a store in this process's memory is 'memory:'"),
        ({"MAESTRO_TARGET": "redis://here"}, "MAESTRO_TARGET: store 'redis://here': unknown target"),
        ({"MAESTRO_TIMEOUT": "soon"}, "MAESTRO_TIMEOUT in the environment is 'soon': could not convert"),
        ({"MAESTRO_TIMEOUT": "-1"}, "MAESTRO_TIMEOUT in the environment is '-1': timeout must be a number"),
        ({"MAESTRO_MAX_COMMIT_BYTES": "many"}, "MAESTRO_MAX_COMMIT_BYTES in the environment is 'many'"),
        ({"MAESTRO_DURABILITY": "eternal"}, "durability must be 'process' or 'power', not 'eternal'"),
        ({"MAESTRO_IDLE_TIMEOUT": "nan"}, "idle_timeout must be a number of seconds"),
        ({"CREATE_TABLE": "maybe"}, "CREATE_TABLE in the environment is 'maybe'; it must be 'yes' or 'no'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_bad_settings_are_refused_before_anything_is_made(settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(OSError, match=complaint):
        Factory({"MAESTRO_TARGET": "memory:", **settings})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"MAESTRO_DURABILITY": "power"}, "'power' needs a path on a disk"), ({"MAESTRO_TIMEOUT": "1"}, "'timeout'")],
    ids=["shm", "memory"],
)
def test_a_setting_that_the_target_does_not_have_is_refused(
    env: dict[str, str], settings: dict[str, str], complaint: str
) -> None:
    target = "memory:" if "MAESTRO_TIMEOUT" in settings else env["MAESTRO_TARGET"]
    with pytest.raises(OSError, match=complaint):
        Orders({**env, **settings, "MAESTRO_TARGET": target})


def test_a_store_that_cannot_be_made_is_an_operational_error(env: dict[str, str]) -> None:
    with pytest.raises(OperationalError, match="a name has 1 to 64 letters"):
        Orders({**env, "MAESTRO_TARGET": "shm:a/b"})


def test_settings_reach_the_store(env: dict[str, str], tmp_path: Path) -> None:
    settings = {"MAESTRO_DURABILITY": "power", "MAESTRO_MAX_COMMIT_BYTES": "2000", "ORDERS_MAESTRO_TIMEOUT": "5"}
    place = tmp_path / "data"
    with cleaned_up(target_of(str(place), "Orders")), Orders({**env, **settings, "MAESTRO_TARGET": str(place)}) as app:
        assert (tmp_path / "data.Orders").is_dir()
        with pytest.raises(DataError, match="over the cap of 2,000"):
            app.recorder.insert_events([stored("a", state=bytes(3000))])
        with pytest.raises(ms.StoreUnavailableError, match="durability='power'"):
            ms.connect(target_of(str(place), "Orders"), durability="process")


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a schema; the schemas of applications, which are named after it, are dropped afterwards."""
    with schema_url() as url:
        try:
            yield url
        finally:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SET client_min_messages = warning")
                for application in APPLICATIONS[1:]:
                    schema = sql.Identifier(f"{schema_of(url)}.{application}")
                    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(schema))


def test_applications_of_one_database_have_a_schema_each(env: dict[str, str], database: str) -> None:
    env["MAESTRO_TARGET"] = database
    with Orders(env) as orders, Orders({**env, "ORDERS_MAESTRO_TARGET": database}) as same, Bookkeeping(env) as books:
        assert [orders.open("a"), orders.add("a"), same.add("a")] == [1, 2, 3]
        assert books.recorder.max_notification_id() is None
        assert orders.items("a") == same.items("a") == 2


def test_tables_are_made_unless_the_environment_says_no(env: dict[str, str], database: str) -> None:
    env["MAESTRO_TARGET"] = database
    with pytest.raises(OperationalError, match="it has no tables yet; run: python -m maestro_shm migrate"):
        Orders({**env, "CREATE_TABLE": "no"})
    Orders(env).close()
    with Orders({**env, "CREATE_TABLE": "no"}) as app:
        assert app.open("a") == 1


@pytest.mark.parametrize(
    ("url", "application", "schema"),
    [
        ("postgresql://host/db", "Shop", "maestro.Shop"),
        ("postgresql://host/db?options=-csearch_path%3Dorders", "Shop", "orders.Shop"),
        ("postgresql://u:p@host/db?sslmode=require&options=-c%20geqo%3Doff%20-csearch_path%3Da,b", "x y", "a.x-20y"),
    ],
)
def test_the_schema_of_an_application_follows_from_the_url(url: str, application: str, schema: str) -> None:
    target = target_of(url, application)
    assert schema_of(target) == schema
    assert target.partition("?")[0] == url.partition("?")[0]
    assert ("sslmode=require" in target, "geqo%3Doff" in target) == ("sslmode" in url, "geqo" in url)


def test_each_factory_has_a_store_in_memory_of_its_own(env: dict[str, str]) -> None:
    with Orders({**env, "MAESTRO_TARGET": "memory:"}) as one, Orders({**env, "MAESTRO_TARGET": "memory:"}) as other:
        one.open("a")
        assert one.add("a") == 2
        assert other.recorder.max_notification_id() is None


def test_recorders_of_other_kinds_of_store_are_refused(env: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="must be a subclass of MaestroApplicationRecorder"):
        Orders({**env, "APPLICATION_RECORDER_TOPIC": "eventsourcing.popo:POPOApplicationRecorder"})


def test_without_the_library_the_error_says_what_to_install() -> None:
    said = output_of("""
        import sys
        sys.modules["eventsourcing"] = None
        try:
            import maestro_shm.eventsourcing
        except ModuleNotFoundError as error:
            print(error)
    """)
    assert said.endswith("pip install 'maestro-shm[eventsourcing]'")


# Applications


def test_applications_with_one_target_do_not_mix(env: dict[str, str]) -> None:
    class Other(Orders):
        pass

    with Orders(env) as orders, Other(env) as other:
        for number in range(1, 4):
            assert orders.open(f"{number}") == number
            assert other.open(f"{number}") == number
        assert ids(orders.recorder.select_notifications(None, 10)) == [1, 2, 3]
        assert other.add("1") == 4
        assert (orders.items("1"), other.items("1")) == (0, 1)


def test_no_two_applications_have_the_same_store() -> None:
    targets = ["shm:a", "shm:a.b", "/a", "/a.b", "/a/b"]
    names = ["", "b", "c", "b.c", "b_c", "b-c", "b-2ec", "b c", "B", "\N{SNOWMAN}", "/", "..", "\ud800"]
    pairs = [(target, name) for target in targets for name in names]
    # Who names none, says which store is meant.
    assert len({target_of(*pair) for pair in pairs if pair[1]}) == len([pair for pair in pairs if pair[1]])
    for target, name in pairs:
        if target.startswith("shm:"):
            named_path(target_of(target, name))  # or it is refused
    assert target_of("/data/orders/", "Shop") == "/data/orders.Shop"


def test_each_application_may_have_a_target_of_its_own(env: dict[str, str], target: str, tmp_path: Path) -> None:
    place = str(tmp_path / "books")
    with (
        cleaned_up(target_of(place, "Bookkeeping")),
        Orders(env) as orders,
        Bookkeeping({**env, "BOOKKEEPING_MAESTRO_TARGET": place}) as bookkeeping,
    ):
        assert isinstance(orders.factory, Factory)
        assert isinstance(bookkeeping.factory, Factory)
        assert orders.factory.datastore.store.target == f"{target}.Orders"
        assert bookkeeping.factory.datastore.store.target == f"{place}.Bookkeeping"


def test_an_application_goes_on_with_what_another_process_recorded(env: dict[str, str]) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(open_and_add, (env, "a", 25))
    with Orders(env) as app:
        assert app.items("a") == 25
        assert app.snapshots is not None
        order_id = Order.create_id("a")
        assert [snapshot.originator_version for snapshot in app.snapshots.get(order_id)] == [10, 20]
        assert [kept.originator_version for kept in app.snapshots.get(order_id, desc=True, limit=1)] == [20]
        assert app.repository.get(order_id, version=15).items == 14
        assert ids(app.recorder.select_notifications(None, 100)) == list(range(1, 27))


def open_and_add(env: dict[str, str], name: str, count: int) -> None:
    with Orders(env) as app:
        app.open(name)
        for _ in range(count):
            app.add(name)


def test_snapshots_come_in_any_order_and_each_once(factory: Factory) -> None:
    recorder = factory.aggregate_recorder("snapshots")
    for version in (20, 10, 0, 15):
        recorder.insert_events([stored("a", version)])
    with pytest.raises(IntegrityError, match="there is one of version 10 of 'a' already"):
        recorder.insert_events([stored("a", 30), stored("a", 10)])

    def versions(**bounds: Any) -> list[int]:
        return [event.originator_version for event in recorder.select_events("a", **bounds)]

    assert versions() == [0, 10, 15, 20]
    assert versions(desc=True) == [20, 15, 10, 0]
    assert versions(gt=10) == [15, 20]
    assert versions(lte=10) == [0, 10]
    assert versions(lte=14, desc=True, limit=1) == [10]
    assert versions(gt=-1, lte=-1) == []
    assert versions(gt=0, lte=15, limit=1) == [10]
    assert factory.application_recorder().max_notification_id() is None


def test_ids_that_are_long_or_strange_have_snapshots_too(factory: Factory) -> None:
    recorder = factory.aggregate_recorder("snapshots")
    for originator_id in ("x" * 300, "x" * 301, "a\0b", "naïve \N{SNOWMAN}"):
        recorder.insert_events([stored(originator_id, state=originator_id.encode())])
        assert recorder.select_events(originator_id) == [stored(originator_id, state=originator_id.encode())]


def test_an_id_keeps_its_type(factory: Factory) -> None:
    recorder = factory.application_recorder()
    known = uuid4()
    originator_ids: list[UUID | str] = [known, str(known), known.hex, f"={known}", "=", "account-1", str(known).upper()]
    for originator_id in originator_ids:
        recorder.insert_events([stored(originator_id)])
        assert recorder.select_events(originator_id) == [stored(originator_id)]
    found = [notification.originator_id for notification in recorder.select_notifications(None, 100)]
    assert found == originator_ids
    assert list(map(type, found)) == list(map(type, originator_ids))


def test_versions_begin_anywhere_and_have_gaps(factory: Factory) -> None:
    recorder = factory.application_recorder()
    versions = [0, 1, 7, 8, 100, 5000, 5001]
    recorder.insert_events([stored("a", version) for version in versions])
    for gt, lte, desc, limit in itertools.product(
        [None, -1, 0, 7, 99, 6000], [None, -1, 0, 8, 5000], [False, True], [None, 0, 1, 2, 6, 7, 100]
    ):
        expected = [v for v in versions if (gt is None or v > gt) and (lte is None or v <= lte)]
        selected = recorder.select_events("a", gt=gt, lte=lte, desc=desc, limit=limit)
        assert [e.originator_version for e in selected] == (expected[::-1] if desc else expected)[:limit]
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored("a", 50)])


def test_notifications_are_selected_by_id_and_topic(factory: Factory) -> None:
    recorder = factory.application_recorder()
    topics = ["a", "b", "a", "c", "b", "a"] * 200
    recorder.insert_events([stored(str(number), topic=topic) for number, topic in enumerate(topics)])
    for start, stop, inclusive, wanted, limit in itertools.product(
        [None, -3, 0, 1, 2, 600, 1200, 2000],
        [None, -1, 0, 1, 5, 700, 3000],
        [True, False],
        [(), ["b", "c"]],
        [0, 1, 10],
    ):
        first = (start or 0) + (0 if inclusive else 1)
        expected = [
            number
            for number, topic in enumerate(topics, 1)
            if number >= first and (stop is None or number <= stop) and (not wanted or topic in wanted)
        ]
        found = recorder.select_notifications(start, limit, stop, wanted, inclusive_of_start=inclusive)
        assert ids(found) == expected[:limit]
        assert all(notification.topic == topics[notification.id - 1] for notification in found)


def test_a_follower_in_another_process_counts_each_event_once(env: dict[str, str]) -> None:
    with Orders(env) as orders:
        orders.open("a")
        for _ in range(30):
            orders.add("a")
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            pool.map(follow, [env, env])
        orders.add("a")
        follow(env)
    with Bookkeeping(env) as bookkeeping:
        assert bookkeeping.count() == 31
        assert bookkeeping.recorder.max_tracking_id("Orders") == 32


def follow(env: dict[str, str]) -> None:
    """Process what there is; where another one processes the same, go on behind it."""
    with Orders(env) as orders, Bookkeeping(env) as bookkeeping:
        bookkeeping.follow("Orders", orders.notification_log)
        while (bookkeeping.recorder.max_tracking_id("Orders") or 0) < (orders.recorder.max_notification_id() or 0):
            try:
                bookkeeping.pull_and_process("Orders")
            except IntegrityError:
                continue


def test_a_system_of_applications_runs_over_one_target(env: dict[str, str]) -> None:
    runner: SingleThreadedRunner[UUID]
    with SingleThreadedRunner(System(pipes=[[Orders, Bookkeeping]]), env) as runner:
        orders = runner.get(Orders)
        orders.open("a")
        for _ in range(5):
            orders.add("a")
        assert runner.get(Bookkeeping).count() == 5
        assert runner.get(Bookkeeping).recorder.max_tracking_id("Orders") == 6


@pytest.mark.parametrize(("method", "workers"), [("fork", 8), ("spawn", 3)])
def test_many_processes_lose_nothing_and_leave_no_gap(env: dict[str, str], method: str, workers: int) -> None:
    times = 12
    with Orders(env) as app:
        app.open("shared")
        with multiprocessing.get_context(method).Pool(workers) as pool:
            recorded = pool.map(add_repeatedly, [(env, number, times) for number in range(workers)], chunksize=1)
        assert app.items("shared") == workers * times
        assert [app.items(f"own-{number}") for number in range(workers)] == [times] * workers
        notifications = app.recorder.select_notifications(None, 10_000)
    assert ids(notifications) == list(range(1, 2 + workers * (1 + 2 * times)))
    assert sorted(itertools.chain.from_iterable(recorded)) == ids(notifications)[1:]


def add_repeatedly(task: tuple[dict[str, str], int, int]) -> list[int]:
    env, number, times = task
    with Orders(env) as app:
        recorded = [app.open(f"own-{number}")]
        for _ in range(times):
            recorded += [app.add_surely("shared"), app.add(f"own-{number}")]
    return recorded


def test_an_application_is_used_on_in_forks(env: dict[str, str]) -> None:
    with Orders(env) as app:
        app.open("a")
        in_forks(4, lambda _: [app.add_surely("a") for _ in range(10)])
        assert app.items("a") == 40


# Subscriptions


def test_a_subscription_is_woken_by_another_process_and_has_no_thread(factory: Factory) -> None:
    recorder = factory.application_recorder()
    recorder.insert_events([stored("a", 1)])
    threads = threading.active_count()
    with recorder.subscribe(gt=1, topics=["wanted"]) as subscription:
        assert threading.active_count() == threads
        with Fork(lambda: record_later(recorder)) as fork:
            assert next(subscription) == Notification("a", 3, "wanted", b"state", 3)
            fork.result()


def record_later(recorder: MaestroApplicationRecorder) -> None:
    time.sleep(0.05)
    recorder.insert_events([stored("a", 2)])
    recorder.insert_events([stored("a", 3, "wanted")])


def test_a_subscription_goes_on_after_its_server_was_killed(factory: Factory) -> None:
    recorder = factory.application_recorder()
    store = factory.datastore.store
    found: list[int] = []
    with recorder.subscribe() as subscription:
        reader = threading.Thread(target=lambda: found.extend(ids(itertools.islice(subscription, 30))))
        reader.start()
        for version in range(1, 31):
            recorder.insert_events([stored("a", version)])
            if version % 10 == 0:
                kill(store.stats()["server_pid"])
        reader.join(30)
    assert found == list(range(1, 31))


def test_a_subscription_is_stopped_by_another_thread(factory: Factory) -> None:
    subscription = factory.application_recorder().subscribe()
    with subscription, ThreadThat(lambda: list(subscription)) as reader:
        time.sleep(0.05)
        subscription.stop()
        assert reader.result() == []


def test_a_subscription_to_what_is_closed_says_so(factory: Factory) -> None:
    recorder = factory.application_recorder()
    with recorder.subscribe() as subscription, ThreadThat(lambda: error_of(next, subscription)) as reader:
        time.sleep(0.05)
        factory.close()
        assert isinstance(reader.result(), ProgrammingError)
    with pytest.raises(ProgrammingError, match="is closed"):
        recorder.subscribe()


def error_of(function: Callable[..., object], *arguments: object) -> Exception | None:
    """What the function raises."""
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001 (whatever it is)
        return error
    return None


class ThreadThat(threading.Thread):
    """A thread that computes one result, and is waited for."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._results: list[Any] = []

    def run(self) -> None:
        self._results.append(self._work())

    def result(self) -> Any:
        self.join(30)
        (result,) = self._results
        return result

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.result()


def test_a_projection_follows_at_once_and_counts_exactly_once(env: dict[str, str]) -> None:
    with ProjectionRunner(application_class=Orders, projection_class=Counting, view_class=Counts, env=env) as runner:
        runner.app.open("a")
        for _ in range(20):
            last = runner.app.add("a")
        runner.wait(last, timeout=20)
        assert (runner.projection.view.counted("Created"), runner.projection.view.counted("Added")) == (1, 20)
        with pytest.raises(IntegrityError, match="notification 21 of 'Orders' comes too late: 21 has been tracked"):
            runner.projection.view.count("Added", Tracking("Orders", 21))
        assert runner.projection.view.counted("Added") == 20


# Tracking


def test_a_wait_for_a_tracking_record_is_woken_by_the_commit(factory: Factory) -> None:
    recorder = factory.tracking_recorder()

    def track() -> None:
        time.sleep(0.05)
        recorder.insert_tracking(Tracking("other", 5))
        recorder.insert_tracking(Tracking("upstream", 7))

    with Fork(track) as fork:
        recorder.wait("upstream", 6, timeout=20)
        fork.result()
    with pytest.raises(TimeoutError, match=r"notification 8 of 'upstream' was not tracked within 0\.01 s"):
        recorder.wait("upstream", 8, timeout=0.01)


def test_an_interrupt_ends_a_wait_for_a_tracking_record(factory: Factory) -> None:
    recorder = factory.tracking_recorder()
    interrupt = threading.Event()
    with ThreadThat(lambda: error_of(recorder.wait, "a", 1, 20, interrupt)) as waiter:
        time.sleep(0.05)
        interrupt.set()
        assert isinstance(waiter.result(), WaitInterruptedError)


def test_of_rivals_one_tracks_each_notification(factory: Factory) -> None:
    recorder = factory.process_recorder()

    def process(_: int) -> int:
        done = 0
        for number in range(1, 41):
            try:
                recorder.insert_events([stored(uuid4())], tracking=Tracking("upstream", number))
                done += 1
            except IntegrityError:
                pass
        return done

    assert sum(in_forks(4, process)) == recorder.max_notification_id()
    assert recorder.max_tracking_id("upstream") == 40


def test_events_and_their_tracking_record_are_committed_together_whoever_is_killed(factory: Factory) -> None:
    recorder = factory.process_recorder()

    def process() -> None:
        for number in itertools.count((recorder.max_tracking_id("upstream") or 0) + 1):
            events = [stored("one", 2 * number), stored("one", 2 * number + 1), stored("two", number)]
            recorder.insert_events(events, tracking=Tracking("upstream", number))

    for turn in range(6):
        before = recorder.max_tracking_id("upstream") or 0
        with Fork(process) as fork:
            recorder.wait("upstream", before + 20 + turn, timeout=20)
            if turn % 2:
                kill(factory.datastore.store.stats()["server_pid"])
                recorder.wait("upstream", before + 60, timeout=20)
            os.kill(fork.pid, signal.SIGKILL)
        last = recorder.max_tracking_id("upstream") or 0
        assert last > before
        assert recorder.max_notification_id() == 3 * last
        assert [event.originator_version for event in recorder.select_events("two")] == list(range(1, last + 1))


# Threads, and errors


def open_sockets() -> int:
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(path).startswith("socket:")  # noqa: PTH115 (a socket's is no path)
    return count


def test_hundreds_of_threads_do_not_mean_hundreds_of_sockets(factory: Factory) -> None:
    recorder = factory.process_recorder()
    recorder.insert_events([stored("first")])
    before = open_sockets()
    over = threading.Event()

    def look() -> int:
        most = 0
        while not over.wait(0.001):
            most = max(most, open_sockets())
        return most

    def work(number: int) -> None:
        for version in range(0, 10, 2):
            recorder.insert_events([stored(f"{number}", version)])
            recorder.insert_events([stored(f"{number}", version + 1)], tracking=Tracking(f"{number}", version))
            recorder.select_events(f"{number}")

    with ThreadThat(look) as watcher:
        try:
            in_threads(*(partial(work, number) for number in range(300)))
        finally:
            over.set()
    assert recorder.max_notification_id() == 1 + 300 * 10
    assert watcher.result() <= before + MOST_CALLS


def test_who_has_a_turn_takes_no_other_and_a_slow_call_holds_up_nobody() -> None:
    turns = Turns()
    others = Turns()
    done: list[int] = []
    with turns.next(), others.next(), turns.next():
        for number in range(3 * MOST_CALLS):  # one after the other: seven turns are free

            def call(number: int = number) -> None:
                with turns.next():
                    done.append(number)

            in_threads(call)
    assert done == list(range(3 * MOST_CALLS))


def test_a_signal_handler_may_record_while_its_thread_does(factory: Factory) -> None:
    recorder = factory.application_recorder()
    numbers = itertools.count()

    def record() -> None:
        recorder.insert_events([stored(f"handler-{next(numbers)}")])
        alarm.set(0.001)  # not before: on a busy machine the next would come within this one

    with Alarm(record) as alarm, alarm.after(0.001):
        for version in range(500):
            recorder.insert_events([stored("main", version)])
    assert recorder.max_notification_id() == 500 + next(numbers)


def test_errors_are_those_of_the_library(factory: Factory) -> None:
    recorder = factory.process_recorder()
    with pytest.raises(DataError, match="body: cannot store a value of type"):
        recorder.insert_events([stored("a", state=bytearray(b"x"))])
    with pytest.raises(DataError, match="an originator id must be a UUID or a str, not 7"):
        recorder.insert_events([stored(7)])  # type: ignore[arg-type]
    for version in (-1, 1.5, None, "1"):
        with pytest.raises(DataError, match="its sequence must be an int"):
            recorder.insert_events([stored("a", 1), stored("a", version)])
    with pytest.raises(DataError, match="over the cap"):
        recorder.insert_events([stored("a", state=bytes(2 << 20))])
    with pytest.raises(DataError, match="a key must be a str"):
        recorder.insert_tracking(Tracking(5, 1))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a version must be an int"):
        factory.aggregate_recorder("snapshots").insert_events([stored("a", -1)])
    with pytest.raises(DataError, match="a state must be bytes"):
        factory.aggregate_recorder("snapshots").insert_events([stored("a", state="text")])
    with pytest.raises(ProgrammingError, match="the limit must be"):
        recorder.select_events("a", limit=-1)
    with pytest.raises(ProgrammingError, match="within the transaction"):
        factory.datastore.transact(lambda _: recorder.insert_events([stored("a")]))
    with pytest.raises(IntegrityError, match="aggregate 'a' is already at sequence 1") as conflict:
        recorder.insert_events([stored("b"), stored("a", 1)] if recorder.insert_events([stored("a", 1)]) else [])
    assert isinstance(conflict.value.__cause__, ms.SequenceConflictError)
    assert recorder.select_events("b") == []


def test_a_damaged_store_is_an_internal_error(env: dict[str, str], tmp_path: Path) -> None:
    place = tmp_path / "store"
    factory = Factory({**env, "MAESTRO_TARGET": str(place)})
    with cleaned_up(place):
        recorder = factory.application_recorder()
        recorder.insert_events([stored("a", state=b"x" * 100)])
        (log,) = place.glob("log-*")
        with log.open("r+b") as file:
            content = file.read(4096)
            file.seek(content.index(b"x" * 100))
            file.write(b"y")
        with pytest.raises(InternalError, match="to save what is whole"):
            recorder.select_events("a")
        factory.close()


def test_who_closes_ends_all_recorders(env: dict[str, str]) -> None:
    descriptors = open_descriptors()
    app = Orders(env)
    app.open("a")
    app.close()
    app.close()
    assert open_descriptors() == descriptors
    for call in (lambda: app.items("a"), lambda: app.open("b"), app.recorder.max_notification_id):
        with pytest.raises(ProgrammingError, match="is closed"):
            call()
    factory = Factory(Environment("Orders", env))
    factory.close()
    with pytest.raises(ProgrammingError, match="is closed; make a new application or factory"):
        factory.application_recorder()


def test_a_factory_that_nobody_closes_leaves_nothing_open(env: dict[str, str]) -> None:
    descriptors = open_descriptors()
    recorder: MaestroTrackingRecorder | None = Factory(env).tracking_recorder()
    assert recorder is not None
    recorder.insert_tracking(Tracking("a", 1))
    assert open_descriptors() > descriptors
    del recorder
    assert open_descriptors() == descriptors


def test_a_factory_of_which_no_recorder_is_asked_starts_nothing(env: dict[str, str], target: str) -> None:
    Factory(env)
    assert not path_of(target).exists()
    with Application[UUID]({**env, "MAESTRO_TARGET": "memory:"}) as app:
        assert isinstance(app.factory, Factory)
