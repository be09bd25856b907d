"""The server of a store ended again and again while writers commit, and the history that is left of it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from processes import Fork, cleaned_up, is_gone, servers_of, wait_until

import maestro_shm as ms
from campaign.kills import logbook, writer
from campaign.kills.audit import History, Outcome, faults_of
from campaign.kills.notebook import Flag
from campaign.kills.writer import Told
from maestro_shm.shared import header as head
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.store import path_of

_MOMENTS = ("starting", "up", "busy", "busy")


class Siege(NamedTuple):
    """What a store went through, and what came of it."""

    history: History
    wrong: list[str]
    kills: int
    starting: int
    """Kills of a server that was not up yet."""
    failures: int
    """Calls that found no server at all, and so sent nothing."""

    @property
    def faults(self) -> list[str]:
        return self.wrong + faults_of(self.history)

    def count(self, outcome: Outcome) -> int:
        return sum(sent.outcome is outcome for sent in self.history.sent)


def told(sieges: Sequence[Siege]) -> str:
    """What was met, in words."""
    acknowledged, is_open, refused = (sum(siege.count(outcome) for siege in sieges) for outcome in Outcome)
    kills, starting = sum(siege.kills for siege in sieges), sum(siege.starting for siege in sieges)
    failures = sum(siege.failures for siege in sieges)
    return (
        f"{kills:,} times ({starting:,} in its start); {acknowledged:,} commits acknowledged, {refused:,} refused "
        f"({failures:,} since no server was there), {is_open:,} of open outcome"
    )


class Server:
    """The server of a store, as its header tells of it; a killed one is followed by another."""

    def __init__(self, directory: Path, given_up: Flag) -> None:
        self._directory = directory
        self._given_up = given_up
        self._header = MappedFile.open(directory / head.NAME)
        self._words = self._header.words
        self._ended = 0
        self.kills = self.kills_in_start = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._header.close()

    def wait_for_clients(self, count: int) -> None:
        self._wait(lambda: self._words[head.CLIENTS] >= count, f"{count} clients are there")

    def wait_for_events(self, count: int) -> None:
        self._wait(lambda: self._words[head.LAST_POSITION] >= count, f"{count} events are there")

    def end_at(self, moment: str, delay: float, number: signal.Signals) -> None:
        """End it a while after it is starting, up, or busy with its writers' commits."""
        if moment == "starting":
            self._end_in_start(delay * 1.5, number)
            return
        self._wait_until_up()
        if moment == "busy":
            before = self._words[head.LAST_POSITION]
            self._wait(lambda: self._words[head.LAST_POSITION] > before, "commits go on")
        time.sleep(delay)  # the moment is to be any
        self._end(self._words[head.SERVER_PID], number)

    def _wait_until_up(self) -> None:
        self._wait(lambda: self._words[head.SERVER_PID] != self._ended, "there is a server again")

    def _end_in_start(self, delay: float, number: signal.Signals) -> None:
        self._wait(self._living, "a server is starting")
        time.sleep(delay)  # the moment is to be any
        for pid in self._living():
            self.kills_in_start += self._words[head.SERVER_PID] != pid
            self._end(pid, number)

    def _signal(self, pid: int, number: signal.Signals) -> bool:
        """Whether it was this store's server that got the signal: one that has ended leaves its number to others."""
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if pid not in servers_of(self._directory):
                return False
            signal.pidfd_send_signal(process, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(process)
        return True

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        """As `wait_until`, but no longer than the writers go on: one that meets something wrong stops them all."""
        wait_until(lambda: condition() or self._given_up.is_raised(), what)

    def _living(self) -> list[int]:
        return [pid for pid in servers_of(self._directory) if pid != self._ended]

    def _end(self, pid: int, number: signal.Signals) -> None:
        self.kills += self._signal(pid, number)
        wait_until(lambda: is_gone(pid), f"server {pid} has ended by {number.name}")
        if self._words[head.SERVER_PID] == pid:
            self._ended = pid


def besiege(
    target: str,
    choices: random.Random,
    *,
    kills: int,
    writers: int = 8,
    number: signal.Signals = signal.SIGKILL,
    moments: tuple[str, ...] = _MOMENTS,
    least: int = 0,
    durability: str | None = None,
) -> Siege:
    """Let writers commit to a store without pause, end its server so many times, and let them make so many events."""
    directory = path_of(target)
    with ExitStack() as stack:
        stack.enter_context(cleaned_up(directory))
        _make(target, durability)
        stop = stack.enter_context(Flag())
        works = [partial(writer.write, target, str(n), _choices(choices), stop) for n in range(writers)]
        forks = [stack.enter_context(Fork(work)) for work in works]
        server = stack.enter_context(Server(directory, stop))
        server.wait_for_clients(writers)
        while server.kills < kills and not stop.is_raised():
            server.end_at(choices.choice(moments), choices.uniform(0, 0.04), number)
        server.wait_for_events(least)
        stop.raise_it()
        return _siege(directory, server, [fork.result() for fork in forks])


def _make(target: str, durability: str | None) -> None:
    ms.connect(target, **({} if durability is None else {"durability": durability})).close()


def _choices(choices: random.Random) -> random.Random:
    return random.Random(choices.random())


def _siege(directory: Path, server: Server, told: list[Told]) -> Siege:
    sent = [commit for one in told for commit in one.sent]
    wrong = [text for one in told for text in one.wrong]
    history = History(sent, [], {})
    try:
        with ms.connect(str(directory)):  # after a kill the figures are right when there is a server again
            history = logbook.history_of(directory, sent)
            wrong += logbook.faults_of_figures(directory, history.frames)
    except ms.StoreError as error:
        wrong.append(f"cannot be read: {error}")
    return Siege(history, wrong, server.kills, server.kills_in_start, sum(one.failures for one in told))
