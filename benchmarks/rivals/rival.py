"""What everyone who takes part can do, and nothing of how.

Rules: events are named by their numbers, `workload.body` has the rest, and packing it is part of the work. `last` is
the number of the newest event, as a caller knows it who has caught up before. What a rival hands out is decoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self


class Contender(ABC):
    """Takes commits. `directory` is empty, in memory where the machine has such a place, and goes away afterwards."""

    name: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def commit(self, aggregate_id: str, first: int, count: int) -> None:
        """Store `count` events numbered from `first` on, all or none."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Rival(Contender):
    """A contender that keeps what it takes, and refuses a commit whose first number is taken by raising `stale`."""

    stale: ClassVar[type[Exception]]

    @abstractmethod
    def last_sequence(self, aggregate_id: str) -> int | None:
        """The freshness check."""

    @abstractmethod
    def catch_up(self, aggregate_id: str, last: int) -> Sequence[object]:
        """The events after `last`; in these benchmarks there are none."""

    @abstractmethod
    def read_last(self, aggregate_id: str, last: int) -> Sequence[object]:
        """The `workload.READ` newest events."""


class StaleError(Exception):
    """What a rival raises that has no error of its own for a number that is taken."""
