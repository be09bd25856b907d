"""The command `copy`: any store into any other one."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from maestro_shm.backend import Backend
from maestro_shm.bar import Bar
from maestro_shm.connect import connect, name_of
from maestro_shm.copying import copy
from maestro_shm.errors import StoreUnavailableError
from maestro_shm.memory import MemoryStore
from maestro_shm.options import LARGEST_COMMIT_BYTES
from maestro_shm.postgres.location import is_location, shown_location
from maestro_shm.shared import directory as directories
from maestro_shm.shared.store import path_of
from maestro_shm.verification import Totals

_INTERRUPTED: Final = 130
_DESCRIPTION: Final = (
    "Copy a store into another one, of whatever kinds they are: shm:NAME, a directory, or postgresql://…. Events keep "
    "their positions, sequences, timestamps and commits; snapshots and tables come as they are now. The source may be "
    "written to meanwhile: what it has at the beginning is copied, and the same command again brings the rest. So does "
    "it go on after it was interrupted. In the end both are compared. Nobody may write to the target meanwhile."
)
_EPILOG: Final = (
    "Exit codes: 0 if the target holds all that the source had; 1 if it was refused, failed, or found a difference; "
    "130 if interrupted."
)


def add_command(commands: Any) -> None:
    """Add `copy` to the sub-commands of a parser."""
    parser = commands.add_parser(
        "copy", help="copy a store into another one, of any kind", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("source", metavar="SOURCE", help="shm:NAME, a directory, or postgresql://…")
    parser.add_argument("target", metavar="TARGET", help="the same; empty, not there yet, or an earlier copy")
    parser.add_argument(
        "--max-commit-bytes",
        type=int,
        metavar="N",
        help="the most that a commit to a target may have that is made now (default: as in the source)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Copy, and say how far it is and what was compared in the end; the exit code is as the command's help says."""
    names = name_of(options.source), name_of(options.target)
    _check_names(*names)
    try:
        with ExitStack() as stack:
            source = stack.enter_context(_opened_source(names[0]))
            most = options.max_commit_bytes or _largest_commit(names[0], source)
            target = stack.enter_context(_opened_target(names[1], most, is_given=options.max_commit_bytes is not None))
            with Bar(sys.stderr) as bar:
                totals = copy(source, target, bar.tell)
            print(_summary(source.target, target.target, totals))  # noqa: T201 (a command prints)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)  # noqa: T201 (a command prints)
        return _INTERRUPTED
    return 0


def _check_names(source: str, target: str) -> None:
    for name in (source, target):
        if name == MemoryStore.target:
            raise StoreUnavailableError(name, "a memory: store lives in one process, and cannot be copied by another")
    if source == target or (not (is_location(source) or is_location(target)) and path_of(source) == path_of(target)):
        shown = shown_location(target) if is_location(target) else target
        raise StoreUnavailableError(shown, "a store cannot be copied into itself")


def _opened_source(name: str) -> Backend:
    if is_location(name):
        return _opened(name)
    directories.check(path_of(name))  # or it would be made
    return _opened(name)


def _largest_commit(name: str, source: Backend) -> int:
    """What a commit of the source may have; in a database each handle says for itself."""
    return LARGEST_COMMIT_BYTES if is_location(name) else source._max_commit_bytes


def _opened_target(name: str, max_commit_bytes: int, *, is_given: bool) -> Backend:
    if is_location(name):
        return _opened(name, max_commit_bytes=max_commit_bytes if is_given else LARGEST_COMMIT_BYTES)
    is_fixed = _is_there(path_of(name)) and not is_given
    return _opened(name, max_commit_bytes=None if is_fixed else max_commit_bytes)


def _is_there(directory: Path) -> bool:
    try:
        directories.check(directory)
    except directories.VanishedError:
        return False
    return True


def _opened(name: str, **options: Any) -> Backend:
    store = connect(name, **options)
    assert isinstance(store, Backend)  # noqa: S101 (for the type checker)
    return store


def _summary(source: str, target: str, totals: Totals) -> str:
    return (
        f"{target} is the same as {source} up to position {totals.position:,}: compared {totals.events:,} events, "
        f"{totals.snapshots:,} snapshots, and {totals.entries:,} entries of {totals.tables:,} tables"
    )
