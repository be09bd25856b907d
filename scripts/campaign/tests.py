"""The tests of which the suite tries a part, tried wholly: kills at three times the lines, ten times the examples."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
_SECONDS: Final = 1_800
"""For one test."""
_THOROUGHLY: Final = (
    *("--hypothesis-profile=thorough", f"--timeout={_SECONDS}", "-o", f"faulthandler_timeout={_SECONDS + 60}"),
    *("-p", "no:cacheprovider"),
)


@dataclass
class _Outcome:
    """What became of the tests of one run, as pytest tells a plugin."""

    code: int = -1
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failed.append(report.nodeid.rpartition("::")[2])
            self.said.append(report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.said.append(report.longreprtext)


def check(run: Run) -> Iterator[Finding]:
    """Run them; then where a recovery undoes nothing, and where bodies come back as something else."""
    if run.quick:
        raise SkippedError("a quick run leaves these to the suite")
    yield _finding(
        run, "tests that kill a process before one line after the other", "lines", _undo_nothing, "killed_at_any_line"
    )
    yield _finding(run, "tests of properties, by 400 examples each", "hypothesis", _forget_kinds, "comes_back_exactly")


def _finding(run: Run, figure: str, marked: str, plant: Callable[[], object], planted_in: str) -> Finding:
    real = _run_tests(run, int, "-m", marked)
    print(*real.said, sep="\n", end="", flush=True)
    caught = bool(_run_tests(run, plant, "-m", marked, "-k", planted_in, "-x").failed)
    return Finding(
        figure=f"{real.passed + len(real.failed)} {figure}",
        goal="all pass",
        found="; ".join([f"{real.passed} passed, pytest ended with {real.code}", *real.failed]),
        met=real.passed > 0 and real.code == pytest.ExitCode.OK,
        planted=f"{caught:d} of 1",
        caught_all=caught,
    )


def _run_tests(run: Run, plant: Callable[[], object], *options: str) -> _Outcome:
    def run_tests() -> _Outcome:
        plant()
        outcome = _Outcome()
        with (
            mock.patch.dict(os.environ, {ALL_LINES: "1"}),
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            seed = f"--hypothesis-seed={run.seed}"
            outcome.code = int(pytest.main([*_THOROUGHLY, seed, *options, _TESTS], [outcome]))
        return outcome

    with Fork(run_tests) as fork:
        return fork.result(patience=_PATIENCE)


# Stores with a fault


def _undo_nothing() -> None:
    exchange(recovery, "_undo", lambda *_: None)


def _forget_kinds() -> None:
    """Sets come back as tuples."""
    codec._DECODERS[codec.SET] = codec._DECODERS[codec.TUPLE]
