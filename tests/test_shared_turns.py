"""Turns across processes: who dies, stops or leaves in one holds nobody up, and nothing is lost or done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from alarm import Alarm
from processes import Fork, in_forks, kill, open_descriptors, wait_until
from test_shared_waiting import line_to

import maestro_shm as ms
from maestro_shm.shared import wire
from maestro_shm.shared.proxy import StoreProxy
from maestro_shm.shared.store import SharedStore
from maestro_shm.shared.transport import Line

SOON = 30.0
CLIENT = b"a client"
OTHER = b"another1"


class Counter(ms.Aggregate):
    initial_state: ClassVar[Any] = 0
    meanwhile: Callable[[], object] = staticmethod(lambda: None)
    """What happens between the look at the state and the commit."""

    @ms.on_command("add")
    def add(self, _command: ms.Command) -> list[ms.NewEvent]:
        self.meanwhile()
        return [ms.NewEvent("added", self.state + 1)]

    @ms.on_command("look")
    def look(self, _command: ms.Command) -> list[ms.NewEvent]:
        return []

    @ms.on_command("refuse")
    def refuse(self, _command: ms.Command) -> list[ms.NewEvent]:
        raise ms.InvalidCommandError("no")

    @ms.on_event("added")
    def added(_state: Any, event: ms.Event) -> Any:  # noqa: N805 (handlers of events take no self)
        return event.body


ADD = ms.Command("add", None)


def make_hot(store: ms.Store, stream: str = "hot") -> None:
    """Let this process take turns on a stream, as after conflicts."""
    assert isinstance(store, SharedStore)
    for _ in range(2):
        store._proxy.rivalries().begin(stream).note_conflict()


def add(path: Path, times: int) -> int:
    """Evaluate so often, in turns from the beginning."""
    with ms.connect(path) as store:
        root = Counter(store, "hot")
        for _ in range(times):
            make_hot(store)
            root.evaluate(ADD)
        return times


def check(store: ms.Store, at_least: int) -> None:
    """Nothing was decided by a stale state, and nothing acknowledged is missing."""
    found = [(event.sequence, event.body) for event in store.get_events("hot")]
    assert found == [(number, number) for number in range(1, len(found) + 1)]
    assert len(found) >= at_least


def ask_for_turn(line: Line, client: bytes = CLIENT, *, commits: int = 1, patience: float = SOON) -> None:
    arguments = ["hot", client, commits, 1000, 1000, int(patience * 1000)]
    line._send(wire.pack([7, None, "turn", arguments]), time.monotonic() + SOON)


def send_commit(line: Line, client: bytes, sequence: int) -> None:
    rows = [["hot", sequence, None, b"\x92\xa5added" + bytes([sequence])]]
    message = wire.pack([8, "journal", "commit_events", [client + bytes(8), rows, False]])
    line._send(message, time.monotonic() + SOON)


def answer(line: Line) -> Any:
    return wire.result_of(wire.unpack(line._receive(time.monotonic() + SOON)))


@contextmanager
def lines_to(path: Path, count: int) -> Iterator[list[Line]]:
    with ExitStack() as stack:
        lines = [line_to(path) for _ in range(count)]
        for line in lines:
            stack.callback(line.close)
        yield lines


def test_processes_that_take_turns_lose_nothing(path: Path) -> None:
    with ms.connect(path) as store:
        assert in_forks(4, lambda _: add(path, 50)) == [50] * 4
        check(store, 200)
        assert store.last_sequence("hot") == 200


def test_processes_that_take_turns_lose_nothing_where_commits_wait_for_the_disk(path: Path) -> None:
    with ms.connect(path, durability="power") as store:
        in_forks(3, lambda _: add(path, 20))
        check(store, 60)
        assert store.last_sequence("hot") == 60


def test_who_takes_turns_and_who_does_not_get_on(path: Path) -> None:
    def work(number: int) -> None:
        with ms.connect(path) as store:
            for _ in range(40):
                if number % 2:
                    make_hot(store)
                Counter(store, "hot").evaluate(ADD)

    with ms.connect(path) as store:
        in_forks(4, work)
        check(store, 160)


def test_workers_that_are_killed_hold_nobody_up(path: Path) -> None:
    with ms.connect(path) as store, ExitStack() as stack:
        doomed = [stack.enter_context(Fork(lambda: add(path, 10**9))) for _ in range(3)]
        survivor = stack.enter_context(Fork(lambda: add(path, 150)))
        for fork in doomed:
            reached = (store.last_sequence("hot") or 0) + 20
            wait_until(lambda reached=reached: (store.last_sequence("hot") or 0) >= reached, "there is progress")  # type: ignore[misc] # as for in_forks
            fork.kill()
        assert survivor.result() == 150
        check(store, 150)


def test_a_holder_that_stops_in_its_turn_holds_the_others_up_for_a_lease_only(path: Path) -> None:
    def stop_once() -> int:
        with ms.connect(path) as store:
            make_hot(store)
            root = Counter(store, "hot")
            stops = [signal.SIGSTOP]
            root.meanwhile = lambda: os.kill(os.getpid(), stops.pop()) if stops else None
            root.evaluate(ADD)
            return root.conflicts

    with ms.connect(path) as store, Fork(stop_once) as fork:
        wait_until(lambda: is_stopped(fork.pid), "the holder has stopped")
        assert in_forks(2, lambda _: add(path, 20)) == [20, 20]
        os.kill(fork.pid, signal.SIGCONT)
        assert fork.result() >= 1  # what it had decided was stale by then
        check(store, 41)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T"


def test_who_is_killed_while_it_waits_is_passed_over(path: Path) -> None:
    def wait() -> None:
        with lines_to(path, 1) as (line,):
            ask_for_turn(line, b"a victim")
            answer(line)
            signal.pause()

    with ms.connect(path) as store, lines_to(path, 2) as (holder, other):
        before = store.stats()["clients"]
        ask_for_turn(holder)
        number, _ = answer(holder)
        with Fork(wait) as fork:
            wait_until(lambda: store.stats()["clients"] > before, "it is there")
            fork.kill()
        ask_for_turn(other, OTHER)
        message = wire.pack([9, None, "give_back", ["hot", number]])
        holder._send(message, time.monotonic() + SOON)
        assert answer(holder) is None
        assert answer(other)[0] > number


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_turns_are_forgotten_with_the_server_and_nothing_else_is(path: Path, number: signal.Signals) -> None:
    with ms.connect(path) as store, ExitStack() as stack:
        forks = [stack.enter_context(Fork(lambda: add(path, 120))) for _ in range(3)]
        for reached in (40, 120, 200):
            wait_until(lambda reached=reached: (store.last_sequence("hot") or 0) >= reached, "there is progress")  # type: ignore[misc]
            kill(store.stats()["server_pid"], number)
        assert [fork.result() for fork in forks] == [120] * 3
        check(store, 360)
        assert store.last_sequence("hot") == 360


def test_a_commit_waits_for_the_holders_and_meets_the_conflict_then(path: Path) -> None:
    with ms.connect(path) as store, lines_to(path, 2) as (holder, other):
        begun = time.monotonic()
        ask_for_turn(holder)
        answer(holder)
        send_commit(other, OTHER, 1)
        wait_until(lambda: store.stats()["clients"] >= 2, "the server has had time for it")
        send_commit(holder, CLIENT, 1)
        if time.monotonic() - begun > 0.5:
            pytest.skip("the machine is so slow that the lease may be over")
        assert answer(holder)[0] == 1
        with pytest.raises(ms.SequenceConflictError):
            answer(other)


@pytest.mark.parametrize("ending", ["lease", "hanging up", "giving back"])
def test_a_commit_that_waits_is_made_when_the_turn_ends_without_one(path: Path, ending: str) -> None:
    with ms.connect(path) as store, lines_to(path, 2) as (holder, other):
        ask_for_turn(holder)
        number, _ = answer(holder)
        send_commit(other, OTHER, 1)
        if ending == "hanging up":
            holder.close()
        elif ending == "giving back":
            holder._send(wire.pack([9, None, "give_back", ["hot", number]]), time.monotonic() + SOON)
        assert answer(other)[0] == 1
        assert store.last_sequence("hot") == 1


def test_what_is_submitted_while_another_has_the_turn_is_answered_when_that_is_over(path: Path) -> None:
    with ms.connect(path) as store, lines_to(path, 1) as (holder,):
        ask_for_turn(holder)
        answer(holder)
        events = [ms.Event(stream, number, "added", number) for number in (1, 2) for stream in ("hot", "cold")]
        futures = [store.submit([event]) for event in events]
        assert [future.result(SOON)[0].position for future in futures] == [1, 2, 3, 4]


def test_who_sends_more_while_its_commit_waits_is_cut_off(path: Path) -> None:
    with ms.connect(path) as store, lines_to(path, 2) as (holder, other):
        for _ in range(2):
            ask_for_turn(holder)
            answer(holder)
            send_commit(other, OTHER, 1)
        send_commit(other, OTHER, 2)
        with pytest.raises((EOFError, ConnectionError, ms.SequenceConflictError)):  # the last if a lease was over
            [answer(other) for _ in range(4)]
        Counter(store, "elsewhere").evaluate(ADD)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["hot", CLIENT, 1, 1000, 1000],
        ["hot", "client", 1, 1000, 1000, 1000],
        [b"hot", CLIENT, 1, 1000, 1000, 1000],
        ["hot", CLIENT, "1", 1000, 1000, 1000],
        ["hot", CLIENT, 1, 1.5, 1000, 1000],
        ["hot", b"too long a client", 1, 1000, 1000, 1000],
        ["h" * 100_000, CLIENT, 1, 1000, 1000, 1000],
    ],
)
def test_a_turn_of_nonsense_is_refused(path: Path, arguments: list[object]) -> None:
    with ms.connect(path) as store, lines_to(path, 1) as (line,):
        line._send(wire.pack([7, None, "turn", arguments]), time.monotonic() + SOON)
        with pytest.raises(ms.InvalidEventError, match="cannot read"):
            answer(line)
        Counter(store, "hot").evaluate(ADD)


def test_a_client_that_hoards_turns_keeps_none_of_them_for_long(path: Path) -> None:
    with ms.connect(path) as store, lines_to(path, 1) as (line,):
        for number in range(1500):
            arguments = [f"stream-{number}", CLIENT, 9, 10**6, 10**6, 10**6]
            line.exchange(wire.pack([number, None, "turn", arguments]), time.monotonic() + SOON)
        for number in (0, 1200):
            make_hot(store, f"stream-{number}")
            Counter(store, f"stream-{number}").evaluate(ADD)


def found_before(path: Path) -> int:
    """How many have or want the turn of the hot stream when somebody asks for it."""
    with lines_to(path, 1) as (line,):
        ask_for_turn(line, OTHER)
        return int(answer(line)[1])


@pytest.mark.parametrize("command", ["look", "refuse"])
def test_a_turn_that_comes_to_nothing_is_given_back(path: Path, command: str) -> None:
    with ms.connect(path) as store:
        make_hot(store)
        root = Counter(store, "hot")
        if command == "refuse":
            with pytest.raises(ms.InvalidCommandError):
                root.evaluate(ms.Command(command, None))
        else:
            assert root.evaluate(ms.Command(command, None)) == []
        assert found_before(path) == 0


def test_a_root_without_rivals_goes_back_to_the_way_without_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = StoreProxy.turn

    def counted(self: StoreProxy, *arguments: Any) -> Any:
        asked.append(arguments)
        return ask(self, *arguments)

    monkeypatch.setattr(StoreProxy, "turn", counted)
    with ms.connect(path) as store:
        make_hot(store)
        root = Counter(store, "hot")
        root.evaluate(ADD)
        assert len(asked) == 1
        assert isinstance(store, SharedStore)
        for _ in range(1000):
            root.evaluate(ADD)
        assert len(asked) <= 4
        assert store._proxy.rivalries().get("hot") is None
        assert root.conflicts == 0


@pytest.fixture
def asked_streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those of which a turn has been asked for."""
    asked: list[str] = []
    ask = StoreProxy.turn

    def counted(self: StoreProxy, stream: str, *arguments: Any) -> Any:
        asked.append(stream)
        return ask(self, stream, *arguments)

    monkeypatch.setattr(StoreProxy, "turn", counted)
    return asked


