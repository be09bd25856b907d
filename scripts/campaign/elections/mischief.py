"""What may happen around an election beside the death of the server: each a thing that stops, deletes or holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from processes import servers_of

from maestro_shm.shared import directory as directories

_LONGEST_MOMENT: Final = 0.25
"""An election takes about this long, so what is to come into it comes within."""

Deed = Callable[[], None]


class Mischief:
    """What is done in one round, some of it before the racers start and the rest when its time has come."""

    def __init__(self, directory: Path, epoch: int, choices: random.Random) -> None:
        self._directory = directory
        self._epoch = epoch
        self._random = choices
        self._due: list[tuple[float, Deed]] = []
        self._orphans: list[int] = []
        self.deeds = 0
        self.forks_after = 0.0
        self.child_lives = 0.0

    def plan(self, *, server_is_dead: bool) -> None:
        """Choose what is to be done, and do what has to be done before the start."""
        kinds = [
            self._delete_lock,
            self._kill_while_starting,
            self._stop_while_starting,
            self._orphan_file_lock,
            self._fork_racers,
        ]
        if server_is_dead:
            kinds += [self._orphan_directory_lock, self._plant_sockets]
        for kind in self._random.sample(kinds, k=self._random.randint(1, 3)):
            kind()

    def stop_server(self, server: int) -> None:
        """Stop it; later it goes on, or is killed."""
        self._stop([server], self._random.choice((signal.SIGCONT, signal.SIGKILL)))

    def keep_directory(self, seconds: float) -> None:
        """Let nobody have the directory for some time."""
        self._orphan(self._directory, seconds)

    def do_due(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        due = [deed for moment, deed in self._due if moment <= now]
        self._due = [(moment, deed) for moment, deed in self._due if moment > now]
        for deed in due:
            deed()

    def end(self) -> None:
        """Let all go on, and wait until those have ended that were left alone."""
        self._due.clear()
        self._send(signal.SIGCONT, servers_of(self._directory))
        while self._orphans:
            with os.fdopen(self._orphans.pop(), "rb") as pipe:
                pipe.read()

    def _later(self, deed: Deed) -> None:
        self._due.append((time.monotonic() + self._moment(), deed))

    def _moment(self) -> float:
        return self._random.uniform(0, _LONGEST_MOMENT)

    def _delete_lock(self) -> None:
        for _ in range(self._random.randint(1, 4)):
            self._later(lambda: self._delete(directories.LOCK))

    def _delete(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)
        self.deeds += 1

    def _kill_while_starting(self) -> None:
        for _ in range(self._random.randint(1, 2)):
            self._later(lambda: self._send(signal.SIGKILL, servers_of(self._directory)))

    def _stop_while_starting(self) -> None:
        self._later(lambda: self._stop(servers_of(self._directory), signal.SIGCONT))

    def _stop(self, servers: list[int], then: signal.Signals) -> None:
        self._send(signal.SIGSTOP, servers)
        self._later(lambda: self._send(then, servers))

    def _send(self, number: signal.Signals, servers: list[int]) -> None:
        for server in set(servers) & set(servers_of(self._directory)):  # numbers of processes are used again
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, number)
                self.deeds += 1

    def _orphan_file_lock(self) -> None:
        self._orphan(self._directory / directories.LOCK, self._moment())

    def _orphan_directory_lock(self) -> None:
        self._orphan(self._directory, self._moment())

    def _orphan(self, path: Path, seconds: float) -> None:
        """Lock something, fork, and die: the child lives on with a copy of the lock, for a moment."""
        reading, writing = os.pipe()
        self._orphans.append(reading)
        pid = os.fork()
        if pid == 0:
            _hold_in_child(path, seconds)
        os.close(writing)
        os.waitpid(pid, 0)
        self.deeds += 1

    def _plant_sockets(self) -> None:
        """Leave names of sockets that nobody listens at."""
        for epoch in range(self._epoch - 1, self._epoch + 3):
            path = directories.socket_path(self._directory, epoch)
            path.unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as nobody:
                nobody.bind(str(path))
            self.deeds += 1

    def _fork_racers(self) -> None:
        self.forks_after, self.child_lives = self._moment() + 0.001, self._moment()


def _hold_in_child(path: Path, seconds: float) -> None:
    """The holder dies as soon as it has forked; what it held ends with the copy."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fork() == 0:
            time.sleep(seconds)
    except OSError:  # somebody else has it, or has deleted it
        pass
    finally:
        os._exit(0)
