"""One projection, whose runners are killed at any moment."""

from __future__ import annotations

import random
import signal
import time
from typing import Final

from processes import Fork, cleaned_up, is_gone, kill, wait_until

import maestro_shm as ms
from campaign.kills.stores import new_target
from maestro_shm.shared.store import path_of

_AGGREGATES: Final = 200
_BATCH: Final = 100
_SECONDS: Final = 300.0


class Totals:
    """Of each aggregate how many events there were, and the sum of their positions: none makes up for another."""

    def project(self, event: ms.Event, tables: ms.Tables) -> None:
        totals = tables["totals"]
        count, positions = totals.get(event.aggregate_id, (0, 0))
        totals[event.aggregate_id] = count + 1, positions + (event.position or 0)


class Projecting:
    """One trial. `faults` makes it."""

    def __init__(self, choices: random.Random, events: int, kills: int) -> None:
        self.kills = 0
        self.servers = 0
        self._choices = choices
        self._events = events
        self._failures = 0
        self._wanted_kills = kills
        self._sequences = dict.fromkeys(range(_AGGREGATES), 0)

    def faults(self) -> list[str]:
        """What went wrong."""
        target = new_target()
        with cleaned_up(path_of(target)), ms.connect(target) as store:
            self._write(store, self._events // 2)
            steps = [self._events * number // self._wanted_kills for number in range(1, self._wanted_kills + 1)]
            for number, step in enumerate(steps):
                self._write(store, min(self._events, step + self._events // 4) - store.last_position)
                self._run_until(target, store, step, number)
            store.projector("totals", Totals()).catch_up()
            return [*["a runner ended by itself"] * self._failures, *self._differences(store)]

    def _run_until(self, target: str, store: ms.Store, position: int, number: int) -> None:
        """Let a runner come near a position, and kill it then, at any moment."""

        def work() -> None:
            with ms.connect(target) as own, own.projector("totals", Totals()) as runner:
                runner.rebuild() if number == self._wanted_kills // 2 else None
                runner.run()

        with Fork(work) as fork:
            reader = store.projector("totals")
            near = max(0, position - self._choices.randrange(1, 600))
            wait_until(lambda: reader.position >= near, "the projection goes on", seconds=_SECONDS)
            time.sleep(self._choices.uniform(0, 0.01))
            self._failures += is_gone(fork.pid)
            fork.kill()
        self.kills += 1
        if number % 5 == 4:
            kill(store.stats()["server_pid"], signal.SIGKILL)
            self.servers += 1

    def _write(self, store: ms.Store, count: int) -> None:
        for start in range(0, count, _BATCH):
            store.commit_events([self._next_event() for _ in range(min(_BATCH, count - start))])

    def _next_event(self) -> ms.Event:
        number = self._choices.randrange(_AGGREGATES)
        self._sequences[number] += 1
        return ms.Event(f"aggregate-{number}", self._sequences[number], "made", None)

    def _differences(self, store: ms.Store) -> list[str]:
        expected: dict[str, tuple[int, int]] = {}
        for event in store.read():
            count, positions = expected.get(event.aggregate_id, (0, 0))
            expected[event.aggregate_id] = count + 1, positions + (event.position or 0)
        found = dict(store.projector("totals").table("totals"))
        if store.last_position != self._events:
            return [f"{store.last_position:,} events of {self._events:,}"]
        return [
            f"{key}: {found.get(key)} where there should be {expected.get(key)}"
            for key in sorted(found.keys() | expected.keys())
            if found.get(key) != expected.get(key)
        ]
