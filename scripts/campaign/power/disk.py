"""What happened to the files of one directory, in the order of time: all that a disk could be told to keep.

Time counts changes. A file is an inode with the versions of its size and of each of its sectors; a directory is a list
of changes of its names. A flush fixes what it covers as it was at that time.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

SECTOR: Final = 512
ZEROS: Final = bytes(SECTOR)

_Value = TypeVar("_Value")


class Versions(Generic[_Value]):
    """The values that one thing had, and since when."""

    __slots__ = ("times", "values")

    def __init__(self, first: _Value) -> None:
        self.times = [0]
        self.values = [first]

    def add(self, time: int, value: _Value) -> None:
        self.times.append(time)
        self.values.append(value)

    def between(self, flushed: int, now: int) -> list[_Value]:
        """The value that was flushed, and the later ones up to now."""
        return self.values[bisect_right(self.times, flushed) - 1 : bisect_right(self.times, now)]

    @property
    def last(self) -> _Value:
        return self.values[-1]


class Flush(NamedTuple):
    """From the first of these sectors up to the last but one the disk has what was written until this time."""

    time: int
    first: int
    end: int


@dataclass
class Inode:
    """A file, whatever its names are."""

    number: int
    size: Versions[int] = field(default_factory=lambda: Versions(0))
    sectors: dict[int, Versions[bytes]] = field(default_factory=dict)
    flushes: list[Flush] = field(default_factory=list)

    def put(self, time: int, sector: int, content: bytes) -> None:
        if sector not in self.sectors:
            self.sectors[sector] = Versions(ZEROS)
        self.sectors[sector].add(time, content)

    def flushed(self, sector: int, now: int) -> int:
        """When this sector was last flushed before now; 0 for never."""
        return next(
            (flush.time for flush in reversed(self.flushes) if flush.time <= now and flush.first <= sector < flush.end),
            0,
        )

    def size_flushed(self, now: int) -> int:
        """When any part was: the size goes with each, since the data cannot be found without it."""
        return next((flush.time for flush in reversed(self.flushes) if flush.time <= now), 0)


class Change(NamedTuple):
    """Of the names in a directory, all at once: some go, some lead to an inode."""

    time: int
    gone: tuple[str, ...]
    led: tuple[tuple[str, int], ...]

    def apply(self, names: dict[str, int]) -> None:
        for name in self.gone:
            names.pop(name, None)
        names.update(self.led)


@dataclass
class Names:
    """A directory."""

    before: dict[str, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    flushes: list[int] = field(default_factory=lambda: [0])

    def split(self, now: int) -> tuple[dict[str, int], list[Change]]:
        """The names that the disk has for sure, and the changes that it may have as well."""
        flushed = self.flushes[bisect_right(self.flushes, now) - 1]
        names, pending = dict(self.before), []
        for change in self.changes:
            if change.time <= flushed:
                change.apply(names)
            elif change.time <= now:
                pending.append(change)
        return names, pending


@dataclass
class History:
    """The files of a store's directory, and its own name in the directory above."""

    inodes: dict[int, Inode] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    above: Names = field(default_factory=Names)
    now: int = 0
