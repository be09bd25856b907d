"""A journal on a small file system that is full again and again: rounds of filling it up and of giving room back."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any, Final

from books import Books, pretend_reboot

from campaign.files.damage_recovery import require
from campaign.files.small_disk import SIZE, Filler
from campaign.files.tally import Tally
from maestro_shm.errors import StoreFullError
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.reader import Reader

COMMITS, REFUSED, ROUNDS = "commits", "refused for want of room", "rounds"
_CAP: Final = 1 << 20
_MOST_TRIES: Final = 60
_REFUSALS: Final = 5
"""In a round: where there is no room for one commit there may be some for a smaller one."""
_ROOM_FOR_MORE: Final = SIZE // 2
"""A store that has taken more than this is reset, so that there is something to fill up."""


class FullJournal:
    """A store on a small file system, without its processes."""

    def __init__(self, mounted: Path, choices: random.Random, tally: Tally) -> None:
        self._filler = Filler(mounted)
        self._choices = choices
        self._tally = tally
        self._new_keys = 0
        self._directory = mounted / "store"
        self._begin()

    def close(self) -> None:
        self._books.close()

    def round(self) -> None:
        """Fill it up, read, let servers die meanwhile, give room, and go on."""
        self._filler.leave(self._choices.choice((0, 0, 1, 2, 5, 20, 80, 300)))
        self._commit_until_full()
        self._books.check()
        self._choices.choice((self._stay, self._stay, self._restart, self._reboot))()
        self._books.check()
        self._filler.leave_all()
        if self._filler.room() < _ROOM_FOR_MORE:
            self._make_room()
        require(self._try(self._commit_small), "there is room, and a commit was refused")
        self._books.check()
        self._tally.note(ROUNDS)

    def _begin(self) -> None:
        self._directory.mkdir(mode=0o700)
        self._books = Books(self._directory, cap=_CAP)

    def _make_room(self) -> None:
        """Empty the store; where there is no room for an empty one beside it, remove it and begin another."""
        try:
            self._reset()
        except StoreFullError:
            self._tally.note("resets refused")
            self._books.check()
            self._books.close()
            shutil.rmtree(self._directory)
            self._begin()

    def _commit_until_full(self) -> None:
        ways = (self._commit_small, self._commit_large, self._commit_many, self._commit_snapshot, self._reset)
        refusals = 0
        for _ in range(_MOST_TRIES):
            way = self._choices.choices(ways, (10, 6, 4, 4, 0.3))[0]
            refusals += not self._try(way)
            if refusals == _REFUSALS:
                break
            if self._choices.random() < 0.05:
                self._filler.leave(self._choices.randrange(20))
        else:
            self._filler.leave(0)
            require(any(not self._try(self._commit_large) for _ in range(_MOST_TRIES)), "there is no end of the room")

    def _try(self, way: Any) -> bool:
        try:
            way()
        except StoreFullError:
            self._tally.note(REFUSED)
            return False
        self._tally.note(COMMITS)
        return True

    def _commit_small(self) -> None:
        keys = self._choices.sample(self._known_keys(), 2) if len(self._books.streams) > 2 else [self._new_key()]
        self._books.commit(*(self._next(key, self._choices.randrange(200)) for key in keys))

    def _commit_large(self) -> None:
        self._books.commit(self._next(self._new_key(), 0), self._next("large", self._choices.randrange(200_000)))

    def _commit_many(self) -> None:
        self._books.commit(*(self._next(self._new_key(), 8) for _ in range(self._choices.randrange(1, 300))))

    def _commit_snapshot(self) -> None:
        key = self._choices.choice(self._known_keys() or ["snapshot"])
        sequence = self._books.snapshots.get(key, (0, None))[0] + 1
        self._books.snapshot(key, sequence, self._choices.randbytes(self._choices.randrange(20_000)))

    def _reset(self) -> None:
        self._books.check()  # what is wrong by now is seen by nobody afterwards
        self._books.reset()
        self._books.streams, self._books.snapshots = {}, {}

    def _stay(self) -> None:
        """The server goes on."""

    def _restart(self) -> None:
        """The server is killed, and another one begins, which needs no room."""
        self._books.reopen()

    def _reboot(self) -> None:
        """The machine is started anew: index and positions are built again, when there is room for them."""
        self._books.journal.close()
        self._books.reader.close()
        pretend_reboot(self._books.directory)
        try:
            journal = Journal.open(self._books.directory, max_commit_bytes=_CAP)
        except StoreFullError:
            self._tally.note("rebuilds put off")
            self._filler.leave_all()
            journal = Journal.open(self._books.directory, max_commit_bytes=_CAP)
        self._books.journal = journal
        self._books.reader = Reader(self._books.directory)

    def _known_keys(self) -> list[str]:
        return list(self._books.streams)

    def _new_key(self) -> str:
        self._new_keys += 1
        return f"key-{self._new_keys}"

    def _next(self, key: str, size: int) -> tuple[str, int, bytes]:
        stream = self._books.streams.get(key)
        return key, stream[-1][0] + 1 if stream else 1, self._choices.randbytes(size)
