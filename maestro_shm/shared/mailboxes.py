"""Mailboxes: requests and replies in a mapped file, so that two processes that are awake need no system call.

    pages   word 0: whether the server sleeps | from word 64 on, for each mailbox: the number of its newest request
    mailbox number of the newest reply | whether its client sleeps | size of the request | size of the reply |
            from byte 64 on the request, from byte 8192 on the reply

Numbers are native words, one aligned store each, and the last thing that is written: whoever sees a number sees what it
is of. (Stores become visible in order on x86; elsewhere a request that is read too early is no message, or one whose
rows a CRC or a type refuses, and its line breaks.) A mailbox belongs to one connection and has one request at a time.

Who is going to sleep says so first, then looks once more; who writes looks afterwards whether the other sleeps, and
rings then. Between the store and the look each side has a full barrier, so of two that do this at the same moment at
least one sees the other (Dekker's idea, and that of the need-wakeup flag in io_uring's SQPOLL). Where to take a lock is
no full barrier a ring may be missed, and the sleep ends after `LONGEST_SLEEP`.
"""

from __future__ import annotations

import heapq
import threading
import weakref
from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreFullError
from maestro_shm.shared.mapped import PAGE, MappedFile

LONGEST_SLEEP: Final = 0.25
"""Seconds. So often an idle server with clients looks."""
MOST: Final = 1024 - 64
_PAGES: Final = 2 * PAGE
_SIZE: Final = 16384
_REQUEST_AT: Final = 64
_REPLY_AT: Final = 8192
LARGEST_MESSAGE: Final = _REPLY_AT - _REQUEST_AT
"""Bytes; what is larger goes by the socket."""
BY_SOCKET: Final = b"\xc0"
"""In place of a reply that is too large: it comes by the socket. (As a message it would be none: `None`.)"""

_SERVER_SLEEPS: Final = 0
_NEWEST_REQUESTS: Final = 64
_NEWEST_REPLY, _CLIENT_SLEEPS, _REQUEST_SIZE, _REPLY_SIZE = range(4)
_PREFIX: Final = "mail-"


def file_name(epoch: int) -> str:
    """Of a server's mailboxes."""
    return f"{_PREFIX}{epoch}"


def sweep(directory: Path) -> None:
    """Remove what former servers left."""
    for stale in directory.glob(f"{_PREFIX}*"):
        stale.unlink()


def _put_up_barrier() -> None:
    """Let nothing that follows be read before what was stored is visible: to take a lock is an atomic exchange.

    It is a new one, so that nobody else has it, not even at a fork.
    """
    threading.Lock().acquire()


class Mailboxes:
    """The server's side: all of them."""

    def __init__(self, path: Path) -> None:
        """Make the file. Raises `StoreFullError`."""
        self.name: Final = path.name
        self._file = MappedFile.create(path, _PAGES + MOST * _SIZE, _PAGES)
        self._words = self._file.words
        self._free = list(range(MOST))
        self._seen: list[int] = []
        """The numbers of the requests that were seen, up to the last mailbox that is given."""

    def give(self) -> int | None:
        """One that is free, or None where there is none, or no room for it, or somebody has removed the file."""
        if not self._free:
            return None
        number = self._free[0]
        try:
            self._file.allocate(_start(number), _start(number) + _SIZE)
        except (StoreFullError, FileNotFoundError):
            return None
        heapq.heappop(self._free)
        for word in (_NEWEST_REPLY, _CLIENT_SLEEPS):
            self._words[_start(number) // 8 + word] = 0
        self._words[_NEWEST_REQUESTS + number] = 0
        self._seen += [0] * (number + 1 - len(self._seen))
        self._seen[number] = 0
        return number

    def take_back(self, number: int) -> None:
        """Let others have it: the lowest that is free is given first, so that there are few to be looked at."""
        heapq.heappush(self._free, number)

    def have_arrived(self) -> bool:
        """Whether there are requests that were not seen yet."""
        return self._newest() != self._seen

    def arrived(self) -> list[int]:
        """The mailboxes that have such requests; they count as seen then."""
        seen = self._seen
        newest = self._newest()
        if newest == seen:
            return []
        self._seen = newest
        return [number for number, one in enumerate(newest) if one != seen[number]]

    def request(self, number: int) -> bytes:
        """The newest request of a mailbox."""
        start = _start(number)
        size = min(self._words[start // 8 + _REQUEST_SIZE], LARGEST_MESSAGE)
        return self._file.data[start + _REQUEST_AT : start + _REQUEST_AT + size]

    def reply(self, number: int, message: bytes) -> bool:
        """Answer the newest request that was seen of a mailbox, and say whether its client has to be woken."""
        start = _start(number)
        word = start // 8
        self._file.data[start + _REPLY_AT : start + _REPLY_AT + len(message)] = message
        self._words[word + _REPLY_SIZE] = len(message)
        self._words[word + _NEWEST_REPLY] = self._seen[number]
        _put_up_barrier()
        return bool(self._words[word + _CLIENT_SLEEPS])

    def fall_asleep(self) -> None:
        """From now on whoever writes rings; look once more before you sleep."""
        self._words[_SERVER_SLEEPS] = 1
        _put_up_barrier()

    def wake_up(self) -> None:
        """Nobody need ring any more."""
        self._words[_SERVER_SLEEPS] = 0

    def close(self) -> None:
        """Remove the file."""
        self._file.path.unlink(missing_ok=True)

    def _newest(self) -> list[int]:
        newest: list[int] = self._words[_NEWEST_REQUESTS : _NEWEST_REQUESTS + len(self._seen)].tolist()
        return newest


class Mailbox:
    """A client's side: one of them."""

    def __init__(self, path: Path, number: int) -> None:
        """Map it. Raises `FileNotFoundError` if its server is gone."""
        self._file = _mapped(path)
        self._words = self._file.words
        self._data = self._file.data
        self._start = _start(number)
        self._word = self._start // 8
        self._number_word = _NEWEST_REQUESTS + number
        self._request = 0

    def post(self, message: bytes) -> bool:
        """Send a request, and say whether the server has to be woken."""
        start = self._start + _REQUEST_AT
        self._data[start : start + len(message)] = message
        self._words[self._word + _REQUEST_SIZE] = len(message)
        self._request += 1
        self._words[self._number_word] = self._request
        _put_up_barrier()
        return bool(self._words[_SERVER_SLEEPS])

    def reply(self) -> bytes | None:
        """The reply to the request, if it is there."""
        if self._words[self._word + _NEWEST_REPLY] != self._request:
            return None
        start = self._start + _REPLY_AT
        return self._data[start : start + min(self._words[self._word + _REPLY_SIZE], LARGEST_MESSAGE)]

    def fall_asleep(self) -> None:
        """From now on the server rings; look once more before you sleep."""
        self._words[self._word + _CLIENT_SLEEPS] = 1
        _put_up_barrier()

    def wake_up(self) -> None:
        """The server need not ring any more."""
        self._words[self._word + _CLIENT_SLEEPS] = 0


_mapped_files: Final[weakref.WeakValueDictionary[tuple[int, int, int], MappedFile]] = weakref.WeakValueDictionary()


def _mapped(path: Path) -> MappedFile:
    """Once for all lines of a process. The path alone does not tell: a store may have been made anew there."""
    status = path.stat()
    identity = status.st_dev, status.st_ino, status.st_ctime_ns
    return _mapped_files.get(identity) or _mapped_files.setdefault(identity, MappedFile.open(path, writable=True))


def _start(number: int) -> int:
    return _PAGES + number * _SIZE
