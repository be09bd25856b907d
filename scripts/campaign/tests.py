"""The tests of which the suite tries a part, tried wholly: kills at all lines, properties by ten times the examples."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from unittest import mock

import processes
import pytest
from processes import ALL_LINES, Fork

from campaign.check import Finding, Run, SkippedError
from campaign.planting import exchange
from maestro_shm import codec
from maestro_shm.shared import recovery

_TESTS: Final = str(Path(processes.__file__).parent)
_PATIENCE: Final = 3_600.0
_THOROUGHLY: Final = ("--hypothesis-profile=thorough", "--timeout=1800", "-p", "no:cacheprovider")


class _Outcomes:
    """What became of the tests of one run, as pytest tells a plugin."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failed.append(report.nodeid.rpartition("::")[2])


def check(run: Run) -> Iterator[Finding]:
    """Run them; then where a recovery undoes nothing, and where bodies come back as something else."""
    if run.quick:
        raise SkippedError("a quick run leaves these to the suite")
    yield _finding(
        "tests that kill a process before one line after the other", "lines", _undo_nothing, "killed_at_any_line"
    )
    yield _finding("tests of properties, by 400 examples each", "hypothesis", _forget_kinds, "comes_back_exactly")


def _finding(figure: str, marked: str, plant: Callable[[], object], planted_in: str) -> Finding:
    passed, failed = _run_tests(int, "-m", marked)
    _, caught = _run_tests(plant, "-m", marked, "-k", planted_in, "-x")
    return Finding(
        figure=f"{passed + len(failed)} {figure}",
        goal="all pass",
        found="; ".join([f"{passed} passed", *failed]),
        met=passed > 0 and not failed,
        planted=f"{bool(caught):d} of 1",
        caught_all=bool(caught),
    )


def _run_tests(plant: Callable[[], object], *options: str) -> tuple[int, list[str]]:
    """How many passed, and those that failed, by their names."""

    def run_tests() -> tuple[int, list[str]]:
        plant()
        outcomes = _Outcomes()
        with (
            mock.patch.dict(os.environ, {ALL_LINES: "1"}),
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            pytest.main([*_THOROUGHLY, *options, _TESTS], [outcomes])
        return outcomes.passed, outcomes.failed

    with Fork(run_tests) as fork:
        return fork.result(patience=_PATIENCE)


# Stores with a fault


def _undo_nothing() -> None:
    exchange(recovery, "_undo", lambda *_: None)


def _forget_kinds() -> None:
    """Sets come back as tuples."""
    codec._DECODERS[codec.SET] = codec._DECODERS[codec.TUPLE]
