"""From a target to a store."""

from __future__ import annotations

import os
from typing import Any

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.memory import MemoryStore
from maestro_shm.store import Store


def connect(target: str | os.PathLike[str] | None = None, **options: Any) -> Store:
    """A handle of the store that the target names."""
    if target == MemoryStore.target:
        return MemoryStore(**options)
    msg = "unknown target"
    raise StoreUnavailableError(str(target), msg)
