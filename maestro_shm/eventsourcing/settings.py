"""What the environment says of an application's store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from eventsourcing.utils import Environment, strtobool

from maestro_shm import options
from maestro_shm.connect import name_of
from maestro_shm.errors import StoreUnavailableError
from maestro_shm.eventsourcing.target import target_of

TARGET: Final = "MAESTRO_TARGET"
_CREATE_TABLE: Final = "CREATE_TABLE"
"""As this library's own modules have it."""
_OPTIONS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "MAESTRO_TIMEOUT": ("timeout", lambda text: options.timeout(float(text))),
    "MAESTRO_IDLE_TIMEOUT": ("idle_timeout", lambda text: options.idle_timeout(float(text))),
    "MAESTRO_DURABILITY": ("durability", options.durability),
    "MAESTRO_MAX_COMMIT_BYTES": ("max_commit_bytes", lambda text: options.commit_bytes(int(text))),
}
_SQLITE_MEMORY: Final = ":memory:"


class Settings(NamedTuple):
    """The arguments of `maestro_shm.connect`."""

    target: str
    options: dict[str, Any]
    creates_tables: bool = True
    """In a database, if they are not there yet."""


def settings_of(env: Environment) -> Settings:
    """The settings for the application of this name. Raises `OSError`, as this library does for its environment."""
    return Settings(target_of(_target(env), env.name), _options(env), _creates_tables(env))


def _target(env: Environment) -> str:
    target = env.get(TARGET)
    if not target:
        keys = " or ".join(env.create_keys(TARGET))
        raise OSError(f"set {keys} in the environment: to 'shm:NAME', a path, 'postgresql://…', or 'memory:'")
    if target == _SQLITE_MEMORY:
        raise OSError(f"{TARGET} is {target!r}, which would be a path; a store in this process's memory is 'memory:'")
    try:
        return name_of(target)
    except StoreUnavailableError as error:
        raise OSError(f"{TARGET}: {error}") from None


def _creates_tables(env: Environment) -> bool:
    text = env.get(_CREATE_TABLE) or "yes"
    try:
        return strtobool(text)
    except ValueError:
        raise OSError(f"{_CREATE_TABLE} in the environment is {text!r}; it must be 'yes' or 'no'") from None


def _options(env: Environment) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, (name, read) in _OPTIONS.items():
        if text := env.get(key):
            try:
                found[name] = read(text)
            except ValueError as error:
                raise OSError(f"{key} in the environment is {text!r}: {error}") from None
    return found
