"""Mailboxes: requests and replies in a mapped file, so that two processes that are awake need no system call.

    pages   word 0: whether the server sleeps | from word 64 on, for each mailbox: the number of its newest request
    mailbox number of the newest reply | whether its client sleeps |
            from byte 64 on size of the request and the request, from byte 8128 on size of the reply and the reply

Numbers are native words, one aligned store each, and the last thing that is written: whoever sees a number sees what it
is of. (Stores become visible in order on x86. Elsewhere nothing in Python promises it, and a request could be read too
early: most likely it is no message then, and its line breaks.) A mailbox belongs to one connection and has one request
at a time.

Who is going to sleep says so first, then looks once more; who writes looks afterwards whether the other sleeps, and
rings then. Between the store and the look each side has a full barrier, so of two that do this at the same moment at
least one sees the other (Dekker's idea, and that of the need-wakeup flag in io_uring's SQPOLL). Where to take a lock is
no full barrier a ring may be missed, and the sleep ends after `LONGEST_SLEEP`.
"""

from __future__ import annotations

import heapq
import os
import threading
import weakref
from pathlib import Path
from typing import Any, Final

from maestro_shm.errors import StoreFullError
from maestro_shm.shared.mapped import PAGE, MappedFile

LONGEST_SLEEP: Final = 1.0 if os.uname().machine in ("x86_64", "i686", "i386") else 0.25
"""Seconds. So often an idle server with clients looks. At 0.25 that took 0.02 to 0.14 % of a processor, by what else
the machine does: 300 µs each time on one whose processors have slept meanwhile."""
MOST: Final = 1024 - 64
_PAGES: Final = 2 * PAGE
_SIZE: Final = 16384
_FILE_SIZE: Final = _PAGES + MOST * _SIZE
_WORD: Final = 8
_REQUEST_SIZE: Final = 8
_REPLY_SIZE: Final = 1016
"""Words. Each size lies before what it is of, with whose first bytes it is brought to the other processor."""
_REQUEST_AT: Final = (_REQUEST_SIZE + 1) * _WORD
_REPLY_AT: Final = (_REPLY_SIZE + 1) * _WORD
LARGEST_MESSAGE: Final = _REPLY_SIZE * _WORD - _REQUEST_AT
"""Bytes; what is larger goes by the socket."""
_SIZE_MASK: Final = 8191
"""Whatever the other side wrote there, no size that is read is larger: a message ends within its mailbox."""
BY_SOCKET: Final = b"\xc0"
"""In place of a reply that is too large: it comes by the socket. (As a message it would be none: `None`.)"""

_SERVER_SLEEPS: Final = 0
_NEWEST_REQUESTS: Final = 64
_NEWEST_REPLY, _CLIENT_SLEEPS = range(2)
_PREFIX: Final = "mail-"
_new_lock: Final = threading.Lock
_MOST_LOOKS: Final = 8
"""Who goes on posting for ever is not waited for."""

Address = tuple[int, int, int]
"""The server's epoch, the number of the mailbox, and the file's own: its name may be that of another by now."""


def file_name(epoch: int) -> str:
    """Of a server's mailboxes."""
    return f"{_PREFIX}{epoch}"


def sweep(directory: Path) -> None:
    """Remove what former servers left."""
    for stale in directory.glob(f"{_PREFIX}*"):
        stale.unlink()


def _put_up_barrier() -> None:
    """Let nothing that follows be read before what was stored is visible: to take a lock is an atomic exchange.

    It is a new one, so that nobody else has it, not even at a fork. Who sends or answers does it without this call.
    """
    _new_lock().acquire()


