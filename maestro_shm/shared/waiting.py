"""Clients that wait until the store has got somewhere: they are answered then, or when their time is over."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Final, NamedTuple

from maestro_shm.shared.peer import Peer

_MOST_STALE: Final = 64


class Wanted(NamedTuple):
    """In place of a reply: it is due when the store has this position or offset, or at a time of `time.monotonic`."""

    among: Waiting
    number: int
    deadline: float


class Waiting:
    """Those who wait, each at most once, since a line has one request at a time."""

    def __init__(self) -> None:
        self.waits: dict[Peer, tuple[int, int]] = {}
        """The place in line of each, and the number of the request."""
        self._by_number: list[tuple[int, int, Peer]] = []
        self._by_deadline: list[tuple[float, int, Peer]] = []
        """Heaps, with the places. Who is not at that place any more has left, or was answered, and is passed over."""
        self._places = itertools.count()

    def add(self, peer: Peer, number: int, wanted: Wanted) -> bool:
        """Whether it could be: not if the client waits already."""
        if peer in self.waits:
            return False
        place = next(self._places)
        self.waits[peer] = place, number
        self._forget_stale()
        heapq.heappush(self._by_number, (wanted.number, place, peer))
        heapq.heappush(self._by_deadline, (wanted.deadline, place, peer))
        return True

    def forget(self, peer: Peer) -> None:
        """It has left."""
        self.waits.pop(peer, None)
        self._forget_stale()

    def due(self, reached: int | None, now: float) -> Iterator[tuple[Peer, int]]:
        """Those whose time has come, with the numbers of their requests; all of them for None."""
        while self._by_number and (reached is None or self._by_number[0][0] <= reached):
            yield from self._answered(*heapq.heappop(self._by_number)[1:])
        while self._by_deadline and self._by_deadline[0][0] <= now:
            yield from self._answered(*heapq.heappop(self._by_deadline)[1:])

    def seconds(self, now: float, most: float) -> float:
        """For how long at most nobody's time is over."""
        return max(0.0, min(most, self._by_deadline[0][0] - now)) if self._by_deadline else most

    def _answered(self, place: int, peer: Peer) -> Iterator[tuple[Peer, int]]:
        if self._is_there(place, peer):
            yield peer, self.waits.pop(peer)[1]

    def _is_there(self, place: int, peer: Peer) -> bool:
        return self.waits.get(peer, (-1, 0))[0] == place

    def _forget_stale(self) -> None:
        most = 2 * len(self.waits) + _MOST_STALE
        if len(self._by_number) > most:
            self._by_number = [wait for wait in self._by_number if self._is_there(*wait[1:])]
            heapq.heapify(self._by_number)
        if len(self._by_deadline) > most:
            self._by_deadline = [wait for wait in self._by_deadline if self._is_there(*wait[1:])]
            heapq.heapify(self._by_deadline)
