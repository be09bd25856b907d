"""The handle of a shared store: commits by proxy, reads by log and index.

A handle pickles as its target and connects once per process: whoever unpickles it there again gets the same one.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Self

from maestro_shm import codec, validation
from maestro_shm.errors import StoreClosedError, StoreUnavailableError
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot, in_range
from maestro_shm.shared import creator as creators
from maestro_shm.shared import directory as directories
from maestro_shm.shared import election
from maestro_shm.shared.directory import SHM_SCHEME, Settings
from maestro_shm.shared.proxy import StoreProxy
from maestro_shm.shared.reader import Reader
from maestro_shm.shared.transport import Line
from maestro_shm.store import Store

DEFAULT_TIMEOUT: Final = 30.0
DEFAULT_IDLE_TIMEOUT: Final = 30.0
LARGEST_COMMIT_BYTES: Final = 32 << 20
"""A commit lies in one segment of the log, which has 64 MiB."""


class SharedStore(Store):
    """`connect()`, `connect("shm:NAME")`, `connect(PATH)`: see `Store`. Processes, threads and forks may share it."""

    def __init__(self, target: str, directory: Path, line: Line, *, timeout: float, allow_reset: bool) -> None:
        self.target = target
        self.directory: Final = directory
        self._timeout = timeout
        self._allow_reset = allow_reset
        self._is_private = directories.read_settings(directory).creator is not None
        self._proxy = StoreProxy(directory, timeout, line)
        self._reader = Reader(directory)
        self._max_commit_bytes = self._reader.max_commit_bytes()
        self._closed = False
        self._end_private: weakref.finalize[Any, Any] | None = None
        _handles[self._key] = self

    @classmethod
    def private(
        cls,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_commit_bytes: int = validation.DEFAULT_COMMIT_BYTES,
    ) -> Self:
        """A new store of this process and those that it starts; it ends when the handle closes or the process dies."""
        settings = Settings(_checked_cap(max_commit_bytes), DEFAULT_IDLE_TIMEOUT, creators.identity(os.getpid()))
        directories.sweep_private()
        directory = directories.new_private_path()
        try:
            line = election.open_or_create(directory, settings, timeout)
            store = cls(str(directory), directory, line, timeout=timeout, allow_reset=True)
        except BaseException:
            directories.remove(directory)
            raise
        store._end_private = weakref.finalize(store, _end_private, store._proxy, directory, os.getpid())
        return store

    @classmethod
    def shared(
        cls,
        target: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        allow_reset: bool = False,
        max_commit_bytes: int | None = None,
        idle_timeout: float | None = None,
    ) -> Self:
        """The store of a `shm:` target or a path; it is made if there is none, and outlives its users."""
        directory = path_of(target)
        settings = Settings(
            _checked_cap(validation.DEFAULT_COMMIT_BYTES if max_commit_bytes is None else max_commit_bytes),
            DEFAULT_IDLE_TIMEOUT if idle_timeout is None else idle_timeout,
        )
        line = election.open_or_create(directory, settings, timeout)
        try:
            _check_settings(target, directory, max_commit_bytes=max_commit_bytes, idle_timeout=idle_timeout)
            return cls(target, directory, line, timeout=timeout, allow_reset=allow_reset)
        except BaseException:
            line.close()
            raise

    def commit_events(self, events: Iterable[Event]) -> list[Event]:
        self._check_open()
        packed = validation.pack_events(events, self._max_commit_bytes)
        if not packed:
            return []
        first_position, timestamps = self._proxy.commit_events(packed)
        return [
            codec.unpack_event(aggregate_id, sequence, timestamp, position, payload)
            for position, ((aggregate_id, sequence, _, payload), timestamp) in enumerate(
                zip(packed, timestamps, strict=True), first_position
            )
        ]

    def commit_snapshot(self, snapshot: Snapshot) -> bool:
        self._check_open()
        payload = validation.pack_snapshot(snapshot, self._max_commit_bytes)
        return self._proxy.commit_snapshot(snapshot.aggregate_id, snapshot.sequence, payload)

    def get_events(self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE) -> list[Event]:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        validation.check_bounds(min_sequence, max_sequence)
        return self._reader.events(aggregate_id, min_sequence, max_sequence)

    def get_snapshot(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE
    ) -> Snapshot | None:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        validation.check_bounds(min_sequence, max_sequence)
        snapshot = self._reader.snapshot(aggregate_id)
        return snapshot if snapshot and in_range(snapshot, min_sequence, max_sequence) else None

    def last_sequence(self, aggregate_id: str) -> int | None:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        return self._reader.last_sequence(aggregate_id)

    def stats(self) -> dict[str, Any]:
        self._check_open()
        return self._reader.stats()

    def reset(self) -> None:
        self._check_open()
        if not (self._is_private or self._allow_reset):
            raise StoreUnavailableError(self.target, "reset() forgets everything; connect with allow_reset=True for it")
        self._proxy.reset()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._end_private is not None:
            self._end_private()
        self._proxy.close()
        self._reader.close()

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return _reconnect, self._key

    @property
    def _key(self) -> tuple[str, str, float, bool]:
        return self.target, str(self.directory), self._timeout, self._allow_reset

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self.target)


_handles: weakref.WeakValueDictionary[tuple[str, str, float, bool], SharedStore] = weakref.WeakValueDictionary()
_reconnected: dict[tuple[str, str, float, bool], SharedStore] = {}
"""Handles that came by pickle; kept, so that the tasks of a pool's worker connect once and not each."""
_reconnect_lock = threading.Lock()


def path_of(target: str) -> Path:
    """The directory of a `shm:` target or a path."""
    return directories.named_path(target) if target.startswith(SHM_SCHEME) else Path(target).absolute()


def _reconnect(target: str, directory: str, timeout: float, allow_reset: bool) -> SharedStore:  # noqa: FBT001 (of pickle)
    with _reconnect_lock:
        key = (target, directory, timeout, allow_reset)
        known = _handles.get(key)
        if known is not None and not known._closed:
            return known
        _close_ended()
        line = election.attach(Path(directory), timeout, time.monotonic() + timeout)
        _reconnected[key] = SharedStore(target, Path(directory), line, timeout=timeout, allow_reset=allow_reset)
        return _reconnected[key]


def _close_ended() -> None:
    """Let go of stores that are gone: a worker may live longer than many of them."""
    for key, store in list(_reconnected.items()):
        if store._closed or store._reader.is_over():
            store.close()
            del _reconnected[key]


def _end_private(proxy: StoreProxy, directory: Path, creator: int) -> None:
    if os.getpid() != creator:
        return  # a fork of the creator: the store goes on
    proxy.stop()
    proxy.close()
    directories.remove(directory)


def _checked_cap(max_commit_bytes: int) -> int:
    if type(max_commit_bytes) is not int or not 1024 <= max_commit_bytes <= LARGEST_COMMIT_BYTES:
        raise ValueError(f"max_commit_bytes must be from 1024 to {LARGEST_COMMIT_BYTES}, not {max_commit_bytes!r}")
    return max_commit_bytes


def _check_settings(target: str, directory: Path, **wanted: float | None) -> None:
    settings = directories.read_settings(directory)
    for name, value in wanted.items():
        fixed = getattr(settings, name)
        if value is not None and value != fixed:
            raise StoreUnavailableError(target, f"it was created with {name}={fixed!r}, not {value!r}")
