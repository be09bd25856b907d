"""Competing consumers that are killed at any moment."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from processes import Fork, cleaned_up, is_gone, kill, wait_until

import maestro_shm as ms
from campaign.kills.stores import new_target
from maestro_shm.shared.store import path_of

_AGGREGATES: Final = 64
_CONSUMERS: Final = 4
_PARTITIONS: Final = 8
_BATCH: Final = 50
_SECONDS: Final = 300.0
_FEW: Final = 5_000
_HASTE: Final = 20.0
"""Seconds after which what was not done is lost; of few events."""


class Consumption:
    """One trial. `faults` makes it."""

    def __init__(self, choices: random.Random, events: int, kills: int) -> None:
        self.kills = 0
        self.servers = 0
        self._choices = choices
        self._events = events
        self._wanted_kills = kills

    def faults(self) -> list[str]:
        """What went wrong."""
        target = new_target()
        with tempfile.TemporaryDirectory() as scratch, cleaned_up(path_of(target)), ms.connect(target) as store:
            notes = Path(scratch, "faults")
            notes.touch()
            store.subscription("work", _PARTITIONS, most_attempts=1_000)
            forks = [self._consumer(target, Path(scratch)) for _ in range(_CONSUMERS)]
            try:
                self._kill_now_and_then(target, store, forks, Path(scratch))
                late = self._wait_until_done(store, notes)
            finally:
                for fork in forks:
                    fork.kill()
            return [*notes.read_text(encoding="utf-8").splitlines(), *late]

    def _kill_now_and_then(self, target: str, store: ms.Store, forks: list[Fork[None]], scratch: Path) -> None:
        written = 0
        for number in range(self._wanted_kills):
            until = self._events * (number + 1) // self._wanted_kills
            while written < until:
                count = min(_BATCH, until - written)
                store.commit_events([_event(position) for position in range(written, written + count)])
                written += count
            time.sleep(self._choices.uniform(0, 0.1))
            which = self._choices.randrange(_CONSUMERS)
            if is_gone(forks[which].pid):
                _note(scratch, "a consumer ended by itself")
            forks[which].kill()
            forks[which] = self._consumer(target, scratch)
            self.kills += 1
            if number % 5 == 4:
                kill(store.stats()["server_pid"], signal.SIGKILL)
                self.servers += 1

    def _wait_until_done(self, store: ms.Store, notes: Path) -> list[str]:
        wanted = {f"aggregate-{n}": (self._events - n - 1) // _AGGREGATES + 1 for n in range(_AGGREGATES)}

        def is_done() -> bool:
            return dict(store.table("done")) == wanted or notes.stat().st_size > 0

        with contextlib.suppress(AssertionError):  # then it is not
            wait_until(is_done, "all is done", seconds=_HASTE if self._events < _FEW else _SECONDS)
        found = dict(store.table("done"))
        late = [
            f"{key}: {found.get(key)} of {count} are done" for key, count in wanted.items() if found.get(key) != count
        ]
        parked = store.subscription("work").parked()
        return [*late, *(f"the event at {position} was given up: {reason}" for position, reason, _ in parked)]

    @staticmethod
    def _consumer(target: str, scratch: Path) -> Fork[None]:
        return Fork(lambda: _consume(target, scratch))


def _event(number: int) -> ms.Event:
    return ms.Event(f"aggregate-{number % _AGGREGATES}", number // _AGGREGATES + 1, "made", None)


def _consume(target: str, scratch: Path) -> None:
    """Do what comes, each under a lock of its aggregate that must be free; write down what is not as it should be."""
    with ms.connect(target) as store, closing(store.subscription("work")) as consumer:
        for event in consumer:
            lock = os.open(scratch / event.aggregate_id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            try:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    _note(scratch, f"two had events of {event.aggregate_id} at work")
                time.sleep(0.0002)
                consumer.apply(event, lambda tx, event: _do(tx, event, scratch))
            finally:
                os.close(lock)


def _do(tx: ms.Transaction, event: ms.Event, scratch: Path) -> None:
    done = tx.table("done")
    if done.get(event.aggregate_id, 0) != event.sequence - 1:
        _note(scratch, f"{event.aggregate_id}: event {event.sequence} came after {done.get(event.aggregate_id, 0)}")
    done[event.aggregate_id] = event.sequence


def _note(scratch: Path, fault: str) -> None:
    with (scratch / "faults").open("a", encoding="utf-8") as notes:
        notes.write(fault + "\n")
