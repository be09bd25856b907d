"""Finding the one server of a store, or electing and starting it; and ending a store.

Whoever finds no server takes the file lock, looks again, and starts one. The others wait for the lock, and look from
time to time: by the lock alone a crowd would find the server one after the other.
The server itself takes the lock on the directory before it touches anything, so that even a deleted lock file gives
only one; and each server's epoch is checked at every commit. Deadlines are of `time.monotonic`.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import filelock

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.shared import creator as creators
from maestro_shm.shared import directory as directories
from maestro_shm.shared import header as head
from maestro_shm.shared import launch as launches
from maestro_shm.shared import wire
from maestro_shm.shared.directory import Settings, VanishedError
from maestro_shm.shared.transport import DeadlineError, Line

_POLL: Final = 0.005
_LOOK: Final = 0.02
"""Seconds to wait for the file lock until the next look whether there is a server."""

_MOST_SILENT: Final = 3
"""Servers that may be killed while they start before that is an error."""


class _LockedError(StoreUnavailableError):
    """The file lock could not be had in time."""


def open_or_create(path: Path, settings: Settings, deadline: float) -> Line:
    """A line to the store's server; the store is made and the server started if need be.

    Raises `StoreUnavailableError` when that fails or is not done by the deadline.
    """
    while True:
        try:
            directories.make(path, settings)
            return attach(path, deadline)
        except VanishedError:  # somebody destroyed it meanwhile
            if time.monotonic() >= deadline:
                raise


def attach(path: Path, deadline: float) -> Line:
    """A line to the server of a store that exists; the server is started if need be. Raises as `open_or_create`."""
    silent = 0
    while True:
        directories.check(path)
        if line := find(path, deadline):
            return line
        try:
            with _election(path, min(deadline, time.monotonic() + _LOOK)):
                if line := _find_or_start(path, deadline):
                    return line
        except _LockedError:
            if time.monotonic() >= deadline:
                raise
        except launches.SilentError:
            silent += 1
            if silent > _MOST_SILENT:
                raise


def _find_or_start(path: Path, deadline: float) -> Line | None:
    """A line to the server, or None: it was started, or is about to begin or to end. For who holds the file lock."""
    if line := find(path, deadline):
        return line
    if not directories.is_served(path):
        _check_creator(path)
        _launch(path, deadline)
    elif time.monotonic() < deadline:
        time.sleep(_POLL)  # or it cannot let more clients in at the moment
    else:
        raise StoreUnavailableError(str(path), f"{holder(path)} runs, but could not be reached in time")
    return None


def find(path: Path, deadline: float) -> Line | None:
    """A line to the server that the header tells of, or None if it is not there.

    Raises `StoreUnavailableError` if there is one that does not answer, or does not speak our protocol.
    """
    try:
        header = head.open_header(path)
        epoch = header.words[head.EPOCH]
        header.close()
        return Line(str(directories.socket_path(path, epoch)), directories.read_key(path), deadline)
    except (FileNotFoundError, ConnectionError, EOFError):
        return None
    except DeadlineError:
        raise StoreUnavailableError(str(path), "its server does not answer in time") from None
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise  # a signal's handler may raise it
        raise StoreUnavailableError(str(path), f"cannot connect to its server: {error.strerror}") from None
    except wire.ProtocolError as error:
        raise StoreUnavailableError(str(path), str(error)) from None


def end(path: Path, method: str, deadline: float) -> None:
    """Have the server end its store by this method, "destroy" or "stop"; do it here if there is no server.

    Raises `VanishedError` where there is no such store, what the server answers, and `StoreUnavailableError`. (A server
    that is killed between its answer and the removal leaves a store that is marked as ended, and empty.)
    """
    directories.check(path)
    with _election(path, deadline):
        while not _end_unserved(path):
            line = find(path, deadline)
            if line and _ask_to_end(path, line, method, deadline):
                return
            if time.monotonic() >= deadline:
                raise StoreUnavailableError(str(path), f"{holder(path)} cannot be reached")
            time.sleep(_POLL)


def holder(path: Path) -> str:
    """Who holds the store's directory, for a message."""
    pid = server_pid(path)
    return "another process (a repair, or a server of elsewhere)" if pid is None else f"its server (process {pid})"


def server_pid(path: Path) -> int | None:
    """The number of the process that serves the store; None if the one that its header tells of is no server."""
    words = head.read(path / head.NAME)
    if words is None:
        return None
    try:
        command = Path(f"/proc/{words[head.SERVER_PID]}/cmdline").read_bytes()
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else words[head.SERVER_PID]
    return words[head.SERVER_PID] if launches.is_server(command) else None


def _election(path: Path, deadline: float) -> AbstractContextManager[Any]:
    directories.check_lock(path)
    lock = filelock.FileLock(path / directories.LOCK, mode=0o600)
    try:
        return lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=_POLL)
    except filelock.Timeout:
        raise _LockedError(str(path), "another process holds its file 'lock' and starts no server") from None
    except (FileNotFoundError, FileExistsError):
        # filelock makes the directory of its file anew, and stumbles if that goes away at the same moment.
        raise VanishedError(str(path)) from None
    except OSError as error:
        raise StoreUnavailableError(str(path), f"cannot take its file 'lock': {error.strerror}") from None


def _launch(path: Path, deadline: float) -> None:
    """Start a server, unless another comes first: one that was starting already, and whose starter was killed."""
    try:
        launches.launch(path, deadline)
    except StoreUnavailableError as error:
        directories.check(path)  # was it destroyed meanwhile?
        if error.reason != directories.HELD:
            raise


def _check_creator(path: Path) -> None:
    creator = directories.read_settings(path).creator
    if creator is not None and not creators.is_alive(creator):
        raise StoreUnavailableError(str(path), f"it was private to process {creators.pid_of(creator)}, which has ended")


def _end_unserved(path: Path) -> bool:
    """Remove the store if nobody serves it; whatever its files are like, so that a damaged one can be removed."""
    with directories.holding(path) as free:
        if free:
            head.retire_at(path / head.NAME)  # for those who still read
            directories.remove(path)
        return free


def _ask_to_end(path: Path, line: Line, method: str, deadline: float) -> bool:
    """Whether the server has done it; it may end by itself before it hears us."""
    try:
        line.ask(None, method, deadline)
        line.wait_for_end(deadline)
    except (ConnectionError, EOFError):
        return False
    except DeadlineError:
        raise StoreUnavailableError(str(path), "its server does not answer in time") from None
    except wire.ProtocolError as error:
        raise StoreUnavailableError(str(path), str(error)) from None
    finally:
        line.close()
    return True