class Mailboxes:
    """The server's side: all of them. Their file is made when the first is given."""

    def __init__(self, directory: Path, epoch: int) -> None:
        self._path: Final = directory / file_name(epoch)
        self._epoch = epoch
        self._file: MappedFile | None = None
        self._data: Any = b""
        self._words = _words_of_nobody()
        self._free = list(range(MOST))
        self._seen: list[int] = []
        """The numbers of the requests that were seen, up to the last mailbox that is given."""

    def give(self) -> int | None:
        """One that is free, or None where there is none, or no room for it, or somebody has removed the file."""
        if not self._free:
            return None
        number = self._free[0]
        try:
            self._opened().allocate(_start(number), _start(number) + _SIZE)
        except (StoreFullError, OSError):  # the socket must do
            return None
        heapq.heappop(self._free)
        for word in (_NEWEST_REPLY, _CLIENT_SLEEPS):
            self._words[_start(number) // _WORD + word] = 0
        self._words[_NEWEST_REQUESTS + number] = 0
        self._seen += [0] * (number + 1 - len(self._seen))
        self._seen[number] = 0
        return number

    def address(self, number: int) -> Address:
        """What a client finds a mailbox by that was given."""
        return self._epoch, number, self._opened().inode

    def take_back(self, number: int) -> None:
        """Let others have it: the lowest that is free is given first, so that there are few to be looked at."""
        heapq.heappush(self._free, number)

    def have_arrived(self) -> bool:
        """Whether there are requests that were not seen yet."""
        return self._newest() != self._seen

    def arrived(self) -> list[int]:
        """The mailboxes that have such requests; they count as seen then."""
        seen = self._seen
        newest: list[int] = self._words[_NEWEST_REQUESTS : _NEWEST_REQUESTS + len(seen)].tolist()
        if newest == seen:
            return []
        if len(newest) == 1:
            self._seen = newest
            return [0]
        self._seen = newest = self._with_all_before(newest)
        return [number for number, one in enumerate(newest) if one != seen[number]]

    def request(self, number: int) -> bytes:
        """The newest request of a mailbox."""
        start = _PAGES + number * _SIZE
        size = self._words[start // _WORD + _REQUEST_SIZE] & _SIZE_MASK
        message: bytes = self._data[start + _REQUEST_AT : start + _REQUEST_AT + size]
        return message

    def reply(self, number: int, message: bytes) -> bool:
        """Answer the newest request that was seen of a mailbox, and say whether its client has to be woken."""
        start, size = _PAGES + number * _SIZE, len(message)
        words, word = self._words, start // _WORD
        words[word + _REPLY_SIZE] = size
        self._data[start + _REPLY_AT : start + _REPLY_AT + size] = message
        words[word + _NEWEST_REPLY] = self._seen[number]
        _new_lock().acquire()  # a barrier
        return bool(words[word + _CLIENT_SLEEPS])

    def fall_asleep(self) -> None:
        """From now on whoever writes rings; look once more before you sleep."""
        self._words[_SERVER_SLEEPS] = 1
        _put_up_barrier()

    def wake_up(self) -> None:
        """Nobody need ring any more."""
        self._words[_SERVER_SLEEPS] = 0

    def close(self) -> None:
        """Remove the file, for whoever holds the directory: else it may be another server's that has this name."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)

    def _opened(self) -> MappedFile:
        if self._file is None:
            self._file = MappedFile.create(self._path, _FILE_SIZE, _PAGES)
            self._data, self._words = self._file.data, self._file.words
        return self._file

    def _with_all_before(self, newest: list[int]) -> list[int]:
        """The numbers, with those of all requests that were posted before any of these.

        While the words are read one by one, a client may post by one line, be interrupted, and make the same call by
        another. The second is not to be answered, and followed upon, before the first was read.
        """
        for _ in range(_MOST_LOOKS):
            before, newest = newest, self._newest()
            if newest == before:
                break
        return newest

    def _newest(self) -> list[int]:
        newest: list[int] = self._words[_NEWEST_REQUESTS : _NEWEST_REQUESTS + len(self._seen)].tolist()
        return newest


class Mailbox:
    """A client's side: one of them."""

    def __init__(self, directory: Path, address: Address) -> None:
        """Map it. Raises `OSError` where it is not, and `ValueError` for what is no address."""
        epoch, number, inode = address
        if any(type(part) is not int for part in address) or not 0 <= number < MOST:
            raise ValueError(f"no mailbox: {address}")
        file = _mapped(directory / file_name(epoch))
        if file.inode != inode or file.size != _FILE_SIZE:
            raise FileNotFoundError("the mailboxes there are another server's: the store was made anew")
        self._file: MappedFile | None = file
        self._words = file.words
        self._data: Any = file.data
        self._start = _start(number)
        self._word = self._start // _WORD
        self._number_word = _NEWEST_REQUESTS + number
        self._request = 0

    def post(self, message: bytes) -> bool:
        """Send a request, and say whether the server has to be woken."""
        size = len(message)
        start = self._start + _REQUEST_AT
        self._data[start : start + size] = message
        self._words[self._word + _REQUEST_SIZE] = size
        self._request += 1
        self._words[self._number_word] = self._request
        _new_lock().acquire()  # a barrier
        return bool(self._words[_SERVER_SLEEPS])

    def reply(self) -> bytes | None:
        """The reply to the request, if it is there."""
        if self._words[self._word + _NEWEST_REPLY] != self._request:
            return None
        start = self._start + _REPLY_AT
        message: bytes = self._data[start : start + (self._words[self._word + _REPLY_SIZE] & _SIZE_MASK)]
        return message

    def fall_asleep(self) -> None:
        """From now on the server rings; look once more before you sleep."""
        self._words[self._word + _CLIENT_SLEEPS] = 1
        _put_up_barrier()

    def wake_up(self) -> None:
        """The server need not ring any more."""
        self._words[self._word + _CLIENT_SLEEPS] = 0

    def close(self) -> None:
        """Let go of it: from now on nothing is written there, and no reply ever comes.

        A process that was forked in the midst of a call goes on in it, and would write into its parent's mailbox. (No
        method calls anything between taking the map and writing there: no signal's handler that forks comes between.)
        """
        self._data = bytearray()
        self._words = _words_of_nobody()
        self._word, self._number_word = 0, _NEWEST_REQUESTS
        self._file = None


_mapped_files: Final[weakref.WeakValueDictionary[tuple[int, int], MappedFile]] = weakref.WeakValueDictionary()


def _mapped(path: Path) -> MappedFile:
    """Once for all lines of a process: while it is mapped no other file has its number."""
    status = path.stat()
    if (file := _mapped_files.get((status.st_dev, status.st_ino))) is not None:
        return file
    file = MappedFile.open(path, writable=True)
    return _mapped_files.setdefault((file.device, file.inode), file)


def _words_of_nobody() -> memoryview:
    return memoryview(bytearray(PAGE)).cast("Q")


def _start(number: int) -> int:
    return _PAGES + number * _SIZE
