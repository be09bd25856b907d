"""The handle of a shared store: commits by proxy, reads by log and index.

A handle pickles as its target and connects once per process: whoever unpickles it there again gets the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from maestro_shm import options, validation
from maestro_shm.backend import Backend
from maestro_shm.cut import Cut
from maestro_shm.errors import StoreClosedError, StoreError, StoreUnavailableError
from maestro_shm.leases import Leases
from maestro_shm.proposal import Proposal, as_stored, placed, unplaced
from maestro_shm.records import MAX_SEQUENCE, Event, Snapshot, in_range
from maestro_shm.shared import creator as creators
from maestro_shm.shared import directory as directories
from maestro_shm.shared import election, launch, places
from maestro_shm.shared.directory import Settings, VanishedError
from maestro_shm.shared.file_leases import FileLeases
from maestro_shm.shared.proxy import StoreProxy
from maestro_shm.shared.reader import Reader
from maestro_shm.shared.rows import rows_of
from maestro_shm.shared.transport import Line
from maestro_shm.shared.turn_attempts import TurnAttempts
from maestro_shm.submissions import Outcome
from maestro_shm.transaction import all_running, refuse_within
from maestro_shm.validation import PackedEvent
from maestro_shm.vigil import Vigil

_ABANDON_SECONDS: Final = 2.0
"""How long to wait for the server of a private store that could not be opened. It ends by itself with this process."""


class SharedStore(Backend):
    """`connect()`, `connect("shm:NAME")`, `connect(PATH)`: see `Store`. Processes, threads and forks may share it."""

    _proxy: StoreProxy
    _reader: Reader
    _max_commit_bytes: int

    def __init__(self, target: str, directory: Path, *, timeout: float, allow_reset: bool) -> None:
        """A handle that connects when it is first used."""
        self.target = target
        self.directory: Final = directory
        self._timeout = timeout
        self._allow_reset = allow_reset
        self._closed = False
        self._end_private: weakref.finalize[Any, Any] | None = None

    @classmethod
    def private(
        cls,
        *,
        timeout: float = options.DEFAULT_TIMEOUT,
        max_commit_bytes: int = options.DEFAULT_COMMIT_BYTES,
    ) -> Self:
        """A new store of this process and those that it starts; it ends when the handle closes or the process dies."""
        creator = creators.identity(os.getpid())
        settings = Settings(options.commit_bytes(max_commit_bytes), options.DEFAULT_IDLE_TIMEOUT, creator)
        deadline = time.monotonic() + options.timeout(timeout)
        places.warn_if_small()
        places.sweep_private()
        directory = places.new_private_path(creator)
        store = cls(str(directory), directory, timeout=timeout, allow_reset=True)
        # Before anything is made, so that whatever happens from here on leaves nothing behind.
        store._end_private = weakref.finalize(store, _end_private, directory, timeout, os.getpid())
        with store._opening():
            store._use(election.open_or_create(directory, settings, deadline))
        return store

    @classmethod
    def shared(
        cls,
        target: str,
        *,
        timeout: float = options.DEFAULT_TIMEOUT,
        allow_reset: bool = False,
        max_commit_bytes: int | None = None,
        idle_timeout: float | None = None,
        durability: str | None = None,
    ) -> Self:
        """The store of a `shm:` target or a path; it is made if there is none, and outlives its users."""
        settings = Settings(
            options.commit_bytes(options.DEFAULT_COMMIT_BYTES if max_commit_bytes is None else max_commit_bytes),
            options.idle_timeout(options.DEFAULT_IDLE_TIMEOUT if idle_timeout is None else idle_timeout),
            durability=options.durability(options.PROCESS if durability is None else durability),
        )
        if target.startswith(places.SHM_SCHEME):
            if settings.durability == options.POWER:
                raise ValueError(f"durability='power' needs a path on a disk; {target!r} ends with the power")
            places.warn_if_small()
        deadline = time.monotonic() + options.timeout(timeout)
        store = cls(target, path_of(target), timeout=timeout, allow_reset=allow_reset)
        with store._opening():
            store._use(election.open_or_create(store.directory, settings, deadline))
            wanted = {"max_commit_bytes": max_commit_bytes, "idle_timeout": idle_timeout, "durability": durability}
            _check_settings(target, store.directory, wanted)
        return store

    def get_events(
        self, aggregate_id: str, min_sequence: int = 0, *, max_sequence: int = MAX_SEQUENCE, complete: bool = False
    ) -> list[Event]:
        self._check_open()
        validation.check_aggregate_id(aggregate_id)
        validation.check_bounds(min_sequence, max_sequence)
        return self._reader.events(aggregate_id, min_sequence, max_sequence, complete=complete)

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

    def payload(self, table: str, key: str) -> bytes | None:
        self._check_open()
        return self._reader.payload(table, key)

    def stats(self) -> dict[str, Any]:
        self._check_open()
        return self._reader.stats()

    def commit_events(self, events: Iterable[Event]) -> list[Event]:
        if self._closed or type(events) is not list or len(events) != 1:
            return super().commit_events(events)
        if (event := validation.pack_plain(events[0], self._max_commit_bytes)) is None:
            return super().commit_events(events)
        if id(self) in all_running():
            refuse_within(self, "a commit")
        try:
            # At once: its outcome is not open any more when it has come from the proxy.
            return self._proxy.commit_event(event, self._reader.view.note) or self._commit_events([event])
        except StoreUnavailableError:
            self._check_is_there()
            raise

    def reset(self) -> None:
        self._check_open()
        refuse_within(self, "a reset")
        if not self._allow_reset:
            raise StoreUnavailableError(self.target, "reset() forgets everything; connect with allow_reset=True for it")
        try:
            self._proxy.reset()
        except StoreUnavailableError:
            self._check_is_there()
            raise

    def close(self) -> None:
        if self._closed:
            return
        self._finish_submissions()
        self._closed = True
        try:
            if self._end_private is not None:
                self._end_private()
        finally:
            if self._is_connected:
                self._let_go()

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_open()
        return _handle, self._key

    def __getattr__(self, name: str) -> Any:
        """Connect when one of the three that need it is first asked for."""
        if name not in ("_proxy", "_reader", "_max_commit_bytes"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        self._check_open()
        self._use(election.attach(self.directory, time.monotonic() + self._timeout))
        return getattr(self, name)

    def _check_is_there(self) -> None:
        """Raise `StoreClosedError` where a call has failed since the store is no more: it would fail again."""
        self._check_open()  # another thread may have closed it meanwhile
        try:
            self.directory.stat()
        except FileNotFoundError:
            raise StoreClosedError(self.target) from None
        except OSError:  # it tells nothing of the store
            pass

    def _cut(self) -> Cut:
        self._check_open()
        return self._reader.cut()

    def _commit(self, proposal: Proposal) -> Callable[[], list[Event]]:
        self._check_open()
        proposal.check_size(self._max_commit_bytes)
        rows, changes, reads = rows_of(proposal)
        try:
            return self._proxy.commit(rows, changes, reads, lambda sent, reply: partial(_as_stored, sent[0], reply))
        except StoreUnavailableError:
            self._check_is_there()
            raise

    def _commit_events(self, events: list[PackedEvent]) -> list[Event]:
        stored: list[Event] = []

        def unpack() -> None:
            stored[:] = unplaced(events)

        try:
            return self._proxy.commit_events(events, lambda _, reply: placed(stored, *reply), unpack)
        except StoreUnavailableError:
            self._check_is_there()
            raise

    def _commit_each(self, commits: Sequence[list[PackedEvent]]) -> Sequence[Outcome]:
        if len(commits) == 1:
            return super()._commit_each(commits)  # by which a commit's outcome is told at once
        stored: list[list[Event]] = []

        def unpack() -> None:
            stored[:] = [unplaced(events) for events in commits]

        answers = self._proxy.commit_each(commits, unpack)
        return [
            answer if isinstance(answer, StoreError) else placed(events, *answer)
            for events, answer in zip(stored, answers, strict=True)
        ]

    def _commit_snapshot(self, aggregate_id: str, sequence: int, payload: bytes) -> bool:
        try:
            return self._proxy.commit_snapshot(aggregate_id, sequence, payload)
        except StoreUnavailableError:
            self._check_is_there()
            raise

    def _truncate(self, aggregate_id: str, before: int) -> None:
        # What goes is counted here, since a long stream would keep the server from its commits.
        while (found := self._reader.truncation(aggregate_id, before)) is not None:
            try:
                if self._proxy.truncate(aggregate_id, *found):
                    return
            except StoreUnavailableError:
                self._check_is_there()
                raise

    def _compact(self) -> None:
        try:
            launch.compact(self.directory)
        except StoreUnavailableError:
            self._check_is_there()
            raise

    def _attempts(self, timeout: float, stream: str | None = None) -> TurnAttempts:
        return TurnAttempts(timeout, self._proxy, stream)

    def _wait(self, incarnation: int, position: int, deadline: float, vigil: Vigil) -> None:
        self._wait_by("wait", incarnation, position, deadline, vigil)

    def _wait_for_commit(self, incarnation: int, mark: int, deadline: float, vigil: Vigil) -> None:
        self._wait_by("wait_for_commit", incarnation, mark, deadline, vigil)

    def _wait_by(self, method: str, incarnation: int, number: int, deadline: float, vigil: Vigil) -> None:
        self._check_open()
        try:
            self._proxy.wait(method, incarnation, number, deadline, vigil)
        except StoreUnavailableError:
            self._check_is_there()
            raise
        self._check_open()

    def _leases(self, name: str) -> Leases:
        self._check_open()
        return FileLeases(self.directory / f"leases-{hashlib.sha256(name.encode()).hexdigest()[:32]}")

    def _use(self, line: Line) -> None:
        proxy = StoreProxy(self.directory, self._timeout, line)
        try:
            self._reader = Reader(self.directory)
        except BaseException:
            proxy.close()
            raise
        self._max_commit_bytes = self._reader.max_commit_bytes()
        self._proxy = proxy
        if self._closed:  # by another thread, which could not close this
            self._let_go()
            self._check_open()

    def _let_go(self) -> None:
        self._proxy.close()
        self._reader.close()

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        """A handle that opens is the one of its process; one that does not is closed."""
        try:
            yield
        except BaseException:
            self._abandon()
            raise
        _handles[self._key] = self

    def _abandon(self) -> None:
        """Close what could not be opened, without a further error and without waiting long."""
        if self._end_private is not None and self._end_private.detach() is not None:
            with contextlib.suppress(StoreError):
                _end_private(self.directory, _ABANDON_SECONDS, os.getpid())
        self.close()

    @property
    def _is_connected(self) -> bool:
        return "_proxy" in self.__dict__

    @property
    def _key(self) -> tuple[str, str, float, bool]:
        return self.target, str(self.directory), self._timeout, self._allow_reset

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(self.target)


_handles: weakref.WeakValueDictionary[tuple[str, str, float, bool], SharedStore] = weakref.WeakValueDictionary()
_unpickled: dict[tuple[str, str, float, bool], SharedStore] = {}
"""Handles that came by pickle; kept, so that the tasks of a pool's worker connect once and not each."""


