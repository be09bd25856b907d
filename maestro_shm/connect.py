"""From a target to a store."""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from maestro_shm import options
from maestro_shm.errors import StoreUnavailableError
from maestro_shm.memory import MemoryStore
from maestro_shm.postgres.driver import check_driver
from maestro_shm.postgres.location import is_location, shown_location
from maestro_shm.shared import election
from maestro_shm.shared.places import SHM_SCHEME
from maestro_shm.shared.store import SharedStore, path_of
from maestro_shm.store import Store

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def connect(target: str | os.PathLike[str] | None = None, **options: Any) -> Store:
    """A handle of the store that the target names; it is made if there is none.

    | target | store |
    | --- | --- |
    | none | private to this process and those that it starts, in shared memory; it ends with its creator |
    | `"shm:NAME"` | named, in shared memory, for every program of this user; until destroyed, or the machine restarts |
    | a path | a directory on disk, for every program of this user |
    | `"memory:"` | plain dicts in this process |
    | `"postgresql://…"` | in a PostgreSQL database, for every machine that reaches it; `migrate` makes its tables |

    Options: `max_commit_bytes` (the size cap of a commit, 1 MiB unless given, fixed at the store's creation). All but
    `memory:` have `timeout` (seconds that a call may take, 30). All that outlive their creator have `allow_reset`
    (False). `shm:` and paths have `idle_timeout` (seconds that a server without clients stays, 30, fixed at the store's
    creation). Paths have `durability` (`"process"`: what is acknowledged survives the death of any process; `"power"`:
    a loss of power, too; fixed at the store's creation). In a database the cap of a commit is the handle's own. An
    option that the target does not have is a `TypeError`, a value that it may not have a `ValueError`.

    Raises `StoreUnavailableError` for an unknown target and for a store that cannot be reached or started, and
    `StoreFullError` if there is no room for a new one.
    """
    if target is None:
        return _opened("a private store", SharedStore.private, options)
    name = name_of(target)
    if name == MemoryStore.target:
        return _opened("a memory: store", MemoryStore, options)
    if is_location(name):
        return _postgres(name, options)
    return _opened(f"the store {name!r}", partial(SharedStore.shared, name), options)


def _opened(what: str, open_store: Callable[..., Store], options: dict[str, Any]) -> Store:
    known = inspect.signature(open_store).parameters
    if unknown := options.keys() - known.keys():
        named = ", ".join(name for name, parameter in known.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY)
        raise TypeError(f"{what} has no option {min(unknown)!r}; it has {named}")
    return open_store(**options)


def _postgres(url: str, options: dict[str, Any]) -> Store:
    check_driver(url)
    from maestro_shm.postgres.store import PostgresStore  # noqa: PLC0415 (its driver is an extra)

    return _opened("a store in a database", partial(PostgresStore.open, url), options)


def destroy(target: str | os.PathLike[str], *, timeout: float = options.DEFAULT_TIMEOUT) -> None:
    """Remove a `shm:` or path store and all that is in it, within `timeout` seconds.

    Raises `StoreUnavailableError` if there is none, or if somebody is connected to it.
    """
    deadline = time.monotonic() + options.timeout(timeout)
    name = name_of(target)
    if name == MemoryStore.target:
        raise StoreUnavailableError(name, "a memory: store ends when it is closed, and has no directory to destroy")
    if is_location(name):
        raise StoreUnavailableError(shown_location(name), "drop the database, or its schema, where it is")
    election.end(path_of(name), "destroy", deadline)


def name_of(target: str | os.PathLike[str] | bytes) -> str:
    """The target as text. Raises `StoreUnavailableError` for a scheme that is none of ours and for what is no path."""
    name = os.fsdecode(target)
    if not isinstance(target, str) and name:
        name = str(Path(name).absolute())  # whatever it is called, it was given as a path
    if is_location(name) and isinstance(target, str) and "\0" not in name:
        return name
    scheme = _SCHEME.match(name)
    if not name or "\0" in name or (scheme and name != MemoryStore.target and scheme[0] != SHM_SCHEME):
        raise StoreUnavailableError(
            name, "unknown target; use none, 'shm:NAME', a path, 'postgresql://…', or 'memory:'"
        )
    return name
