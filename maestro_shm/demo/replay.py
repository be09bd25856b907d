"""Flying the flights: each is one transaction, of its aircraft and both airports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from maestro_shm import Store, Transaction
from maestro_shm.demo.commands import kind_of, requests
from maestro_shm.demo.data import Flight
from maestro_shm.demo.pool import results

_CHUNK = 50


class Done(NamedTuple):
    """What came of one chunk of flights."""

    flights: int
    events: int
    conflicts: int


class Worker:
    """Flies flights, a chunk at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._attempts = 0

    def __call__(self, flights: list[Flight]) -> Done:
        """All of these flights, one after the other."""
        before = self._attempts
        events = sum(self._store.transact(self._fly, flight) for flight in flights)
        return Done(len(flights), events, self._attempts - before - len(flights))

    def _fly(self, tx: Transaction, flight: Flight) -> int:
        self._attempts += 1
        return sum(
            len(tx.root(kind_of(request.aggregate_id), request.aggregate_id).evaluate(request.command))
            for request in requests(flight)
        )


def replay(store: Store, flights: list[Flight], workers: int) -> Iterator[Done]:
    """Fly the flights in so many processes; yields what is done as soon as it is."""
    chunks = [flights[start : start + _CHUNK] for start in range(0, len(flights), _CHUNK)]
    return results(store, workers, Worker, chunks)
