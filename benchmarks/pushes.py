"""From a commit to a subscriber in another process, beside a bare ping-pong between two processes.

The subscriber tells how long after the beginning of the commit it had the event: both processes have one clock. It is
asleep when the event comes, since there is a pause before each; so is the other side of the ping-pong.
"""

from __future__ import annotations

import itertools
import socket
import time
from multiprocessing.connection import Connection
from time import perf_counter_ns
from typing import Final

import maestro_shm as ms
from benchmarks.child import Child
from benchmarks.settings import Settings
from benchmarks.timing import Timing, summarize

PUSH: Final = "from a commit to a waiting subscriber"
OURS: Final = "maestro_shm"
PING_PONG: Final = "bare socket ping-pong, there and back"
_PAUSE: Final = 0.0005


def time_pushes(store: ms.Store, settings: Settings) -> list[Timing]:
    """Ours, and the ping-pong."""
    pushed: list[int] = []
    answered: list[int] = []
    sequences = itertools.count(1)
    near, far = socket.socketpair(socket.AF_UNIX)
    with Child(lambda line: _follow(store, line)) as subscriber, Child(lambda _: _answer(near, far)), near:
        far.close()
        subscriber.receive()
        for turn in range(settings.rounds + 1):
            ours = [_push(store, next(sequences), subscriber) for _ in range(settings.calls)]
            theirs = [_ask(near) for _ in range(settings.calls)]
            if turn:
                pushed += ours
                answered += theirs
    return [summarize(PUSH, OURS, pushed), summarize(PUSH, PING_PONG, answered)]


def _follow(store: ms.Store, line: Connection) -> None:
    with store.subscribe(store.last_position) as subscription:
        line.send("ready")
        for event in subscription:
            line.send(perf_counter_ns() - event.body)


def _push(store: ms.Store, sequence: int, subscriber: Child) -> int:
    time.sleep(_PAUSE)
    store.commit_events([ms.Event("pushed", sequence, "made", perf_counter_ns())])
    duration: int = subscriber.receive()
    return duration


def _ask(near: socket.socket) -> int:
    time.sleep(_PAUSE)
    started = perf_counter_ns()
    near.sendall(b"?" * 100)
    near.recv(4096)
    return perf_counter_ns() - started


def _answer(near: socket.socket, far: socket.socket) -> None:
    near.close()
    while far.recv(4096):
        far.sendall(b"!" * 100)
