"""How far a compaction has come, by the files that there are."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from maestro_shm.shared import header as head
from maestro_shm.shared import recovery

_LOOK: Final = 0.00005
"""Seconds between two looks: the switch-over takes a few milliseconds."""


class Stage(enum.Enum):
    """Where a kill is aimed at, and where it hits."""

    ELSEWHERE = "before or behind"
    COPY = "in mid-copy"
    SWITCH = "in the switch-over"


def stage(directory: Path, began: float) -> Stage:
    """That of the compaction that began at this time; files of an earlier one may be left."""
    if _is_there(directory / recovery.UNFINISHED, began) or (directory / recovery.REPLACED_HEADER).exists():
        return Stage.SWITCH
    return Stage.COPY if _is_there(directory / recovery.SUCCESSOR / recovery.UNFINISHED, began) else Stage.ELSEWHERE


def wait_for(aim: Stage, directory: Path, began: float, is_over: Callable[[], bool]) -> None:
    """Until the compaction has come so far, or is over."""
    while aim is not Stage.ELSEWHERE and stage(directory, began) is not aim and not is_over():
        time.sleep(_LOOK)


def leavings(directory: Path) -> list[str]:
    """What there is of a store at rest that a compaction or a recovery should have removed."""
    with closing(head.open_header(directory)) as header:
        number = header.words[head.INCARNATION]
    left = [path for path, _, of_number in recovery.data_files(directory) if of_number != number]
    names = (recovery.UNFINISHED, recovery.REPLACED_HEADER, recovery.SUCCESSOR)
    return [path.name for path in (*left, *map(directory.joinpath, names)) if path.exists()]


def _is_there(path: Path, since: float) -> bool:
    try:
        return path.stat().st_mtime >= since
    except FileNotFoundError:
        return False
