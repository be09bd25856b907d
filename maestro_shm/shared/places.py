"""Where stores lie that have no path of their own: named and private ones, in shared memory.

The name of a private store's directory tells which process it belongs to, so that what it left can be swept without
reading anything in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
import warnings
from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.shared import creator as creators
from maestro_shm.shared import directory as directories
from maestro_shm.shared.room import room_of

SHM_SCHEME: Final = "shm:"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SMALL: Final = 256 << 20
"""Bytes. A container has 64 MiB by default; a machine gives half of its memory."""
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (it is what we want, and guarded by mode and owner)


def named_path(target: str) -> Path:
    """The directory of a `shm:` target. Raises `StoreUnavailableError` for a bad name."""
    name = target.removeprefix(SHM_SCHEME)
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise StoreUnavailableError(target, "a name has 1 to 64 letters, digits, '.', '_' or '-', and no '.' in front")
    return _root() / f"maestro_shm-{os.geteuid()}-named-{name}"


def new_private_path(creator: str) -> Path:
    """The directory of a new private store of this process."""
    return _root() / f"{_private_prefix()}{creator}-{secrets.token_hex(4)}"


def sweep_private() -> None:
    """Remove private stores whose creator and server were both killed.

    Anybody may put things of any name beside them: what is not certainly a store of ours is left alone, and nothing
    of what is found there can make this fail.
    """
    for path in _root().glob(f"{_private_prefix()}*"):
        with contextlib.suppress(OSError, StoreUnavailableError):
            creator = path.name.removeprefix(_private_prefix()).rpartition("-")[0]
            if creators.is_identity(creator) and not creators.is_alive(creator):
                directories.check_owned(path)
                with directories.holding(path) as free:
                    if free:
                        directories.remove(path)


def warn_if_small() -> None:
    """Warn the caller of `connect` where shared memory is as small as in a container, before a commit finds it full."""
    size, _ = room_of(_root())
    if size < _SMALL:
        warnings.warn(
            f"shared memory in {str(_root())!r} has room for {size >> 20} MiB in all; when it is full, commits raise "
            "StoreFullError. Give it more (docker run --shm-size=1g), or connect to a path on a disk",
            RuntimeWarning,
            stacklevel=5,
        )


def _root() -> Path:
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def _private_prefix() -> str:
    return f"maestro_shm-{os.geteuid()}-private-"