def path_of(target: str) -> Path:
    """The directory of a `shm:` target or a path."""
    return places.named_path(target) if target.startswith(places.SHM_SCHEME) else Path(target).absolute()


def _handle(target: str, directory: str, timeout: float, allow_reset: bool) -> SharedStore:  # noqa: FBT001 (of pickle)
    """The handle of these facts in this process. It connects when it is used: an error there is the user's to handle.

    (One that is raised while a pool's worker unpickles a task ends the worker, and the pool waits for ever.)
    """
    key = (target, directory, timeout, allow_reset)
    known = _handles.get(key)
    if known is not None and not known._closed:
        return known
    _close_ended()
    fresh = SharedStore(target, Path(directory), timeout=timeout, allow_reset=allow_reset)
    return _unpickled.setdefault(key, fresh)


def _close_ended() -> None:
    """Let go of stores that are gone: a worker may live longer than many of them."""
    for key, store in list(_unpickled.items()):
        if store._closed or (store._reader.is_over() if store._is_connected else not store.directory.exists()):
            store.close()
            _unpickled.pop(key, None)


def _end_private(directory: Path, timeout: float, creator: int) -> None:
    if os.getpid() != creator:
        return  # a fork of the creator: the store goes on
    with contextlib.suppress(VanishedError):
        election.end(directory, "stop", time.monotonic() + timeout)


def _as_stored(packed: Sequence[PackedEvent], reply: tuple[int, tuple[int, ...]]) -> list[Event]:
    return as_stored(packed, *reply)


def _check_settings(target: str, directory: Path, wanted: Mapping[str, object]) -> None:
    settings = directories.read_settings(directory)
    for name, value in wanted.items():
        fixed = getattr(settings, name)
        if value is not None and value != fixed:
            raise StoreUnavailableError(target, f"it was created with {name}={fixed!r}, not {value!r}")
