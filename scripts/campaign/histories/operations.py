"""What clients asked of a store and what it answered, ten numbers for each operation, in columns.

A million operations as objects would be half a gigabyte; as columns they are 80 MB, and are read from a file at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, Self
from zlib import crc32


class Kind(IntEnum):
    """What was asked."""

    COMMIT = 0
    LAST_SEQUENCE = 1
    EVENTS = 2
    SNAPSHOT = 3
    COMMIT_SNAPSHOT = 4


class Outcome(IntEnum):
    """What came of it."""

    DONE = 0
    CONFLICT = 1
    """Also of a snapshot that was not newer than the stored one."""
    REFUSED = 2
    """The store could not be reached; nothing was sent, so nothing may have been stored."""
    OPEN = 3
    """It may be stored at any time from its start on, or never."""
    FAILED = 4
    """An answer or an error that no store may give."""


class Operation(NamedTuple):
    """One call. Times are of `time.monotonic_ns`, which all processes of a machine share; 0 stands for "none"."""

    identity: int
    """Of no other operation; the body of all that it stores."""
    kind: int
    outcome: int
    aggregate: int
    """Of a conflict the one that it was met on."""
    start: int
    end: int
    argument: int
    """The sequence that was to be stored, or the least one that was asked for."""
    version: int
    """The sequence that the answer tells of."""
    position: int
    """Of a commit's first event."""
    digest: int
    """Of all records in the answer, or of an open commit in the request."""


_WIDTH: Final = len(Operation._fields)
_FACTS: Final = Struct("<5q")
FACTS_SIZE: Final = _FACTS.size


class Operations:
    """A column for each fact; row n of all of them is one operation."""

    def __init__(self, columns: Sequence[array[int]]) -> None:
        self._columns = columns
        (
            self.identity,
            self.kind,
            self.outcome,
            self.aggregate,
            self.start,
            self.end,
            self.argument,
            self.version,
            self.position,
            self.digest,
        ) = columns

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Self:
        """What clients have written, each into a file."""
        numbers = array("q")
        for path in paths:
            numbers.frombytes(path.read_bytes())
        return cls([numbers[place::_WIDTH] for place in range(_WIDTH)])

    def rows(self, chosen: Sequence[int]) -> Operations:
        """A copy of some rows."""
        return Operations([array("q", map(column.__getitem__, chosen)) for column in self._columns])

    def append(self, operation: Operation) -> None:
        """Add a row."""
        for column, number in zip(self._columns, operation, strict=True):
            column.append(number)

    def __len__(self) -> int:
        return len(self.identity)

    def __getitem__(self, row: int) -> Operation:
        return Operation(*[column[row] for column in self._columns])

    def __setitem__(self, row: int, operation: Operation) -> None:
        for column, number in zip(self._columns, operation, strict=True):
            column[row] = number


def pack_facts(aggregate: int, sequence: int, position: int, timestamp: int, identity: int) -> bytes:
    """All that a reader learns of a record."""
    return _FACTS.pack(aggregate, sequence, position, timestamp, identity)


def digest(records: bytes | bytearray) -> int:
    """A number that stands for the facts of some records."""
    return crc32(records)
