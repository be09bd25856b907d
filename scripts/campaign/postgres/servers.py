"""Places for servers, and schemas in them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from maestro_shm.postgres.migration import migrate


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """One that servers can reach, whoever they run as."""
    with tempfile.TemporaryDirectory(prefix="maestro-") as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


def new_schema(url: str, options: str = "") -> str:
    """The URL of an empty store, with further options of its sessions."""
    name = f"trial_{uuid4().hex[:12]}"
    own = f"{url}{'&' if '?' in url else '?'}options={quote(f'-csearch_path={name} {options}'.strip())}"
    migrate(own)
    return own
