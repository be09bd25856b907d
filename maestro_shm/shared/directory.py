"""A store's directory: where it lies, whose it is, its key and its settings. No server, no mapped file.

    lock        the file lock under which a server is elected
    authkey     the key that clients and server prove to each other
    settings    what was fixed at the store's creation, as JSON; a directory with it is a store
    header, log-*, positions-*, index-*   see recovery.py
    socket-N    where the server of epoch N listens
    server.log  what the server has to say

Only its owner gets in: mode 0700, owner checked, no symbolic links.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.shared import creator as creators
from maestro_shm.shared.handshake import KEY_BYTES

LOCK: Final = "lock"
AUTHKEY: Final = "authkey"
SETTINGS: Final = "settings"
SERVER_LOG: Final = "server.log"
_UNFINISHED_SETTINGS: Final = "settings.new"

SHM_SCHEME: Final = "shm:"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (it is what we want, and guarded by mode and owner)


@dataclass(frozen=True)
class Settings:
    """What is fixed at a store's creation.

    `max_commit_bytes` caps a commit; `idle_timeout` is how many seconds a server without clients waits before it
    leaves; `creator` names the process that a private store belongs to.
    """

    max_commit_bytes: int
    idle_timeout: float
    creator: str | None = None


def named_path(target: str) -> Path:
    """The directory of a `shm:` target. Raises `StoreUnavailableError` for a bad name."""
    name = target.removeprefix(SHM_SCHEME)
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise StoreUnavailableError(target, "a name has 1 to 64 letters, digits, '.', '_' or '-', and no '.' in front")
    return _root() / f"maestro_shm-{os.geteuid()}-named-{name}"


def new_private_path() -> Path:
    """The directory of a new private store."""
    return _root() / f"{_private_prefix()}{os.getpid()}-{secrets.token_hex(4)}"


def sweep_private() -> None:
    """Remove private stores whose creator and server were both killed."""
    for path in _root().glob(f"{_private_prefix()}*"):
        try:
            settings = read_settings(path)
        except (OSError, StoreUnavailableError):
            continue
        if settings.creator is not None and not creators.is_alive(settings.creator) and not is_served(path):
            remove(path)


def is_served(path: Path) -> bool:
    """Whether a server holds the directory."""
    descriptor = hold(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def hold(path: Path) -> int | None:
    """Take the lock on the directory itself, which a server holds all its life; None if another has it.

    The second lock beside the file `lock`: that file can be deleted, and a directory with a server in it cannot.
    """
    import fcntl  # noqa: PLC0415 (not on Windows, where this package can still be imported)

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def make(path: Path) -> None:
    """Make the directory unless it is there. Raises `StoreUnavailableError` if it cannot be a store of this user."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        check(path, may_be_empty=True)
    except OSError as error:
        raise StoreUnavailableError(str(path), f"cannot make its directory: {error.strerror}") from None


def check(path: Path, *, may_be_empty: bool = False) -> None:
    """Raise `StoreUnavailableError` unless this is our directory with a store, or (if it may be) nothing, in it."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        raise StoreUnavailableError(str(path), "there is no such store (any more)") from None
    except OSError as error:
        raise StoreUnavailableError(str(path), f"cannot look at it: {error.strerror}") from None
    if not stat.S_ISDIR(facts.st_mode):
        raise StoreUnavailableError(str(path), "not a directory" + " but a link" * stat.S_ISLNK(facts.st_mode))
    if facts.st_uid != os.geteuid():
        raise StoreUnavailableError(str(path), f"belongs to user {facts.st_uid}, not to you (user {os.geteuid()})")
    if (path / SETTINGS).exists():
        if facts.st_mode & 0o077:
            raise StoreUnavailableError(str(path), f"others may enter it; if you trust what is in it: chmod 700 {path}")
    elif not may_be_empty or {entry.name for entry in path.iterdir()} - {LOCK, AUTHKEY, _UNFINISHED_SETTINGS}:
        raise StoreUnavailableError(str(path), "not a store: there are other things in this directory")


def is_made(path: Path) -> bool:
    """Whether the directory holds a store."""
    return (path / SETTINGS).exists()


def found(path: Path, settings: Settings) -> None:
    """Make the directory a store: a new key, then the settings, which appear at once. Under the file lock only."""
    path.chmod(0o700)
    (path / AUTHKEY).unlink(missing_ok=True)
    _write(path / AUTHKEY, secrets.token_bytes(KEY_BYTES))
    (path / _UNFINISHED_SETTINGS).unlink(missing_ok=True)
    _write(path / _UNFINISHED_SETTINGS, json.dumps(asdict(settings)).encode())
    (path / _UNFINISHED_SETTINGS).replace(path / SETTINGS)


def read_settings(path: Path) -> Settings:
    """What was fixed at the store's creation. Raises `FileNotFoundError`, `StoreUnavailableError`."""
    try:
        return Settings(**json.loads((path / SETTINGS).read_bytes()))
    except (ValueError, TypeError) as error:
        raise StoreUnavailableError(str(path), f"its file 'settings' cannot be read: {error}") from None


def read_key(path: Path) -> bytes:
    """The store's key. Raises `FileNotFoundError`, and `StoreUnavailableError` if others can read or wrote it."""
    try:
        descriptor = os.open(path / AUTHKEY, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreUnavailableError(str(path), f"its file 'authkey' cannot be opened: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        key = file.read(KEY_BYTES + 1)
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o077 or len(key) != KEY_BYTES:
        raise StoreUnavailableError(str(path), "its file 'authkey' is not as it was made; destroy the store")
    return key


def socket_path(path: Path, epoch: int) -> Path:
    """Where the server of an epoch listens."""
    return path / f"socket-{epoch}"


def remove(path: Path) -> None:
    """Remove the directory and all in it. Who has its files mapped keeps them."""
    shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _root() -> Path:
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def _private_prefix() -> str:
    return f"maestro_shm-{os.geteuid()}-private-"
