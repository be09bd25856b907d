"""The same totals once more, straight from the file, to check the store by.

Rules kept here: this shares no code with what it checks. No aggregates, no events, no `Flight`: rows of text, and
counters by the id that an aggregate has in the store.
"""

from __future__ import annotations

import csv
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path


@dataclass
class Recount:
    """What the store must hold in the end."""

    events: int = 0
    totals: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    places: dict[str, str] = field(default_factory=dict)

    def add(self, aggregate_id: str, **amounts: str | int) -> None:
        """One event and what it adds; an unknown amount (NA) adds nothing."""
        self.events += 1
        for name, amount in amounts.items():
            self.totals[aggregate_id][name] += 0 if amount in ("", "NA") else int(amount)

    def expected(self, aggregate_id: str) -> dict[str, int | str]:
        """The totals of one aggregate; what is not in it is zero or unknown."""
        place = self.places.get(aggregate_id)
        return {**self.totals[aggregate_id], **({} if place is None else {"last_airport": place})}


def recount(path: Path, days: int) -> Recount:
    """Count the flights of the first so many days of 2013."""
    last = date(2013, 1, 1) + timedelta(days=days - 1)
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("flights.csv").decode().splitlines()
    rows = [row for row in csv.DictReader(lines) if (int(row["month"]), int(row["day"])) <= (last.month, last.day)]
    rows.sort(key=lambda row: (int(row["month"]), int(row["day"]), int(row["sched_dep_time"])))
    result = Recount()
    for number, row in enumerate(rows, 1):
        _count(result, row, number)
    return result


def _count(result: Recount, row: dict[str, str], number: int) -> None:
    if row["dep_time"] in {"", "NA"}:
        _count_cancelled(result, row)
        return
    landed = row["arr_time"] not in {"", "NA"}
    result.add(f"airport/{row['origin']}", departures=1, departure_delay=row["dep_delay"])
    if landed:
        result.add(f"airport/{row['dest']}", arrivals=1, arrival_delay=row["arr_delay"])
    else:
        result.add(f"airport/{row['dest']}", diversions=1)
    if row["tailnum"] not in {"", "NA"}:
        _count_aircraft(result, f"aircraft/{row['tailnum']}", row, number, landed=landed)


def _count_cancelled(result: Recount, row: dict[str, str]) -> None:
    result.add(f"airport/{row['origin']}", cancellations=1)
    if row["tailnum"] not in {"", "NA"}:
        result.add(f"aircraft/{row['tailnum']}", cancellations=1)


def _count_aircraft(result: Recount, aircraft: str, row: dict[str, str], number: int, *, landed: bool) -> None:
    arrived: dict[str, str | int] = {"diversions": 1}
    if landed:
        arrived = dict(arrivals=1, arrival_delay=row["arr_delay"], miles=row["distance"], minutes=row["air_time"])
    result.add(aircraft, departures=1, departure_delay=row["dep_delay"], **arrived)
    result.totals[aircraft]["last_flight"] = number
    result.places[aircraft] = row["dest"] if landed else row["origin"]
