"""Silent and slow clients beside honest ones: what they cost these, and what is left of them."""

from __future__ import annotations

import math
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from processes import wait_until

import maestro_shm as ms
from campaign.check import Finding, Run, comes_to_light
from campaign.hostile import crowd
from campaign.hostile.exhaustion import exhaustion
from campaign.hostile.served import Served
from campaign.planting import exchange
from maestro_shm.shared import peer
from maestro_shm.shared.peer import Peer
from maestro_shm.shared.server import LoopServer

_SILENT: Final = 400
_STRANGERS: Final = 10
_AT_MOST_SLOWER: Final = 2.0
_FAR_SLOWER: Final = 20.0
"""As with a planted fault. Of few commits a busy machine makes some look slower, too."""
_LEAVE_SECONDS: Final = 5.0
_DROP_SECONDS: Final = 3.0
"""How much later than due a stranger may be dropped."""
_SHORT: Final = 0.5
"""Seconds that a server with a planted fault has for either, and strangers have there: it is to be found soon."""
_SPARE_MEMORY: Final = 4 << 20
"""Bytes that an allocator may keep."""


def silence(run: Run) -> Iterator[Finding]:
    yield _latency(run)
    yield _departure()
    yield exhaustion()


# What they cost the others


def _latency(run: Run) -> Finding:
    turns, commits = run.count(full=25, quick=9), run.count(full=3_000, quick=500)
    slower, alone, beside = _slowdown(turns, commits)
    caught = _slowdown(3, 10, _answer_the_slower_the_more_there_are)[0] > _FAR_SLOWER
    return Finding(
        figure=f"p99 of {commits:,} honest commits beside {_SILENT} silent clients and a deaf one, in {turns} turns",
        goal=f"at most {_AT_MOST_SLOWER:g} times that without{run.unless_judged}",
        found=f"{slower:.2f} times: {beside * 1e6:,.0f} against {alone * 1e6:,.0f} µs",
        met=run.quick or slower <= _AT_MOST_SLOWER,
        planted=f"{caught:d} of 1",
        caught_all=caught,
    )


def _slowdown(turns: int, commits: int, plant: Callable[[], object] = int) -> tuple[float, float, float]:
    """How many times slower, and the p99 without and with the crowd: medians over the turns."""
    alone, beside = [], []
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "store")
        served = stack.enter_context(Served(path, plant))
        store = stack.enter_context(ms.connect(path))
        for _ in range(turns):
            alone.append(_p99(store, commits))
            with crowd.silent_crowd(served, _SILENT):
                beside.append(_p99(store, commits))
            wait_until(lambda: store.stats()["clients"] == 1, "the crowd has left")
    slower = statistics.median(after / before for before, after in zip(alone, beside, strict=True))
    return slower, statistics.median(alone), statistics.median(beside)


def _p99(store: ms.Store, commits: int) -> float:
    first = (store.last_sequence("honest") or 0) + 1
    seconds = []
    for sequence in range(first, first + commits):
        begun = time.perf_counter()
        store.commit_events([ms.Event("honest", sequence, "made", None)])
        seconds.append(time.perf_counter() - begun)
    return sorted(seconds)[int(commits * 0.99)]


def _answer_the_slower_the_more_there_are() -> None:
    at_once = LoopServer._commit_at_once

    def slowly(self: LoopServer, peer: Peer, mailbox: int, request: bytes) -> bool:
        if b"honest" in request:
            time.sleep(len(self._peers) / 4000)
        return at_once(self, peer, mailbox, request)

    exchange(LoopServer, "_commit_at_once", slowly)


# What is left of them


def _departure() -> Finding:
    memory, descriptors, undropped = _left_behind(_LEAVE_SECONDS)
    caught = [
        comes_to_light(lambda _: _left_behind(_SHORT, _keep_connections)[1] > 0),  # as the real one is judged
        comes_to_light(lambda _: _left_behind(_SHORT, _keep_memory)[0] > _SPARE_MEMORY),
        comes_to_light(lambda _: _left_behind(_SHORT, _wait_for_ever)[2] > 0),
    ]
    return Finding(
        figure=f"what {_SILENT} silent clients leave behind after {_LEAVE_SECONDS:g} s; "
        f"{_STRANGERS} strangers that do not leave by themselves",
        goal="0 descriptors, no memory; all dropped",
        found=f"{descriptors} descriptors, {memory / 2**20:+.1f} MB; {_STRANGERS - undropped} of {_STRANGERS} dropped",
        met=memory <= _SPARE_MEMORY and not descriptors and not undropped,
        planted=f"{sum(caught)} of {len(caught)}",
        caught_all=all(caught),
    )


def _left_behind(seconds: float, plant: Callable[[], object] = int) -> tuple[int, int, int]:
    """Bytes of memory and descriptors that are left of a crowd, and strangers that were not dropped."""

    def prepare() -> None:
        exchange(peer, "HANDSHAKE_SECONDS", min(seconds, peer.HANDSHAKE_SECONDS))
        plant()

    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "store")
        served = stack.enter_context(Served(path, prepare))
        stack.enter_context(ms.connect(path))
        _let_a_crowd_come_and_go(
            served, len(served.descriptors()), seconds
        )  # the server has the memory of a crowd from now on
        memory, descriptors = served.own_memory(), len(served.descriptors())
        strangers = [stack.enter_context(crowd.stranger(served)) for _ in range(_STRANGERS)]
        drop_until = time.monotonic() + seconds + _DROP_SECONDS
        _let_a_crowd_come_and_go(served, descriptors + _STRANGERS, seconds)
        while time.monotonic() < drop_until and not all(map(crowd.is_hung_up, strangers)):
            time.sleep(0.05)
        undropped = sum(not crowd.is_hung_up(stranger) for stranger in strangers)
        return served.own_memory() - memory, len(served.descriptors()) - descriptors - undropped, undropped


def _let_a_crowd_come_and_go(served: Served, descriptors: int, seconds: float) -> None:
    """Wait then until the server has no more than so many, but not for ever."""
    with crowd.silent_crowd(served, _SILENT):
        pass
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(served.descriptors()) > descriptors:
        time.sleep(0.02)


def _keep_connections() -> None:
    kept: list[object] = []
    begin = Peer.__init__

    def keep(self: Peer, connection: socket.socket, key: bytes, message_limit: int) -> None:
        kept.append(connection.dup())
        begin(self, connection, key, message_limit)

    exchange(Peer, "__init__", keep)


def _keep_memory() -> None:
    drop = LoopServer._drop
    kept: list[bytes] = []

    def keep(self: LoopServer, dropped: Peer, *, has_hung_up: bool = False) -> None:
        kept.append(b"x" * (1 << 16))
        drop(self, dropped, has_hung_up=has_hung_up)

    exchange(LoopServer, "_drop", keep)


def _wait_for_ever() -> None:
    do_chores = LoopServer._do_chores

    def do_without_dropping(self: LoopServer, now: float) -> None:
        for known in self._peers:
            known.deadline = math.inf
        do_chores(self, now)

    exchange(LoopServer, "_do_chores", do_without_dropping)
