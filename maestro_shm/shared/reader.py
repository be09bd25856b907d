"""The reading side of a store's files: no server, no lock, no round trip.

A read takes the published offset first and steps back over anything newer, so that what it sees is one consistent cut,
across aggregates too. Then it looks whether the index is still the one that it knows: the writer publishes a new
generation before it stops to write the old one, so a table that is current now holds all that was published before.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from maestro_shm.errors import CorruptLogError, StoreClosedError, StoreUnavailableError
from maestro_shm.records import Event, Snapshot
from maestro_shm.shared import header as head
from maestro_shm.shared.header import GENERATION, PUBLISHED
from maestro_shm.shared.log import Log
from maestro_shm.shared.log_cut import LogCut
from maestro_shm.shared.truncation import Truncation
from maestro_shm.shared.view import ClosedView, View, open_view

_RESET_PATIENCE: Final = 2.0
"""Seconds to wait for the next incarnation where one has ended: a reset takes a millisecond."""


class Reader:
    """Reads of one store in one process. Threads may share it, and it goes on working after a fork.

    A segment is mapped when it is first read, and a reset may have removed it by then: the read begins again on the new
    files. (Written out four times, since a call in between would cost a freshness check a third of its time.)
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._closed: ClosedView | None = None
        self.view: View = self._open()
        """The newest that is known."""

    def last_sequence(self, aggregate_id: str) -> int | None:
        """The sequence number of the newest event, or None."""
        while True:
            view, published = self._cut()
            try:
                return view.last_sequence(published, aggregate_id)
            except CorruptLogError:
                if not view.is_retired:
                    raise

    def events(self, aggregate_id: str, min_sequence: int, max_sequence: int, *, complete: bool = False) -> list[Event]:
        """The events between the bounds, both included, in sequence order. Raises `TruncatedError` if it is to."""
        while True:
            view, published = self._cut()
            try:
                return view.events(published, aggregate_id, min_sequence, max_sequence, complete=complete)
            except CorruptLogError:
                if not view.is_retired:
                    raise

    def snapshot(self, aggregate_id: str) -> Snapshot | None:
        """The stored snapshot, or None."""
        while True:
            view, published = self._cut()
            try:
                return view.snapshot(published, aggregate_id)
            except CorruptLogError:
                if not view.is_retired:
                    raise

    def payload(self, table: str, key: str) -> bytes | None:
        """The packed value of a table's entry, or None."""
        while True:
            view, published = self._cut()
            try:
                return view.entry(published, table, key).payload
            except CorruptLogError:
                if not view.is_retired:
                    raise

    def cut(self) -> LogCut:
        """The newest state, to be read from for as long as it takes."""
        return LogCut(*self._cut(), self._directory, self._cut)

    def truncation(self, aggregate_id: str, before: int) -> Truncation | None:
        """What of the stream would go if what is below a sequence number did; None for nothing."""
        while True:
            view, published = self._cut()
            try:
                return view.truncation(published, aggregate_id, before)
            except CorruptLogError:
                if not view.is_retired:
                    raise

    def stats(self) -> dict[str, Any]:
        """The figures of the store."""
        words = self._current_view().words
        return {
            "events": words[head.LAST_POSITION] - words[head.TRUNCATED],
            "aggregates": words[head.AGGREGATES],
            "last_position": words[head.LAST_POSITION],
            "bytes": sum(map(_allocated_bytes, self._directory.iterdir())),
            "server_pid": words[head.SERVER_PID],
            "epoch": words[head.EPOCH],
            "clients": words[head.CLIENTS],
            "directory": str(self._directory),
        }

    def max_commit_bytes(self) -> int:
        """The size cap of a commit."""
        return self._current_view().words[head.MAX_COMMIT_BYTES]

    def is_over(self) -> bool:
        """Whether the store is gone."""
        return self.view.is_retired and not (self._directory / head.NAME).exists()

    def close(self) -> None:
        """Let go of the files, which end with the last read that is under way; later ones raise `StoreClosedError`."""
        self._closed = self.view = ClosedView(self._directory)

    def _cut(self) -> tuple[View, int]:
        view = self.view
        published = view.words[PUBLISHED]
        while view.words[GENERATION] != view.generation:
            view = self._current_view()
            published = view.words[PUBLISHED]
        return view, published

    def _current_view(self) -> View:
        view = self.view
        if view.words[GENERATION] == view.generation:
            return view
        try:
            self.view = open_view(self._directory, view.header, view.log)
        except FileNotFoundError:
            self.view = self._open()
        # The former view is not unmapped here: another thread may be reading in it. It goes with its last reference.
        if self._closed is not None:  # by another thread, just before a view was put in its place
            self.view = self._closed
        return self.view

    def _open(self) -> View:
        """The view of the newest incarnation. There is none for the moment that a reset takes."""
        deadline = time.monotonic() + _RESET_PATIENCE
        while True:
            try:
                header = head.open_header(self._directory)
            except FileNotFoundError:
                raise StoreClosedError(str(self._directory)) from None
            try:
                log = Log(self._directory, header.words[head.INCARNATION], writable=False)
                return open_view(self._directory, header, log)
            except FileNotFoundError:
                pass
            if time.monotonic() > deadline:
                raise StoreUnavailableError(str(self._directory), "its server died while it reset or destroyed it")
            time.sleep(0.001)


def _allocated_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:  # a generation of the index that was replaced this moment, a socket
        return 0
