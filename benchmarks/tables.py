"""The results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import figures
from benchmarks.goals import Goal
from benchmarks.results import Results
from benchmarks.rivals.maestro import Maestro
from benchmarks.timing import Timing

_VERDICTS = {True: Text("reached", "green"), False: Text("not reached", "red"), None: Text("not measured", "yellow")}


def show(console: Console, machine: dict[str, Any], results: Results, goals: Sequence[Goal]) -> None:
    console.print(_timing_table(results))
    console.print(_throughput_table(results))
    console.print(goal_table(goals))
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['python']}")
    if machine["load"] > machine["cores"] / 2:
        console.print(f"Other programs were busy at the start (load {machine['load']}): expect noise.")
    if results.large_events < results.settings.large_events:
        console.print(
            f"The large store got {results.large_events:,} events instead of {results.settings.large_events:,}: "
            f"filling it would have taken longer than {results.settings.fill_seconds:.0f} s (--full fills it)."
        )


def _timing_table(results: Results) -> Table:
    table = Table("figure", "rival", title="Times in µs: one caller, everyone in turn")
    for heading in ("median", "p99", "ours = 1"):
        table.add_column(heading, justify="right")
    for figure, timings in groupby([*results.timings, *results.first_reads], attrgetter("figure")):
        _add_figure(table, figure, list(timings))
    return table


def _add_figure(table: Table, figure: str, timings: Sequence[Timing]) -> None:
    ours = timings[0].median_us  # the order of play has us first
    for number, timing in enumerate(timings):
        table.add_row(
            "" if number else figure,
            timing.rival,
            f"{timing.median_us:,.2f}",
            f"{timing.p99_us:,.2f}",
            f"{timing.median_us / ours:.2f}",
            style=_style(timing.rival),
            end_section=timing is timings[-1],
        )


def _throughput_table(results: Results) -> Table:
    table = Table("throughput", "rival", title="Throughput: processes that commit at the same time")
    table.add_column("per second", justify="right")
    for measured in sorted(results.throughputs, key=attrgetter("workers")):
        what = f"commits of 1 event, {measured.workers} workers"
        table.add_row(what, measured.rival, f"{measured.commits_per_second:,.0f}", style=_style(measured.rival))
    for timing in results.timings:
        if timing.figure == figures.COMMIT_BATCH.name:
            what = f"events, {figures.COMMIT_BATCH.events} per commit, 1 worker"
            table.add_row(what, timing.rival, f"{1e6 / timing.median_us:,.0f}", style=_style(timing.rival))
    if copies := results.copies:
        for what, rate in (("to PostgreSQL", copies.to_postgres), ("from PostgreSQL", copies.from_postgres)):
            table.add_row(f"events copied {what}, compared in the end", Maestro.name, f"{rate:,.0f}", style="bold")
    return table


def goal_table(goals: Sequence[Goal]) -> Table:
    """What was wanted, and what came out."""
    table = Table("goal", title="Goals: ratios of medians within this run")
    for heading in ("measured", "wanted"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for goal in goals:
        measured = "-" if goal.value is None else f"{goal.value:.2f}{goal.unit}"
        wanted = f"{'≥' if goal.at_least else '≤'} {goal.limit:g}{goal.unit}"
        table.add_row(goal.title, measured, wanted, _VERDICTS[goal.reached])
    return table


def _style(rival: str) -> str:
    return "bold" if rival.startswith(Maestro.name) else ""