def test_a_second_conflict_makes_a_root_ask_for_its_turn(path: Path, asked_streams: list[str]) -> None:
    with ms.connect(path) as store, ms.connect(path) as other:
        root, rival = Counter(store, "hot"), Counter(other, "hot")
        left = [1, 2]
        root.meanwhile = lambda: left and left.pop() and rival.evaluate(ADD)
        root.evaluate(ADD)
        assert (root.conflicts, asked_streams) == (2, ["hot"])


def test_a_transaction_asks_for_its_turn_where_it_meets_conflicts(path: Path, asked_streams: list[str]) -> None:
    with ms.connect(path) as store, ms.connect(path) as other:
        left = [1, 2]

        def work(tx: ms.Transaction) -> None:
            tx.root(Counter, "cold").evaluate(ADD)
            tx.root(Counter, "hot").evaluate(ADD)
            if left:
                left.pop()
                Counter(other, "hot").evaluate(ADD)

        store.transact(work)
        assert asked_streams == ["hot"]
        check(store, 3)
        assert found_before(path) == 0


def test_transactions_that_meet_on_two_streams_get_on(path: Path) -> None:
    def move(tx: ms.Transaction) -> None:
        tx.root(Counter, "hot").evaluate(ADD)
        tx.root(Counter, "hotter").evaluate(ADD)

    def work(_number: int) -> None:
        with ms.connect(path) as store:
            for _ in range(25):
                store.transact(move)

    with ms.connect(path) as store:
        in_forks(4, work)
        check(store, 100)
        assert store.last_sequence("hotter") == store.last_sequence("hot") == 100


