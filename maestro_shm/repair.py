"""The command `repair`.

Rules kept here: the exit code tells whether anything is lost; of things that may be many the first are printed, and the
number of the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from maestro_shm.connect import name_of
from maestro_shm.errors import StoreUnavailableError, shown
from maestro_shm.memory import MemoryStore
from maestro_shm.postgres.location import is_location, shown_location
from maestro_shm.shared.damage import Hole, Report
from maestro_shm.shared.repair import earlier_reports, repair
from maestro_shm.shared.store import path_of

_LOST: Final = 3
_INTERRUPTED: Final = 130
_SHOWN: Final = 20
"""How many of a kind are printed one by one."""
_SUMMARY: Final = "save what is whole of a damaged store, and say what was lost"
_EPILOG: Final = (
    "Exit codes: 0 if nothing is damaged, or all could be saved; 3 if commits were lost, or may have been; "
    "1 if the store could not be repaired, and is as it was; 130 if interrupted."
)


def add_command(commands: Any) -> None:
    """Add `repair` to the sub-commands of a parser."""
    parser = commands.add_parser("repair", help=_SUMMARY, description=_SUMMARY.capitalize() + ".", epilog=_EPILOG)
    parser.add_argument("store", metavar="DIR", help="the store's directory, or shm:NAME; nobody may be serving it")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Repair the store and print what was found; the exit code is as the command's help says."""
    name = name_of(options.store)
    if name == MemoryStore.target:
        raise StoreUnavailableError(name, "a memory: store has no directory to repair")
    if is_location(name):
        raise StoreUnavailableError(shown_location(name), "a database has no directory to repair; it has its own tools")
    try:
        report = repair(path_of(name), lambda report: "\n".join(lines(report)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201 (a command prints)
        return _INTERRUPTED
    print("\n".join(lines(report)))  # noqa: T201 (a command prints)
    return _LOST if report.may_have_lost else 0


def lines(report: Report) -> Iterator[str]:
    """The report as text."""
    if report.is_whole:
        yield f"{report.directory}: nothing is damaged, nothing was changed"
        yield from (f"an earlier repair: {path}" for path in earlier_reports(report.directory))
        return
    yield f"{report.directory}: repaired"
    yield from _few(
        [f"damaged: {path}, bytes {start:,} to {end:,}: {reason}" for path, start, end, reason, _ in report.damages]
    )
    yield f"saved: {report.commits:,} commits with {report.events:,} events"
    yield from _losses(report)
    yield from _few(
        [f"moved: events from position {position:,} on, now {by:,} lower" for position, by in report.shifts]
    )
    yield f"replaced: the files as they were are in {report.replaced}, with this report; remove it when you like"


def _losses(report: Report) -> Iterator[str]:
    if not report.end_is_known:
        yield "unknown: whether more had been committed last; the header would have told"
    if not report.may_have_lost:
        yield "lost: nothing" + ", as far as can be told" * (not report.end_is_known)
        return
    yield f"lost: {report.lost_events:,} events of at least {report.lost_places:,} commits"
    yield "lost: snapshots, perhaps; they leave no gap that could be counted"
    yield from _few([f"refused: {path}, byte {offset:,}: {reason}" for path, offset, reason in report.refusals])
    yield from _few(
        [f"incomplete: aggregate {shown(name)} lacks {_holes(report.holes[name])}" for name in sorted(report.holes)]
    )


def _holes(holes: list[Hole]) -> str:
    return ", ".join(
        f"events before sequence {below}" if above is None else f"events between sequences {above} and {below}"
        for above, below in islice(holes, _SHOWN)
    ) + " and more" * (len(holes) > _SHOWN)


def _few(texts: list[str]) -> Iterator[str]:
    yield from texts[:_SHOWN]
    if len(texts) > _SHOWN:
        yield f"{texts[0].partition(':')[0]}: {len(texts) - _SHOWN:,} more"
