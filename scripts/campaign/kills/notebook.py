"""Memory that a process shares with those that it forks: what a child noted stays readable after its death."""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Iterator
from typing import Any, Final, Self

_WORD: Final = 8


class _SharedMemory:
    def __init__(self, size: int) -> None:
        self._data = mmap.mmap(-1, size)
        self._bytes = memoryview(self._data)
        self._words = self._bytes.cast("Q")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._words.release()
        self._bytes.release()
        self._data.close()


class Flag(_SharedMemory):
    """Down until it is raised. For the children it counts as raised when their parent is gone, too."""

    def __init__(self) -> None:
        super().__init__(mmap.PAGESIZE)
        self._owner = os.getpid()

    def raise_it(self) -> None:
        self._words[0] = 1

    def is_raised(self) -> bool:
        return bool(self._words[0]) or self._owner not in (os.getpid(), os.getppid())


class Notebook(_SharedMemory):
    """Notes of one child, each there as a whole or not at all: its end is moved by one store behind the note."""

    def __init__(self, size: int = 1 << 20) -> None:
        super().__init__(size)
        self.clear()

    def clear(self) -> None:
        self._words[0] = _WORD

    def note(self, what: Any) -> None:
        start = self._words[0]
        packed = pickle.dumps(what)
        end = start + _WORD + (len(packed) + _WORD - 1) // _WORD * _WORD
        self._bytes[start + _WORD : start + _WORD + len(packed)] = packed
        self._words[start // _WORD] = len(packed)
        self._words[0] = end

    @property
    def end(self) -> int:
        """Where the next note will be."""
        end: int = self._words[0]
        return end

    def notes(self, start: int = _WORD, end: int | None = None) -> Iterator[Any]:
        """Those of a part, which begins and ends where `end` has been."""
        end = self.end if end is None else end
        while start < end:
            length = self._words[start // _WORD]
            yield pickle.loads(self._bytes[start + _WORD : start + _WORD + length])
            start += _WORD + (length + _WORD - 1) // _WORD * _WORD
