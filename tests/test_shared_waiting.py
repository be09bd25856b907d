"""Waits across processes: beside kills, forks, signals, and clients that leave."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from alarm import Alarm
from processes import Fork, kill, open_descriptors, servers_of, wait_until
from store_contract import in_threads

import maestro_shm as ms
from maestro_shm.shared import directory as directories
from maestro_shm.shared import header as head
from maestro_shm.shared import wire
from maestro_shm.shared.transport import Line
from maestro_shm.shared.waiting import Waiting, Wanted

SOON = 30.0


def commit(store: ms.Store, sequence: int) -> None:
    store.commit_events([ms.Event("a", sequence, "made", sequence)])


def follow(path: Path, count: int) -> list[int]:
    """Positions as a subscriber in a process of its own gets them."""
    with ms.connect(path) as store, store.subscribe() as subscription:
        return [next(subscription).position or 0 for _ in range(count)]


def line_to(path: Path) -> Line:
    header = head.open_header(path)
    address = str(directories.socket_path(path, header.words[head.EPOCH]))
    header.close()
    return Line(address, directories.read_key(path), time.monotonic() + SOON)


def test_subscribers_of_other_processes_get_every_event_once_though_servers_are_killed(path: Path) -> None:
    count = 300
    with ms.connect(path) as store, Fork(lambda: follow(path, count)) as one, Fork(lambda: follow(path, count)) as two:
        for sequence in range(1, count + 1):
            commit(store, sequence)
            if sequence % 60 == 0:
                kill(store.stats()["server_pid"])
        assert one.result() == two.result() == list(range(1, count + 1))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_waits_elects_the_next_server(path: Path, number: signal.Signals) -> None:
    with ms.connect(path) as store, Fork(lambda: follow(path, 1)) as fork:
        former = store.stats()["server_pid"]
        wait_until(lambda: store.stats()["clients"] == 2, "the subscriber is there")
        kill(former, number)
        wait_until(lambda: servers_of(path) not in ([], [former]), "there is another server")
        commit(store, 1)
        assert fork.result() == [1]


def test_who_waits_is_told_when_the_disk_has_the_commit(path: Path) -> None:
    with ms.connect(path, durability="power") as store, Fork(lambda: follow(path, 50)) as fork:
        for sequence in range(1, 51):
            commit(store, sequence)
        assert fork.result() == list(range(1, 51))


def test_a_fork_goes_on_with_a_subscription_of_its_own(path: Path) -> None:
    with ms.connect(path) as store:
        commit(store, 1)
        subscription = store.subscribe()
        assert next(subscription).position == 1
        assert subscription.get(timeout=0.01) is None
        with Fork(lambda: [next(subscription).position for _ in range(2)]) as fork:
            for sequence in (2, 3):
                commit(store, sequence)
            assert [next(subscription).position for _ in range(2)] == [2, 3]
            assert fork.result() == [2, 3]


def test_a_signals_handler_may_close_a_subscription(path: Path) -> None:
    with ms.connect(path) as store:
        commit(store, 1)
        subscription = store.subscribe()
        with Alarm(subscription.close) as alarm, alarm.after(0.1):
            assert [event.position for event in subscription] == [1]


def test_a_wait_that_a_signals_handler_ends_leaves_nothing_behind(path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with ms.connect(path) as store:
        subscription = store.subscribe()
        assert subscription.get(timeout=0.01) is None
        before = open_descriptors()
        with Alarm(interrupt) as alarm:
            for _ in range(5):
                with pytest.raises(KeyboardInterrupt), alarm.after(0.05):
                    next(subscription)
                with pytest.raises(KeyboardInterrupt), alarm.after(0.05):
                    store.wait(1)
        assert open_descriptors() <= before
        wait_until(lambda: store.stats()["clients"] <= 1, "the server has seen them leave")
        commit(store, 1)
        assert next(subscription).position == 1


def test_subscriptions_that_come_and_go_leave_nothing_behind(path: Path) -> None:
    with ms.connect(path) as store:
        commit(store, 1)
        before, threads = open_descriptors(), threading.active_count()
        for _ in range(50):
            with store.subscribe() as subscription:
                assert next(subscription).position == 1
                assert subscription.get(timeout=0.001) is None
        assert open_descriptors() <= before + 2  # a mapped segment or two, and the line
        assert threading.active_count() == threads
        wait_until(lambda: store.stats()["clients"] <= 1, "the server has seen them leave")


def test_a_client_waits_once_at_a_time(path: Path) -> None:
    with ms.connect(path) as store:
        line = line_to(path)
        incarnation = 1
        request = wire.pack([7, None, "wait", [incarnation, 5, 60_000]])
        line._send(request + request, time.monotonic() + SOON)
        with pytest.raises((EOFError, ConnectionError)):
            line._receive(time.monotonic() + SOON)
        line.close()
        commit(store, 1)


@pytest.mark.parametrize("arguments", [[], [1, 5], [1, "5", 10], ["1", 5, 10], [1, 5, 10, 10], [1, [5], 10]])
def test_a_wait_for_nonsense_is_refused(path: Path, arguments: list[object]) -> None:
    with ms.connect(path) as store:
        line = line_to(path)
        reply = wire.unpack(line.exchange(wire.pack([7, None, "wait", arguments]), time.monotonic() + SOON))
        with pytest.raises(ms.InvalidEventError, match="cannot read"):
            wire.result_of(reply)
        line.close()
        commit(store, 1)


def test_who_asks_for_another_incarnation_is_answered_at_once(path: Path) -> None:
    with ms.connect(path, allow_reset=True) as store:
        line = line_to(path)
        message = wire.pack([7, None, "wait", [2, 5, 60_000]])
        assert wire.unpack(line.exchange(message, time.monotonic() + SOON)) == (7, True, None)
        line.close()
        commit(store, 1)


def test_many_clients_wait_and_each_is_answered_at_its_position(path: Path) -> None:
    with ms.connect(path) as store:
        lines = [line_to(path) for _ in range(60)]
        for number, line in enumerate(lines):
            line._send(wire.pack([number, None, "wait", [1, 1 + number % 20, 60_000]]), time.monotonic() + SOON)
        for line in lines[::3]:
            line.close()
        wait_until(lambda: store.stats()["clients"] == 41, "they have left")
        for sequence in range(1, 21):
            commit(store, sequence)
        for number, line in enumerate(lines):
            if number % 3:
                assert wire.unpack(line._receive(time.monotonic() + SOON)) == (number, True, None)
                line.close()


def test_a_wait_that_has_an_end_outlasts_it_by_little_where_the_server_does_not_answer(path: Path) -> None:
    with ms.connect(path, timeout=20) as store:
        pid = store.stats()["server_pid"]
        assert not store.wait(1, timeout=0.01)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert not store.wait(1, timeout=0.01)  # the line is there, and nobody at its end
            assert not store.wait(1, timeout=0.01)  # nobody lets us in
        finally:
            os.kill(pid, signal.SIGCONT)
        commit(store, 1)
        assert store.wait(1, timeout=0)


def test_a_burst_of_waits_does_not_keep_its_lines(path: Path) -> None:
    with ms.connect(path) as store:
        before = open_descriptors()
        in_threads(*[lambda: store.wait(1, timeout=0.5)] * 150)
        assert open_descriptors() <= before + 64
        commit(store, 1)


class _Peer:
    """Stands for a connection: whoever waits is known by it and by nothing of it."""


def test_the_server_keeps_nothing_of_clients_that_leave() -> None:
    waiting = Waiting()
    for number in range(10_000):
        peer = _Peer()
        assert waiting.add(peer, number, Wanted(waiting, 2**62, 1e9))  # type: ignore[arg-type]
        waiting.forget(peer)  # type: ignore[arg-type]
    assert len(waiting.waits) == 0
    assert len(waiting._by_number) <= 65
    assert len(waiting._by_deadline) <= 65
    assert list(waiting.due(None, 0.0)) == []


def test_the_server_keeps_nothing_of_what_it_has_answered() -> None:
    waiting = Waiting()
    peer = _Peer()
    for number in range(10_000):
        assert waiting.add(peer, number, Wanted(waiting, number, 1e9))  # type: ignore[arg-type]
        assert [found for _, found in waiting.due(number, 0.0)] == [number]
    assert len(waiting._by_number) + len(waiting._by_deadline) <= 70


def test_the_server_answers_in_the_order_of_positions() -> None:
    waiting = Waiting()
    peers = [_Peer() for _ in range(6)]
    for number, (peer, position) in enumerate(zip(peers, (5, 1, 3, 3, 9, 1), strict=True)):
        assert waiting.add(peer, number, Wanted(waiting, position, 100.0))  # type: ignore[arg-type]
        assert not waiting.add(peer, number, Wanted(waiting, position, 100.0))  # type: ignore[arg-type]
    waiting.forget(peers[2])  # type: ignore[arg-type]
    assert waiting.add(peers[2], 12, Wanted(waiting, 4, 50.0))  # type: ignore[arg-type]
    assert [number for _, number in waiting.due(3, 0.0)] == [1, 5, 3]
    assert waiting.seconds(40.0, 60.0) == 10.0
    assert waiting.seconds(0.0, 1.0) == 1.0
    assert [number for _, number in waiting.due(3, 50.0)] == [12]
    assert [number for _, number in waiting.due(8, 50.0)] == [0]
    assert [number for _, number in waiting.due(None, 50.0)] == [4]
    assert list(waiting.due(None, 1e9)) == []


def test_a_wait_whose_time_is_over_keeps_its_line(path: Path) -> None:
    with ms.connect(path) as store:
        assert not store.wait(1, timeout=0.01)
        before = store.stats()["clients"], open_descriptors()
        for _ in range(20):
            assert not store.wait(1, timeout=0.01)
        assert (store.stats()["clients"], open_descriptors()) == before


def test_waiting_costs_no_processor_time(path: Path) -> None:
    with ms.connect(path) as store, Fork(lambda: follow(path, 1)) as fork:
        wait_until(lambda: store.stats()["clients"] == 2, "the subscriber is there")
        before = _ticks(fork.pid)
        time.sleep(1.0)
        assert _ticks(fork.pid) - before <= 0.4 * os.sysconf("SC_CLK_TCK")
        commit(store, 1)
        assert fork.result() == [1]


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
