"""A real store on a small file system: clients in processes of their own fill it up, give room, and kill its server.

Each client has streams of its own and keeps books of them. The servers are adopted by the process that runs this, so
that it learns how each of them ended.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from processes import cleaned_up, servers_of, wait_until

import maestro_shm as ms
from campaign.files.children import in_children
from campaign.files.damage_recovery import require
from campaign.files.full_journal import COMMITS, REFUSED, ROUNDS
from campaign.files.small_disk import SIZE, Filler
from campaign.files.tally import DIED, Tally
from maestro_shm.errors import StoreFullError, StoreUnavailableError

_CLIENTS: Final = 3
_MOVES: Final = 60
_SECONDS: Final = 300.0
_OPTIONS: Final[dict[str, Any]] = {"timeout": 120.0, "allow_reset": True, "idle_timeout": 60.0}

_Books = tuple[dict[str, list[ms.Event]], dict[str, ms.Snapshot]]
_Move = Callable[[], None]


class _Client:
    """One of the processes that share the store."""

    def __init__(self, number: int, directory: Path, choices: random.Random) -> None:
        self._number = number
        self._choices = choices
        self._filler = Filler(directory.parent)
        self._store = ms.connect(directory, **_OPTIONS)
        self._streams: dict[str, list[ms.Event]] = {}
        self._snapshots: dict[str, ms.Snapshot] = {}
        self.counts: Counter[str] = Counter()

    def live(self) -> tuple[_Books, Counter[str]]:
        """Make some moves, and give the books that were kept."""
        moves = (self._commit, self._snapshot, self._read, self._fill, self._give_room, self._kill_server)
        with self._store:
            for _ in range(_MOVES):
                self._choices.choices(moves, (24, 4, 6, 5, 2, 0.7))[0]()
            return (self._streams, self._snapshots), self.counts

    def _commit(self) -> None:
        events = self._next_events()
        try:
            stored = self._store.commit_events(events)
        except StoreFullError:
            self.counts[REFUSED] += 1
            self._read()
        except StoreUnavailableError:
            self.counts["open outcomes"] += 1
            self._settle(events)
        else:
            self.counts[COMMITS] += 1
            self._note(stored)

    def _settle(self, events: list[ms.Event]) -> None:
        """Find out whether a commit was stored; if so, then all of it."""
        found = [self._store.get_events(event.aggregate_id, event.sequence) for event in events]
        stored = [stream[0] for stream in found if stream]
        require(len(stored) in (0, len(events)), "half of a commit is there")
        self._note(stored)

    def _note(self, stored: list[ms.Event]) -> None:
        for event in stored:
            self._streams.setdefault(event.aggregate_id, []).append(event)

    def _next_events(self) -> list[ms.Event]:
        size = self._choices.choice((10, 10, 300, 5_000, 100_000))
        known = self._choices.sample(list(self._streams), min(2, len(self._streams)))
        news = [f"{self._number}-{len(self._streams)}-{n}" for n in range(self._choices.choice((0, 1, 1, 120)))]
        return [self._next_event(key, size) for key in [*known, *news] or [f"{self._number}"]]

    def _next_event(self, key: str, size: int) -> ms.Event:
        stream = self._streams.get(key)
        body = self._choices.randbytes(self._choices.randrange(size) if stream else 5)
        return ms.Event(key, stream[-1].sequence + 1 if stream else 1, "made", body)

    def _snapshot(self) -> None:
        key = self._choices.choice([*self._streams, "snapshot"])
        key = key if key in self._streams else f"{self._number}-snapshot"
        former = self._snapshots.get(key)
        body = self._choices.randbytes(self._choices.randrange(20_000))
        snapshot = ms.Snapshot(key, former.sequence + 1 if former else 1, body)
        try:
            require(self._store.commit_snapshot(snapshot), "a newer snapshot was not stored")
        except StoreFullError:
            self.counts[REFUSED] += 1
            return
        except StoreUnavailableError:
            self.counts["open outcomes"] += 1
            if self._store.get_snapshot(key) != snapshot:
                return
        else:
            self.counts[COMMITS] += 1
        self._snapshots[key] = snapshot

    def _read(self) -> None:
        for key in self._choices.sample(list(self._streams), min(5, len(self._streams))):
            require(self._store.get_events(key) == self._streams[key], f"stream {key} is another one")
        for key, snapshot in list(self._snapshots.items())[-2:]:
            require(self._store.get_snapshot(key) == snapshot, f"the snapshot of {key} is another one")

    def _fill(self) -> None:
        self._filler.leave(self._choices.choice((0, 0, 1, 3, 10, 50)))

    def _give_room(self) -> None:
        self._filler.leave_all()

    def _kill_server(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._store.stats()["server_pid"], signal.SIGKILL)


class FullServer:
    """The store, its clients, and what is to be true after each round of theirs."""

    def __init__(self, mounted: Path, choices: random.Random, tally: Tally) -> None:
        self.directory = mounted / "store"
        self._filler = Filler(mounted)
        self._choices = choices
        self._tally = tally

    def rounds(self, count: int) -> None:
        """Some rounds; in the end the store is destroyed, and every server has ended."""
        try:
            with cleaned_up(self.directory):
                for _ in range(count):
                    self.round()
                    self._reap()
                ms.destroy(self.directory)
                wait_until(lambda: not servers_of(self.directory), "the last server has ended")
        finally:
            self._reap()

    def round(self) -> None:
        """Let clients do what they like at once, then compare everything with their books."""
        works = [self._client(number, self._choices.randrange(2**32)) for number in range(_CLIENTS)]
        books = []
        for ending in in_children(works, seconds=_SECONDS):
            if ending.signal:
                self._tally.note_wrong(DIED, signal.Signals(ending.signal).name, "a client")
                continue
            found, counts = ending.result()
            books.append(found)
            self._tally.verdicts += counts
        self._filler.leave_all()
        with ms.connect(self.directory, **_OPTIONS) as store:
            if len(books) == _CLIENTS:
                _compare(store, books)
            if self._filler.room() >= SIZE // 8:
                _commit_one(store)
            is_empty = self._reset(store)
        if not is_empty:
            ms.destroy(self.directory)  # the way out that needs no room
        with ms.connect(self.directory, **_OPTIONS) as store:
            _commit_one(store)
            store.reset()
        self._tally.note(ROUNDS)

    def _reset(self, store: ms.Store) -> bool:
        """Whether it could be: the new store is made beside the old one, for which there may be no room."""
        before = _figures(store)
        try:
            store.reset()
        except StoreFullError:
            self._tally.note("resets refused")
            require(_figures(store) == before, "a reset that was refused has changed the store")
            return False
        return True

    def _client(self, number: int, seed: int) -> Callable[[], tuple[_Books, Counter[str]]]:
        return lambda: _Client(number, self.directory, random.Random(seed)).live()

    def _reap(self) -> None:
        """Servers end by themselves or are killed by clients; a server that failed to start has said so to one."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(ended[1])
                if code == -signal.SIGKILL:
                    self._tally.note("servers killed")
                elif code == 1:
                    self._tally.note("servers that could not start")
                elif code:
                    self._tally.note_wrong(DIED, f"exit code {code}", "a server")


def _commit_one(store: ms.Store) -> None:
    store.commit_events([ms.Event(ms.new_id(), 1, "after", None)])


def _figures(store: ms.Store) -> list[int]:
    return [store.stats()[name] for name in ("events", "aggregates", "last_position")]


def _compare(store: ms.Store, books: list[_Books]) -> None:
    streams = {key: stream for found, _ in books for key, stream in found.items()}
    for key, stream in streams.items():
        require(store.get_events(key) == stream, f"stream {key} is another one in the end")
    for _, snapshots in books:
        for key, snapshot in snapshots.items():
            require(store.get_snapshot(key) == snapshot, f"the snapshot of {key} is another one in the end")
    positions = sorted(event.position or 0 for stream in streams.values() for event in stream)
    require(positions == list(range(1, len(positions) + 1)), "positions have gaps")
    stats = store.stats()
    require((stats["events"], stats["aggregates"]) == (len(positions), len(streams)), f"figures {stats}")
