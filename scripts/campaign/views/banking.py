"""Tellers that are killed while they move money, and somebody who counts it."""

from __future__ import annotations

import random
import signal
import time
from typing import Final

from processes import Fork, cleaned_up, is_gone, kill

import maestro_shm as ms
from campaign.kills.notebook import Flag
from campaign.kills.stores import new_target
from maestro_shm.demo import bank
from maestro_shm.shared.store import path_of

_ACCOUNTS: Final = 100
_TELLERS: Final = 8


class Bank:
    """One trial. `faults` makes it."""

    def __init__(self, choices: random.Random, seconds: float, kills: int) -> None:
        self.kills = 0
        self.servers = 0
        self.counts = 0
        self.transfers = 0
        self._choices = choices
        self._seconds = seconds
        self._wanted_kills = kills
        self._failures = 0

    def faults(self) -> list[str]:
        """What went wrong."""
        target = new_target()
        with cleaned_up(path_of(target)), ms.connect(target) as store, Flag() as stop:
            bank._open(store, _ACCOUNTS)
            tellers = [self._teller(target) for _ in range(_TELLERS)]
            with Fork(lambda: _count(target, stop)) as auditor:
                try:
                    self._kill_now_and_then(target, store, tellers)
                finally:
                    for teller in tellers:
                        teller.kill()
                stop.raise_it()
                counts = auditor.result()
            self.counts = len(counts)
            self.transfers = (store.last_position - _ACCOUNTS) // 2
            total = _ACCOUNTS * bank._OPENING_BALANCE
            wrong = [f"there were {count:,} where there should be {total:,}" for count in counts if count != total]
            return [*["a teller ended by itself"] * self._failures, *wrong]

    def _kill_now_and_then(self, target: str, store: ms.Store, tellers: list[Fork[None]]) -> None:
        for number in range(self._wanted_kills):
            time.sleep(self._seconds / self._wanted_kills * self._choices.uniform(0.5, 1.5))
            which = self._choices.randrange(_TELLERS)
            self._failures += is_gone(tellers[which].pid)
            tellers[which].kill()
            tellers[which] = self._teller(target)
            self.kills += 1
            if number % 3 == 2:
                kill(store.stats()["server_pid"], signal.SIGKILL)
                self.servers += 1

    def _teller(self, target: str) -> Fork[None]:
        seed = self._choices.randrange(2**32)
        return Fork(lambda: _work(target, seed))


def _work(target: str, seed: int) -> None:
    with ms.connect(target) as store:
        teller = bank.Teller(store)
        while True:
            seed += 1
            teller((seed, 50, _ACCOUNTS))


def _count(target: str, stop: Flag) -> list[int]:
    with ms.connect(target) as store:
        auditor = bank.Auditor(store, _ACCOUNTS)
        while not stop.is_raised():
            auditor.count()
            time.sleep(0.01)  # the tellers need the processor, too
        auditor.count()
        return [*auditor.by_table, *auditor.by_accounts]
