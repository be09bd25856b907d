"""Where the campaign's stores lie: somewhere else each time, and nowhere afterwards."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

PLACES: Final = {"in shared memory": Path("/dev/shm"), "on disk": Path("/var/tmp")}
"""Not the usual place for temporary files, which is in memory on some machines."""


@contextlib.contextmanager
def store_in(place: Path) -> Iterator[Path]:
    """Where a store may lie that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="maestro-campaign-", dir=place, ignore_cleanup_errors=True) as directory:
        yield Path(directory) / "store"


def new_target() -> str:
    """The target of a named store that nobody else uses; whoever makes it ends it."""
    return f"shm:campaign-{uuid4().hex[:12]}"
