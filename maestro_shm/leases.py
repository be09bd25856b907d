"""Leases: numbers that one holder at a time may have, and that end with whoever holds them, however that ends."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod

from maestro_shm.errors import StoreUnavailableError


class LeasesLostError(StoreUnavailableError):
    """All leases of a holder are gone, since what it had them by broke, and others were faster; it may begin anew."""


class Leases(ABC):
    """The leases of one holder, among those of one name."""

    @abstractmethod
    def take(self, number: int) -> bool:
        """Whether it is ours now: not if another has it. Like every method it may raise `LeasesLostError`."""

    @abstractmethod
    def give_back(self, number: int) -> None:
        """Let others have it."""

    @abstractmethod
    def taken_by_others(self, start: int, stop: int) -> list[int]:
        """The numbers from `start` to before `stop` that others have, in order."""

    @abstractmethod
    def close(self) -> None:
        """Give back all."""


class ThreadLeases(Leases):
    """Among the threads of one process. Each step is one of the interpreter's, so there is no lock."""

    def __init__(self, holders: dict[int, object]) -> None:
        """`holders` is shared by all of one name."""
        self._holders = holders
        self._me = object()
        self._give_back_all = weakref.finalize(self, _give_back_all, holders, self._me)

    def take(self, number: int) -> bool:
        return self._holders.setdefault(number, self._me) is self._me

    def give_back(self, number: int) -> None:
        if self._holders.get(number) is self._me:
            del self._holders[number]

    def taken_by_others(self, start: int, stop: int) -> list[int]:
        holders = self._holders.copy()
        return sorted(number for number in holders if start <= number < stop and holders[number] is not self._me)

    def close(self) -> None:
        self._give_back_all()


def _give_back_all(holders: dict[int, object], whose: object) -> None:
    for number, holder in holders.copy().items():
        if holder is whose:
            del holders[number]
