"""What a flight asks of which aggregates.

Rules kept here: each command makes exactly one event. A flight that departed is a command to its aircraft and to both
airports; a cancelled one is a command to its origin alone and, if known, to its aircraft.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from maestro_shm import Aggregate, Command
from maestro_shm.demo.aggregates import Aircraft, Airport
from maestro_shm.demo.data import Flight


class Request(NamedTuple):
    """A command and whom it is for."""

    aggregate_id: str
    command: Command


def requests(flight: Flight) -> Iterator[Request]:
    """The commands of one flight."""
    return _flown(flight) if flight.departed else _cancelled(flight)


def kind_of(aggregate_id: str) -> type[Aggregate]:
    """The class that the id tells."""
    return Airport if aggregate_id.startswith("airport/") else Aircraft


def _flown(flight: Flight) -> Iterator[Request]:
    yield _at(flight.origin, "depart", flight, flight.departure_delay)
    if flight.tail_number is not None:
        yield Request(f"aircraft/{flight.tail_number}", Command("fly", _facts(flight)))
    yield _at(flight.destination, "arrive" if flight.arrived else "divert", flight, flight.arrival_delay)


def _cancelled(flight: Flight) -> Iterator[Request]:
    yield _at(flight.origin, "cancel", flight)
    if flight.tail_number is not None:
        yield Request(f"aircraft/{flight.tail_number}", Command("cancel", {"flight": flight.name}))


def _at(airport: str, kind: str, flight: Flight, delay: int | None = None) -> Request:
    return Request(f"airport/{airport}", Command(kind, {"flight": flight.name, "delay": delay}))


def _facts(flight: Flight) -> dict[str, object]:
    left_out = {"name", "tail_number", "departed"}
    facts = {name: value for name, value in flight._asdict().items() if name not in left_out}
    return {"flight": flight.name, **facts}
