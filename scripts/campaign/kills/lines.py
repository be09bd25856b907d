"""The tests that kill a process before one line after the other, at all lines that they name: the suite tries some."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from unittest import mock

import processes
import pytest
from processes import ALL_LINES, Fork

from campaign.check import Finding, Run, SkippedError
from campaign.planting import exchange
from maestro_shm.shared import recovery

_TESTS: Final = str(Path(processes.__file__).parent)
_PATIENCE: Final = 1_800.0
_UNDONE: Final = "killed_at_any_line_is_done_by_the_next or killed_at_any_line_is_undone"
"""The tests that a recovery fails which undoes nothing."""


class _Outcomes:
    """What became of the tests of one run, as pytest tells a plugin."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failed.append(report.nodeid)


def check(run: Run) -> Iterator[Finding]:
    """Kill at all lines; then where a recovery undoes nothing."""
    if run.quick:
        raise SkippedError("a quick run leaves it to the suite, which kills at a third of the lines")
    passed, failed = _run_tests()
    _, caught = _run_tests(_undo_nothing, "-x", "-k", _UNDONE)
    yield Finding(
        f"{passed + len(failed)} tests that kill a process before one line after the other",
        "all pass",
        "; ".join([f"{passed} passed", *failed]),
        met=passed > 0 and not failed,
        planted=f"{bool(caught):d} of 1",
        caught_all=bool(caught),
    )


def _run_tests(plant: Callable[[], object] = int, *options: str) -> tuple[int, list[str]]:
    """How many passed, and those that failed, by their names."""

    def run_tests() -> tuple[int, list[str]]:
        plant()
        outcomes = _Outcomes()
        with (
            mock.patch.dict(os.environ, {ALL_LINES: "1"}),
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            pytest.main(["-m", "lines", "--timeout=900", "-p", "no:cacheprovider", *options, _TESTS], [outcomes])
        return outcomes.passed, [re.sub(r".*::", "", name) for name in outcomes.failed]

    with Fork(run_tests) as fork:
        return fork.result(patience=_PATIENCE)


def _undo_nothing() -> None:
    exchange(recovery, "_undo", lambda *_: None)
