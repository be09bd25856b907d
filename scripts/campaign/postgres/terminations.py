"""Sessions that somebody ends, most of them between a commit and its reply."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from postgres_server import REPLICA, PostgresServer
from processes import PATIENCE

from campaign.postgres import stored
from campaign.postgres.servers import directory, new_schema
from campaign.postgres.writing import HASTY, PATIENT, Done, Writers

_PROCESSES: Final = 3
PATIENCES: Final = (PATIENT, PATIENT, HASTY)
ALL_HASTY: Final = (HASTY, HASTY, HASTY)
_DELAY: Final = "4ms"
"""So long a commit is stored, and not yet acknowledged."""
_AT_WORK: Final = """SELECT pid, wait_event IS NOT DISTINCT FROM 'SyncRep' FROM pg_stat_activity
WHERE application_name = 'maestro_shm' AND state = 'active'"""


@contextlib.contextmanager
def hesitating_server() -> Iterator[PostgresServer]:
    """One that acknowledges a commit some time after it is stored, since a replica is slow."""
    waits = {"synchronous_standby_names": REPLICA, "synchronous_commit": "remote_apply"}
    with directory() as place, PostgresServer(place / "primary", **waits).running() as server:
        replica = PostgresServer(place / "replica", recovery_min_apply_delay=_DELAY)
        replica.follow(server)
        with replica.running():
            server.wait_for_replica()
            yield server


class Terminations:
    """One trial, in a schema of its own."""

    def __init__(
        self, server: PostgresServer, choices: random.Random, count: int, patiences: Sequence[float] = PATIENCES
    ) -> None:
        self.ended = 0
        self.before_reply = 0
        """How many of them had a commit stored, and not acknowledged."""
        self.done = Done()
        self.url = ""
        self._server = server
        self._choices = choices
        self._count = count
        self._patiences = patiences

    def faults(self) -> Counter[str]:
        """What is wrong afterwards."""
        self.url = new_schema(self._server.url)
        with (
            Writers(self.url, self._choices, _PROCESSES, self._patiences) as writers,
            self._server.connect() as connection,
        ):
            deadline = time.monotonic() + 10 * PATIENCE
            known: set[int] = set()
            while self.ended < self._count:
                assert time.monotonic() < deadline, "nobody is at work"
                time.sleep(self._choices.uniform(0, 0.01))
                self._end_one(connection, known)
        self.done = writers.done
        return stored.faults(self.url, self.done)

    def _end_one(self, connection: Any, known: set[int]) -> None:
        rows = [row for row in connection.execute(_AT_WORK).fetchall() if row[0] not in known]
        waiting = [row for row in rows if row[1]]
        if rows := waiting if self._choices.random() < 0.75 else rows:
            pid, is_before_reply = self._choices.choice(rows)
            if connection.execute("SELECT pg_terminate_backend(%s)", (pid,)).fetchone() == (True,):
                known.add(pid)
                self.ended += 1
                self.before_reply += is_before_reply
