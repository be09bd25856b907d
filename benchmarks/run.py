"""Run the benchmarks: `python -m benchmarks.run [--full | --check] [--out DIRECTORY]`, from the root of the checkout,
with `tests` in `PYTHONPATH`.

Rules: nothing fails because a time is long; the table of goals says what was reached. However the run ends, by Ctrl-C
or SIGTERM too, its processes end and its files go. The directory gets NAME.json and NAME.png, named by the run's size.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from rich.console import Console

from benchmarks import machine, report, tables
from benchmarks.goals import all_goals
from benchmarks.measure import measure
from benchmarks.results import Results
from benchmarks.settings import CHECK, FULL, QUICK

_OUT: Final = Path(__file__).parent / "results"
_FILE_WIDTH: Final = 140


def main() -> int:
    arguments = _parse_arguments()
    signal.signal(signal.SIGTERM, _leave)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)
    place = machine.describe()
    try:
        _report(console, place, measure(arguments.settings, console.print), arguments.out)
    except KeyboardInterrupt:
        console.print("interrupted: everything is closed")
        return 128 + signal.SIGINT
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the shared store beside its rivals.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_const", dest="settings", const=FULL, help="more samples: minutes")
    size.add_argument(
        "--check", action="store_const", dest="settings", const=CHECK, help="everything once, for seconds: no figures"
    )
    parser.add_argument("--out", type=Path, default=_OUT, help="where the results go (default: benchmarks/results)")
    parser.set_defaults(settings=QUICK)
    return parser.parse_args()


def _report(console: Console, place: dict[str, Any], results: Results, directory: Path) -> None:
    from benchmarks import plot  # noqa: PLC0415 (it brings numpy, whose threads do not go with the forks before)

    goals = all_goals(results)
    tables.show(console, place, results, goals)
    directory.mkdir(parents=True, exist_ok=True)
    name = directory / results.settings.name
    report.save(name.with_suffix(".json"), place, results, goals)
    plot.save(name.with_suffix(".png"), place, results)
    console.print(f"{results.seconds:.0f} s; written: {name}.json, {name}.png")


def _leave(signal_number: int, _frame: object) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    sys.exit(main())
