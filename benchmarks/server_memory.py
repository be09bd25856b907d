"""What a server process holds beyond the mapped files of its store; Linux only.

Rule: every resident page counts that is not of a file in the store's directory, the interpreter and its libraries
included, even where other processes share them: an upper bound.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.filled_store import FilledStore

_MAPPING: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(?P<path>.*)")


@dataclass(frozen=True, slots=True)
class ServerMemory:
    events: int
    aggregates: int
    resident_mb: float
    mapped_files_mb: float


def measure_memory(filled: FilledStore) -> ServerMemory | None:
    """None where the machine does not tell."""
    stats = filled.store.stats()
    smaps = Path(f"/proc/{stats['server_pid']}/smaps")
    if not smaps.exists():
        return None
    own, mapped = _resident_kb(smaps.read_text().splitlines(), os.path.realpath(stats["directory"]) + os.sep)
    return ServerMemory(filled.events, filled.aggregates, own / 1024, mapped / 1024)


def _resident_kb(lines: Iterable[str], directory: str) -> tuple[int, int]:
    """Outside and inside the directory."""
    totals = [0, 0]
    inside = False
    for line in lines:
        if mapping := _MAPPING.fullmatch(line):
            inside = mapping["path"].startswith(directory)
        elif line.startswith("Rss:"):
            totals[inside] += int(line.split()[1])
    return totals[0], totals[1]