def test_threads_of_a_process_and_others_take_turns(path: Path) -> None:
    with ms.connect(path) as store, Fork(lambda: add(path, 60)) as fork:

        def work() -> None:
            for _ in range(30):
                make_hot(store)
                Counter(store, "hot").evaluate(ADD)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fork.result()
        check(store, 150)


def test_a_fork_takes_none_of_its_parents_turns(path: Path) -> None:
    with ms.connect(path) as store:
        root = Counter(store, "hot")
        for _ in range(2):
            make_hot(store)
            root.evaluate(ADD)
        with Fork(lambda: len(root.evaluate(ADD))) as fork:
            root.evaluate(ADD)
            assert fork.result() == 1
        check(store, 4)


def look_for_ever(root: Counter) -> None:
    while True:
        root.evaluate(ms.Command("look", None))


def test_a_wait_for_a_turn_that_a_signals_handler_ends_leaves_nothing_behind(path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with ms.connect(path) as store, lines_to(path, 1) as (holder,):
        root = Counter(store, "hot")
        root.evaluate(ADD)
        with Alarm(interrupt) as alarm:
            for _ in range(5):
                ask_for_turn(holder)
                answer(holder)
                make_hot(store)
                descriptors = open_descriptors()
                with pytest.raises(KeyboardInterrupt), alarm.after(0.05):
                    look_for_ever(root)
                assert open_descriptors() <= descriptors
        root.evaluate(ADD)
        check(store, 2)


def test_a_store_that_another_thread_closes_ends_the_wait_for_a_turn(path: Path) -> None:
    with ms.connect(path) as keeper, ms.connect(path, timeout=25) as store, lines_to(path, 12) as lines:
        for line in lines:  # so many leases are longer than it takes to close
            ask_for_turn(line)
        make_hot(store)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                Counter(store, "hot").evaluate(ADD)
            except ms.StoreError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.1)
        store.close()
        thread.join()
        assert [type(error) for error in errors] == [ms.StoreClosedError]
        assert keeper.last_sequence("hot") is None


def test_after_a_reset_commits_go_on_whoever_had_a_turn(path: Path) -> None:
    with ms.connect(path, allow_reset=True) as store, lines_to(path, 1) as (holder,):
        Counter(store, "hot").evaluate(ADD)
        ask_for_turn(holder)
        answer(holder)
        store.reset()
        make_hot(store)
        Counter(store, "hot").evaluate(ADD)
        check(store, 1)
