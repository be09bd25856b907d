"""A primary that is lost, whose replica takes its place; then a new replica comes, and so on with it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from typing import Final

from postgres_server import REPLICA, PostgresServer
from processes import PATIENCE, Fork

import maestro_shm as ms
from campaign.kills.notebook import Flag
from campaign.postgres import stored
from campaign.postgres.servers import directory, new_schema
from campaign.postgres.writing import PATIENT, Done, Writers

_PROCESSES: Final = 2
_PATIENCES: Final = (PATIENT, PATIENT)
_CONSUMERS: Final = 2
_PARTITIONS: Final = 4
_Seen = list[tuple[int, str]]
"""Positions and contents, in the order in which they came."""


class Promotions:
    """One trial, with two servers of its own."""

    def __init__(self, choices: random.Random, count: int, options: str = "") -> None:
        """With options of the writers' sessions."""
        self.done = Done()
        self.repeated = 0
        """How many events were delivered once more by the durable subscription."""
        self.begun_anew = 0
        """How many consumers had to."""
        self._choices = choices
        self._count = count
        self._options = options

    def faults(self) -> Counter[str]:
        """What is wrong afterwards."""
        waits = {
            "synchronous_standby_names": REPLICA,
            "wal_receiver_status_interval": "1s",  # where it has all there is already, it says so no earlier
        }
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(directory())
            primary, replica = (PostgresServer(place / name, **waits) for name in ("one", "other"))
            stack.callback(primary.remove)
            stack.callback(replica.remove)
            primary.start()
            self._attach(replica, primary)
            url = new_schema(PostgresServer.url_of(primary, replica), self._options)
            with ms.connect(url) as store:
                store.subscription("work", _PARTITIONS, most_attempts=1_000)
            is_over = stack.enter_context(Flag())
            follower = stack.enter_context(Fork(lambda: _follow(url, is_over)))
            consumers = [stack.enter_context(Fork(lambda: _consume(url, is_over))) for _ in range(_CONSUMERS)]
            with Writers(url, self._choices, _PROCESSES, _PATIENCES) as writers:
                for _ in range(self._count):
                    self._lose(primary, replica)
                    primary, replica = replica, primary
                    time.sleep(self._choices.uniform(0, 0.5))
                    self._attach(replica, primary)
                time.sleep(0.3)
            self.done = writers.done
            is_over.raise_it()
            found = stored.faults(url, self.done)
            found.update(self._subscribers_faults(url, follower, consumers))
            return +found

    @staticmethod
    def _attach(replica: PostgresServer, primary: PostgresServer) -> None:
        replica.follow(primary)
        replica.start()
        primary.wait_for_replica()

    def _lose(self, primary: PostgresServer, replica: PostgresServer) -> None:
        """The primary goes for good; half the time it has told its replica nothing for a while before that."""
        time.sleep(self._choices.uniform(0.3, 1.0))
        if self._options or self._choices.random() < 0.5:
            os.kill(primary.ask("SELECT pid FROM pg_stat_replication"), signal.SIGSTOP)
            time.sleep(self._choices.uniform(0.1, 0.3))
            primary.kill()
        else:
            primary.stop(signal.SIGQUIT)
        time.sleep(self._choices.uniform(0, 1.0))
        replica.promote()

    def _subscribers_faults(
        self, url: str, follower: Fork[_Seen], consumers: list[Fork[tuple[_Seen, int]]]
    ) -> Counter[str]:
        with ms.connect(url) as store:
            feed = [(event.position or 0, event.body[0]) for event in store.read()]
        faults: Counter[str] = Counter()
        faults["subscription"] += follower.result(patience=2 * PATIENCE) != feed
        delivered: Counter[tuple[int, str]] = Counter()
        for consumer in consumers:
            seen, begun_anew = consumer.result(patience=2 * PATIENCE)
            delivered.update(seen)
            self.begun_anew += begun_anew
        self.repeated = delivered.total() - len(delivered)
        faults["not consumed"] += len(set(feed) - delivered.keys())
        faults["never stored, and consumed"] += len(delivered.keys() - set(feed))
        return faults


def _follow(url: str, is_over: Flag) -> _Seen:
    """All that comes by a subscription, until there is no more."""
    seen: _Seen = []
    with ms.connect(url) as store, store.subscribe() as subscription:
        while True:
            was_over = is_over.is_raised()
            if (event := subscription.get(timeout=0.2)) is not None:
                seen.append((event.position or 0, event.body[0]))
            elif was_over:
                return seen


def _consume(url: str, is_over: Flag) -> tuple[_Seen, int]:
    """What was delivered to one consumer, who begins anew where another has gone on for it; and how often."""
    seen: _Seen = []
    begun_anew = 0
    with ms.connect(url) as store:
        while True:
            with contextlib.closing(store.subscription("work")) as consumer:
                try:
                    _take_all(consumer, seen, is_over)
                except ms.SubscriptionError:
                    begun_anew += 1
                else:
                    return seen, begun_anew


def _take_all(consumer: ms.Consumer, seen: _Seen, is_over: Flag) -> None:
    while True:
        was_over = is_over.is_raised()
        if (event := consumer.get(timeout=1.0)) is not None:
            seen.append((event.position or 0, event.body[0]))
            consumer.ack(event)
        elif was_over:
            return
