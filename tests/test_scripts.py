"""The set-up of the scripts: an environment made once, filled up on demand, by one script at a time.

Rules kept here: it runs against a tiny project that needs no package index; the interpreter is the one under test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["scripts/demo", "scripts/test", "scripts/check", "scripts/torture", ".ci/run"]
ENVIRONMENT = f".venv-{sys.version_info[0]}.{sys.version_info[1]}"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

# An editable install of nothing but metadata, which names the extras that the scripts may ask for.
BACKEND = """
import zipfile

NAME = "tiny-1.dist-info"
METADATA = "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\nProvides-Extra: demo\\nProvides-Extra: dev\\n"
WHEEL = "Wheel-Version: 1.0\\nGenerator: tiny\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"

def build_editable(directory, settings=None, metadata=None):
    with zipfile.ZipFile(f"{directory}/tiny-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{NAME}/METADATA", METADATA)
        wheel.writestr(f"{NAME}/WHEEL", WHEEL)
        wheel.writestr(f"{NAME}/RECORD", "")
    return "tiny-1-py3-none-any.whl"

build_wheel = build_editable
"""

SCRIPT = """#!/usr/bin/env bash
set -euo pipefail
source "$(dirname "$0")/_venv"
use_venv "$1"
"$VENV_PYTHON" -c 'import os, sys; print(os.path.relpath(sys.prefix))'
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "a check out"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/_venv", root / "scripts/_venv")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    (root / "scripts/any").write_text(SCRIPT)
    return root


def start(checkout: Path, extras: str, python: str = sys.executable) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHON": python, "HOME": str(checkout.parent), "PIP_NO_INDEX": "1"}
    command = ["bash", str(checkout / "scripts/any"), extras]
    return subprocess.Popen(
        command, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(run: subprocess.Popen[str]) -> str:
    """What the script said while it was setting up."""
    out, err = run.communicate(timeout=100)
    assert (run.returncode, out) == (0, f"{ENVIRONMENT}\n"), err
    return err


def set_up(checkout: Path, extras: str) -> str:
    return finish(start(checkout, extras))


def test_the_environment_is_made_once_and_filled_up_on_demand_and_made_anew_where_the_checkout_moved(
    checkout: Path,
) -> None:
    first, second = start(checkout, "demo"), start(checkout, "demo")
    said = sorted([finish(first), finish(second)])
    assert said == ["", f"making {ENVIRONMENT}, once\ninstalling .[demo] into {ENVIRONMENT}\n"]
    assert set_up(checkout, "dev,demo") == f"installing .[demo,dev] into {ENVIRONMENT}\n"
    assert set_up(checkout, "demo") == ""
    (checkout / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    assert set_up(checkout, "demo") == f"installing .[demo,dev] into {ENVIRONMENT}\n"
    assert set_up(checkout, "dev") == ""
    moved = checkout.rename(checkout.with_name("moved"))
    assert set_up(moved, "dev") == f"making {ENVIRONMENT}, once\ninstalling .[dev] into {ENVIRONMENT}\n"


def test_a_python_that_does_not_run_is_refused(checkout: Path) -> None:
    out, err = start(checkout, "demo", python="/bin/false").communicate(timeout=30)
    assert out == ""
    assert err == "error: none of these is a working Python 3.11 or newer: /bin/false; set PYTHON to one\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True, timeout=10)
    assert "set -euo pipefail" in (ROOT / script).read_text()
