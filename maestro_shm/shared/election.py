"""Finding the one server of a store, or electing and starting it.

Whoever finds no server takes the file lock, looks again, and starts one; the others wait for the lock and then find it.
The server itself takes the lock on the directory before it touches anything, so that even a deleted lock file gives
only one; and each server's epoch is checked at every commit.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import filelock

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.shared import creator as creators
from maestro_shm.shared import directory as directories
from maestro_shm.shared import header as head
from maestro_shm.shared import wire
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.launch import launch
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.transport import Line

_LOCK_POLL: Final = 0.005


def open_or_create(path: Path, settings: Settings, timeout: float) -> Line:
    """A line to the store's server; the store is made and the server started if need be.

    Raises `StoreUnavailableError` when that fails or takes longer than `timeout` seconds.
    """
    directories.make(path)
    if not directories.is_made(path):
        with _election(path, time.monotonic() + timeout):
            if not directories.is_made(path):
                directories.found(path, settings)
    return attach(path, timeout, time.monotonic() + timeout)


def attach(path: Path, timeout: float, deadline: float) -> Line:
    """A line to the server of a store that exists; the server is started if need be.

    Each call on the line is bounded by `timeout`, the search by the deadline. Raises as `open_or_create`.
    """
    directories.check(path)
    line = find(path, timeout)
    while line is None:
        with _election(path, deadline):
            line = find(path, timeout)
            if line is None:
                _check_creator(path)
                launch(path, deadline)
        line = line or find(path, timeout)
        if line is None and time.monotonic() >= deadline:
            raise StoreUnavailableError(str(path), "no server could be reached in time")
    return line


def find(path: Path, timeout: float) -> Line | None:
    """A line to the server that the header tells of, or None if it is not there.

    Raises `StoreUnavailableError` if there is one that does not answer, or does not speak our protocol.
    """
    try:
        header = head.open_header(path)
        epoch = header.words[head.EPOCH]
        header.close()
        return Line(str(directories.socket_path(path, epoch)), directories.read_key(path), timeout)
    except (FileNotFoundError, ConnectionError, EOFError):
        return None
    except BlockingIOError:
        raise StoreUnavailableError(str(path), f"its server does not answer within {timeout:g} s") from None
    except wire.ProtocolError as error:
        raise StoreUnavailableError(str(path), str(error)) from None


def destroy(path: Path, timeout: float) -> None:
    """Remove a store that nobody uses. Raises `StoreUnavailableError` if somebody does."""
    directories.check(path)
    with _election(path, time.monotonic() + timeout):
        line = find(path, timeout)
        if line is None:
            _remove_unserved(path)
            return
        try:
            line.ask(None, "destroy")
            line.wait_for_end()
        finally:
            line.close()


def _election(path: Path, deadline: float) -> filelock.BaseFileLock:
    lock = filelock.FileLock(path / directories.LOCK, mode=0o600)
    try:
        lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=_LOCK_POLL)
    except filelock.Timeout:
        raise StoreUnavailableError(str(path), "another process holds its file 'lock' and starts no server") from None
    except FileNotFoundError:
        raise StoreUnavailableError(str(path), "it was removed meanwhile") from None
    return lock


def _check_creator(path: Path) -> None:
    creator = directories.read_settings(path).creator
    if creator is not None and not creators.is_alive(creator):
        raise StoreUnavailableError(
            str(path), f"it was private to process {creator.partition(':')[0]}, which has ended"
        )


def _remove_unserved(path: Path) -> None:
    held = directories.hold(path)
    if held is None:
        raise StoreUnavailableError(str(path), "a server holds it, but cannot be reached")
    try:
        header = MappedFile.open(path / head.NAME, writable=True)
        header.words[head.GENERATION] = head.RETIRED
        header.close()
    except FileNotFoundError:
        pass  # it never had a server
    finally:
        directories.remove(path)
        os.close(held)
