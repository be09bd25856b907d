"""A server that crashes or is restarted, again and again, under writers."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from typing import Final

from postgres_server import PostgresServer

from campaign.postgres import stored
from campaign.postgres.servers import directory, new_schema
from campaign.postgres.writing import PATIENT, Done, Writers

_PROCESSES: Final = 4
_PATIENCES: Final = (PATIENT, PATIENT)


class Restarts:
    """One trial, with a server of its own."""

    def __init__(self, choices: random.Random, count: int, **settings: str) -> None:
        self.done = Done()
        self.crashes = 0
        self._choices = choices
        self._count = count
        self._settings = settings

    def faults(self) -> Counter[str]:
        """What is wrong afterwards."""
        with directory() as place, PostgresServer(place / "server", **self._settings).running() as server:
            url = new_schema(server.url)
            with Writers(url, self._choices, _PROCESSES, _PATIENCES) as writers:
                for number in range(self._count):
                    time.sleep(self._choices.uniform(0.3, 1.2))
                    is_crash = number % 3 != 2
                    server.stop(signal.SIGQUIT if is_crash else signal.SIGINT)
                    self.crashes += is_crash
                    time.sleep(self._choices.uniform(0, 0.5))
                    server.start()
                time.sleep(0.3)
            self.done = writers.done
            return stored.faults(url, self.done)
