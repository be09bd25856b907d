"""A server that runs out of descriptors: honest clients go on, nothing spins, and new ones get in again afterwards."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from processes import Fork, cleaned_up

import maestro_shm as ms
from campaign.check import Finding, comes_to_light
from campaign.hostile import crowd
from campaign.hostile.conversation import Ended
from campaign.hostile.served import Served, processor_seconds
from campaign.planting import exchange
from maestro_shm.shared import door
from maestro_shm.shared.door import Door

_MORE: Final = 60
"""Descriptors that the server may have beyond those that it has."""
_COMMITS: Final = 20
_BODY: Final = bytes(900_000)
"""Large enough that the log has to grow, for which the server needs descriptors itself."""
_TURNED_AWAY: Final = 5
_MOST_OF_SPINNING: Final = 0.1
"""A server that waits computes nothing; one that spins beside a busy machine has less of it than it wants."""
_WATCH_SECONDS: Final = 1.0
_PATIENCE: Final = 3.0


def exhaustion() -> Finding:
    faults, share, attempts = _exhaust()
    caught = [kind for kind in _PLANTED if comes_to_light(partial(_is_caught, kind))]
    for kind in set(_PLANTED) - set(caught):
        print(f"  not caught: {kind}")
    return Finding(
        figure=f"out of descriptors after {attempts} clients: {2 * _COMMITS} honest commits then, new clients later",
        goal="all stored, all let in, no spinning",
        found=f"{', '.join(faults) or 'all stored, all let in'}; computes {share:.0%} of what one that spins does",
        met=not faults,
        planted=f"{len(caught)} of {len(_PLANTED)}",
        caught_all=len(caught) == len(_PLANTED),
    )


def _is_caught(kind: str, _attempt: int) -> bool:
    return kind in _exhaust(_PLANTED[kind])[0]


def _exhaust(plant: Callable[[], object] = int) -> tuple[list[str], float, int]:
    """What went wrong, how much the server computed while it had nothing to do, how many clients it took."""
    faults = []
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "store")
        stack.enter_context(cleaned_up(path))
        served = stack.enter_context(Served(path, plant))
        store = stack.enter_context(ms.connect(path))
        with ExitStack() as guests:
            _leave(served, _MORE)
            filled = _fill(served, guests)
            if not _commit(store, _BODY):
                faults.append("honest commits fail")
            _leave(served, 0)
            waiting = list(_come(served, guests, _TURNED_AWAY))
            share = _share_of_spinning(served)
            if len(waiting) < _TURNED_AWAY:
                faults.append("refuses connections")
            if share > _MOST_OF_SPINNING:
                faults.append("spins")
            if not all(map(crowd.is_hung_up, waiting)) or not _commit(store, b""):
                faults.append("leaves them waiting")
        _leave(served, 10 * _MORE)
        if not _lets_in(served):
            faults.append("lets nobody in")
        if not served.is_alive:
            faults.append("died")
    return faults, share, filled


def _leave(served: Served, free: int) -> None:
    """Set the server's limit so that so many numbers below it are free."""
    taken = set(served.descriptors())
    numbers = (number for number in itertools.count() if number not in taken)
    _, hard = resource.prlimit(served.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (next(itertools.islice(numbers, free, None)), hard))


def _fill(served: Served, guests: ExitStack) -> int:
    """Let clients come until one is turned away."""
    for number in range(2 * _MORE):
        try:
            guests.enter_context(crowd.at_rest(served))
        except (Ended, TimeoutError):
            return number
    raise AssertionError("a server took more clients than it may have descriptors")


def _come(served: Served, guests: ExitStack, count: int) -> Iterator[socket.socket]:
    """Strangers at the door, but for those who find none."""
    for _ in range(count):
        try:
            stranger = crowd.stranger(served)
        except ConnectionRefusedError:
            continue
        yield guests.enter_context(stranger)


def _commit(store: ms.Store, body: bytes) -> bool:
    first = (store.last_sequence("honest") or 0) + 1
    try:
        for sequence in range(first, first + _COMMITS):
            store.commit_events([ms.Event("honest", sequence, "made", body)])
    except ms.StoreUnavailableError:
        return False
    return True


def _share_of_spinning(served: Served) -> float:
    """How much the server computes, compared with a process that does nothing else, whatever else the machine does."""
    with Fork(_spin) as spinner:
        before = processor_seconds(served.pid), processor_seconds(spinner.pid)
        deadline = time.monotonic() + _WATCH_SECONDS
        while time.monotonic() < deadline or processor_seconds(spinner.pid) - before[1] < 0.2:
            time.sleep(0.05)
        after = processor_seconds(served.pid), processor_seconds(spinner.pid)
    return (after[0] - before[0]) / (after[1] - before[1])


def _spin() -> NoReturn:
    while True:
        os.getppid()


def _lets_in(served: Served) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            crowd.at_rest(served, _PATIENCE).close()
        except (Ended, TimeoutError, ConnectionRefusedError):
            time.sleep(0.05)
        else:
            return True
    return False


# Servers with a fault


def _take_the_last() -> None:
    exchange(door, "_is_among_the_last", lambda _: False)


def _let_them_wait() -> None:
    exchange(Door, "_turn_away", lambda _: None)


def _close_the_door() -> None:
    def shut(self: Door) -> None:
        self._listening.close()

    exchange(Door, "_turn_away", shut)


_PLANTED: Final[dict[str, Callable[[], None]]] = {
    "honest commits fail": _take_the_last,
    "spins": _let_them_wait,
    "lets nobody in": _close_the_door,
}
