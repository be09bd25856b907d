"""What the demo shows: a bar while it runs and tables at its end.

Rules kept here: the bar is for terminals only; every figure of an aggregate comes from the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from maestro_shm.demo.check import States
from maestro_shm.demo.replay import Done

_BUSIEST = 5


class Figures(NamedTuple):
    """The run as a whole."""

    done: Done
    seconds: float
    workers: int


def with_bar(console: Console, done: Iterator[Done], flights: int) -> Done:
    """Show progress until all is done, and return the sum."""
    columns = (TextColumn("flying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total = Done(0, 0, 0)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=flights)
        for part in done:
            total = Done(*map(sum, zip(total, part, strict=True)))
            progress.advance(task, part.flights)
    return total


def show(console: Console, figures: Figures, states: States) -> None:
    """Print the tables."""
    for table in (_run_table(figures), _airport_table(states), _aircraft_table(states)):
        console.print(table)


def _run_table(figures: Figures) -> Table:
    done, seconds = figures.done, figures.seconds
    table = _table("The run", "", "")
    table.add_row("flights", f"{done.flights:,}")
    table.add_row("flights/s", f"{done.flights / seconds:,.0f}")
    table.add_row("events", f"{done.events:,}")
    table.add_row("events/s", f"{done.events / seconds:,.0f}")
    table.add_row("conflicts retried", f"{done.conflicts:,}")
    table.add_row("workers", f"{figures.workers:,}")
    table.add_row("seconds", f"{seconds:,.1f}")
    return table


def _airport_table(states: States) -> Table:
    table = _table("Busiest airports", "", "departures", "arrivals", "cancelled", "diverted", "delay/departure")
    for name, state in _busiest(states, "airport/"):
        counts = [f"{state[key]:,}" for key in ("departures", "arrivals", "cancellations", "diversions")]
        table.add_row(name, *counts, _delay(state))
    return table


def _aircraft_table(states: States) -> Table:
    table = _table("Busiest aircraft", "", "flights", "miles", "hours in the air", "delay/departure", "last seen")
    for name, state in _busiest(states, "aircraft/"):
        hours = f"{state['minutes'] / 60:,.1f}"
        table.add_row(name, f"{state['departures']:,}", f"{state['miles']:,}", hours, _delay(state), _place(state))
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(others))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _busiest(states: States, kind: str) -> list[tuple[str, dict[str, Any]]]:
    found = [(name.removeprefix(kind), state) for name, state in states.items() if name.startswith(kind)]
    return sorted(found, key=lambda pair: pair[1]["departures"] + pair[1]["arrivals"], reverse=True)[:_BUSIEST]


def _delay(state: dict[str, Any]) -> str:
    return f"{state['departure_delay'] / state['departures']:,.1f} min" if state["departures"] else "-"


def _place(state: dict[str, Any]) -> str:
    return state["last_airport"] or "-"
