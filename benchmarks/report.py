"""The results as a JSON file: the machine, every line, every goal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal
from benchmarks.results import Results


def save(path: Path, machine: dict[str, Any], results: Results, goals: Sequence[Goal]) -> None:
    report = {
        "machine": machine,
        **asdict(results),
        "goals": [{**asdict(goal), "reached": goal.reached} for goal in goals],
    }
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
