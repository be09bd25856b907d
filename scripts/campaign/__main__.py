"""Run the checks, one after the other, and print one table: `python -m campaign [--quick] [--seed N] [--only NAME]`.

Exits with 1 if a goal was missed or a planted fault not caught, or if a check failed on its own account. A check that
cannot be run here is said to be skipped.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from campaign import checks
from campaign.check import Check, Finding, Run, SkippedError

_WIDTHS = (62, 30, 34, 16)
_HEADINGS = ("figure", "goal", "found", "faults caught")


@dataclass(frozen=True)
class _Line:
    finding: Finding
    verdict: str
    seconds: float


def main() -> int:
    """Run what was asked for, and return the exit code."""
    arguments = _parse_arguments()
    if arguments.list:
        print("\n".join(checks.ALL))
        return 0
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that everything is cleaned up
    run = Run(quick=arguments.quick, seed=arguments.seed)
    print(f"seed {run.seed}, {'quick' if run.quick else 'full'} run", flush=True)
    lines: list[_Line] = []
    interrupted = False
    try:
        for name in arguments.only or checks.ALL:
            for line in _run(name, checks.ALL[name], run):
                print(f"  {line.verdict}: {line.finding.found}; faults caught: {line.finding.planted}", flush=True)
                lines.append(line)
    except KeyboardInterrupt:
        interrupted = True  # what was found until now is worth its table
    _print_table(lines, run)
    return 130 if interrupted else int(any(line.verdict not in ("met", "skipped") for line in lines))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/torture", description="Torture the shared store.")
    parser.add_argument("--quick", action="store_true", help="a little of everything, in a minute or two")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of all random choices")
    parser.add_argument("--only", action="append", choices=checks.ALL, metavar="NAME", help="this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="the names of the checks")
    return parser.parse_args()


def _run(name: str, check: Check, run: Run) -> Iterator[_Line]:
    print(f"{time.strftime('%H:%M:%S')} {name} …", flush=True)
    started = time.monotonic()
    try:
        for finding in check(run):
            verdict = "met" if finding.met and finding.caught_all else "MISSED"
            yield _Line(finding, verdict, time.monotonic() - started)
            started = time.monotonic()
    except SkippedError as reason:
        yield _Line(Finding(name, "", str(reason), met=False, planted="", caught_all=False), "skipped", 0)
    except Exception as error:  # noqa: BLE001 (the other checks go on, and the table says that this one did not)
        traceback.print_exc()
        failed = Finding(name, "", f"{type(error).__name__}: {error}", met=False, planted="", caught_all=False)
        yield _Line(failed, "FAILED", time.monotonic() - started)


def _print_table(lines: list[_Line], run: Run) -> None:
    print()
    _print_row(_HEADINGS, "", "s")
    for line in lines:
        found = line.finding
        _print_row((found.figure, found.goal, found.found, found.planted), line.verdict, f"{line.seconds:.0f}")
    print(f"seed {run.seed}; again by: scripts/torture{' --quick' if run.quick else ''} --seed {run.seed}")


def _print_row(cells: tuple[str, ...], verdict: str, seconds: str) -> None:
    wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, _WIDTHS, strict=True)]
    for number in range(max(map(len, wrapped))):
        texts = [part[number] if number < len(part) else "" for part in wrapped]
        row = "  ".join(f"{text:<{width}}" for text, width in zip(texts, _WIDTHS, strict=True))
        print((f"{row}  {verdict:<7}  {seconds:>4}" if number == 0 else row).rstrip())


if __name__ == "__main__":
    sys.exit(main())
