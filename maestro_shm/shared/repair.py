"""Repairing a store that nobody serves: what is whole is built anew, and takes the place of what is damaged.

The store is as it was until the new header takes the place of the old one, in one step. The files that it replaces are
kept in the store's directory `damaged-N`, N being their incarnation: first by second names, so that a repair which is
killed changes nothing. What is left to do behind that one step, recovery does too: those who read the old files are
told to open the new ones, and the first names are removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.shared import directory as directories
from maestro_shm.shared import election, mapped, recovery
from maestro_shm.shared import header as head
from maestro_shm.shared.damage import Report
from maestro_shm.shared.diagnosis import Diagnosis, diagnose
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.mapped import DiskError
from maestro_shm.shared.rebuild import rebuild

_REPORT: Final = "report"
"""The name of the file beside those that were replaced that says what was lost."""


def repair(directory: Path, told: Callable[[Report], str] = str) -> Report:
    """Save what is whole of a damaged store; if nothing is damaged, nothing is changed.

    What is told of the report is written beside the files that are replaced, before they are: who is killed or
    interrupted behind that has lost no account of what was lost.

    Raises `StoreUnavailableError` if there is no such store, if it is served, or if it cannot be told what it holds;
    `StoreFullError` if there is no room for what is whole beside the files that are there. Nothing is changed then.
    """
    directories.check(directory)
    try:
        settings = directories.read_settings(directory)
        with _held(directory, settings):
            return _repair(directory, settings, told)
    except OSError as error:
        raise StoreUnavailableError(str(directory), f"cannot repair it: {error}") from None


def earlier_reports(directory: Path) -> list[Path]:
    """Where the reports of earlier repairs are, whose files nobody has removed yet."""
    return sorted(directory.glob(f"{recovery.REPLACED}*/{_REPORT}"))


@contextlib.contextmanager
def _held(directory: Path, settings: Settings) -> Iterator[None]:
    """Keep servers out."""
    held = directories.hold_soon(directory)
    if held is None:
        ends = "wait until it has ended"
        if (pid := election.server_pid(directory)) is not None:
            ends = f"it leaves {settings.idle_timeout:g} s after its last client has, or when it is told to: kill {pid}"
        raise StoreUnavailableError(str(directory), f"{election.holder(directory)} still runs; {ends}")
    try:
        yield
    finally:
        directories.let_go(held)


def _repair(directory: Path, settings: Settings, told: Callable[[Report], str]) -> Report:
    found = diagnose(directory)
    if found is None or not found.damages:
        return Report(directory, [])
    report = Report(directory, found.damages, found.end_is_known)
    report.replaced = directory / f"{recovery.REPLACED}{found.incarnation}"
    try:
        rebuild(directory, settings, found, report)
        kept = _keep(directory, found, report.replaced, told(report))
    except BaseException:
        recovery.sweep(directory, keep=found.incarnation)
        raise
    try:
        mapped.flush_directory(directory)
        recovery.publish(directory)
    except BaseException as error:
        if (directory / recovery.UNFINISHED).exists():
            _remove(kept, report.replaced)
            recovery.sweep(directory, keep=found.incarnation)
            raise
        _finish(directory, found)  # there is no way back
        if isinstance(error, DiskError):
            reason = f"{error.reason}; it is repaired all the same, see {report.replaced / _REPORT}"
            raise DiskError(error.target, reason) from None
        raise
    _finish(directory, found)
    return report


def _finish(directory: Path, found: Diagnosis) -> None:
    """What is left when the new header has taken its place."""
    recovery.retire_replaced(directory)
    recovery.sweep(directory, keep=found.incarnation + 1)


def _keep(directory: Path, found: Diagnosis, kept: Path, told: str) -> list[Path]:
    """Give the files that are to be replaced second names, in a directory of their own with the report.

    What comes back is what it made. Leaves nothing if it fails.
    """
    files = {
        path: path.name for path, _, incarnation in recovery.data_files(directory) if incarnation == found.incarnation
    }
    if (directory / head.NAME).exists():
        files[directory / head.NAME] = recovery.REPLACED_HEADER
    made: list[Path] = []
    try:
        with mapped.room_for(kept, len(told)):
            kept.mkdir(mode=0o700, exist_ok=True)
            for path, name in files.items():
                if not _is_second_name(kept / name, path):
                    made.append(kept / name)
                    (kept / name).hardlink_to(path)
            made.append(kept / _REPORT)
            _write(kept / _REPORT, told)
            mapped.flush_directory(kept)
    except BaseException:
        _remove(made, kept)
        raise
    return made


def _remove(made: list[Path], kept: Path) -> None:
    for path in made:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        kept.rmdir()


def _write(path: Path, text: str) -> None:
    path.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
    mapped.flush_file(path)


def _is_second_name(second: Path, path: Path) -> bool:
    """Whether a repair that was killed has made it already."""
    if not second.exists():
        return False
    if second.samefile(path):
        return True
    raise StoreUnavailableError(str(path.parent), f"{second} is of another repair, and in the way; move it elsewhere")
