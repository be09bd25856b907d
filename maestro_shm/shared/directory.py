"""A store's directory: whose it is, its key and its settings. No server, no mapped file.

    lock        the file lock under which a server is elected
    authkey     the key that clients and server prove to each other
    settings    what was fixed at the store's creation, as JSON; a directory with it is a store
    header, log-*, positions-*, index-*   see recovery.py
    leases-*    empty; the leases of a subscription's consumers are locks on it
    damaged-N   what a repair replaced, see repair.py
    socket-N    where the server of epoch N listens
    server.log  what the server has to say

Only its owner gets in: mode 0700, owner checked, no symbolic links. What others could have put there before it was shut
is refused, and so is a file that is none (to open a named pipe would wait for ever).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from maestro_shm import options
from maestro_shm.errors import StoreFullError, StoreUnavailableError, shown
from maestro_shm.shared import creator as creators
from maestro_shm.shared.handshake import KEY_BYTES
from maestro_shm.shared.mapped import PAGE, room_for

LOCK: Final = "lock"
AUTHKEY: Final = "authkey"
SETTINGS: Final = "settings"
SERVER_LOG: Final = "server.log"
HELD: Final = "another server holds the directory"
"""Why a server that comes second does not start."""
_UNFINISHED: Final = ".new"
_REMOVED_LAST: Final = ("header", AUTHKEY, SETTINGS, LOCK)
_HOLD_SECONDS: Final = 0.5
_LARGEST_SETTINGS: Final = 1 << 12
_ANEW: Final = (
    "write it anew, with what the store was made with, as "
    '{"max_commit_bytes": 1048576, "idle_timeout": 30, "durability": "process"}'
)


@dataclass(frozen=True)
class Settings:
    """What is fixed at a store's creation.

    `max_commit_bytes` caps a commit; `idle_timeout` is how many seconds a server without clients waits before it
    leaves; `creator` names the process that a private store belongs to; `durability` is what a commit survives.
    """

    max_commit_bytes: int
    idle_timeout: float
    creator: str | None = None
    durability: str = options.PROCESS

    def check(self) -> None:
        """Raise `ValueError` if something is not as it may be."""
        options.commit_bytes(self.max_commit_bytes)
        options.idle_timeout(self.idle_timeout)
        options.durability(self.durability)
        if self.creator is not None and not creators.is_identity(self.creator):
            raise ValueError(f"creator must be the name of a process, not {shown(self.creator)}")


class VanishedError(StoreUnavailableError):
    """There is no such store, or somebody destroyed it meanwhile."""

    def __init__(self, target: str, reason: str = "there is no such store (any more)") -> None:
        super().__init__(target, reason)


def is_served(path: Path) -> bool:
    """Whether a server holds the directory."""
    with holding(path) as free:
        return not free


@contextlib.contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Hold the directory for a while, if nobody else does; gives whether it is so. Raises as `hold` does."""
    held = hold(path)
    try:
        yield held is not None
    finally:
        if held is not None:
            let_go(held)


def hold(path: Path) -> int | None:
    """Take the lock on the directory itself, which a server holds all its life; None if another has it.

    Raises `VanishedError`, and `StoreUnavailableError` where it cannot be locked at all. To be ended by `let_go`.
    The second lock beside the file `lock`: that file can be deleted, and a directory with a server in it cannot.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise VanishedError(str(path)) from None
    except OSError as error:
        raise StoreUnavailableError(str(path), f"cannot open it: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise StoreUnavailableError(str(path), f"cannot lock it: {error.strerror}") from None
    return descriptor


def hold_soon(path: Path) -> int | None:
    """Take that lock as `hold` does, but try for a moment: so long has it whoever looks whether a server is there."""
    deadline = time.monotonic() + _HOLD_SECONDS
    while (held := hold(path)) is None and time.monotonic() <= deadline:
        time.sleep(0.005)
    return held


def let_go(held: int) -> None:
    """Give up the lock on a directory, also in processes that were forked meanwhile and have copies of it."""
    fcntl.flock(held, fcntl.LOCK_UN)
    os.close(held)


def make(path: Path, settings: Settings) -> None:
    """Make the directory and the store in it, unless they are there.

    Several may do so at once: each file appears whole and stays as it appeared first. Raises `StoreUnavailableError`
    if it cannot be a store of this user, and `StoreFullError`, which leaves no new directory that is empty.
    """
    is_new = False
    try:
        with room_for(path, PAGE):
            path.mkdir(mode=0o700)
            is_new = True
    except FileExistsError:
        check(path, may_be_empty=True)
    except OSError as error:
        raise StoreUnavailableError(str(path), f"cannot make its directory: {error.strerror}") from None
    try:
        with room_for(path, PAGE):
            _fill(path, settings)
    except FileNotFoundError:
        raise VanishedError(str(path)) from None
    except StoreFullError:
        if is_new:
            with contextlib.suppress(OSError):  # somebody has begun a store in it
                path.rmdir()
        raise
    except OSError as error:
        raise StoreUnavailableError(str(path), f"cannot write into its directory: {error.strerror}") from None


def check(path: Path, *, may_be_empty: bool = False) -> None:
    """Raise `StoreUnavailableError` unless this is our directory with a store, or (if it may be) nothing, in it.

    Raises `VanishedError` if there is neither a store nor anything else.
    """
    before = check_owned(path)
    if (path / SETTINGS).exists():
        # Who makes a store shuts the others out first, and filelock may make a directory anew that was just removed:
        # what counts is that others could enter it all the time.
        if before.st_mode & check_owned(path).st_mode & 0o077:
            raise StoreUnavailableError(str(path), f"others may enter it; if you trust what is in it: chmod 700 {path}")
        return
    others = sorted(name for name in _names(path) if name not in (LOCK, AUTHKEY) and not name.endswith(_UNFINISHED))
    if others and not (path / SETTINGS).exists():
        raise StoreUnavailableError(
            str(path), f"not a store: there are other things in this directory, as {others[0]!r}"
        )
    if not may_be_empty:
        raise VanishedError(str(path))


def read_settings(path: Path) -> Settings:
    """What was fixed at the store's creation. Raises `VanishedError`, `StoreUnavailableError`."""
    try:
        settings = Settings(**json.loads(_read_own(path, SETTINGS, _LARGEST_SETTINGS)))
        settings.check()
    except FileNotFoundError:
        raise VanishedError(str(path)) from None
    except (OSError, ValueError, TypeError) as error:
        reason = f"its file 'settings' cannot be read ({error}); {_ANEW}"
        raise StoreUnavailableError(str(path), reason) from None
    return settings


def read_key(path: Path) -> bytes:
    """The store's key. Raises `FileNotFoundError`, and `StoreUnavailableError` if others can read or wrote it."""
    key = _read_own(path, AUTHKEY, KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise _not_as_made(path, AUTHKEY)
    return key


def check_lock(path: Path) -> None:
    """Raise `StoreUnavailableError` if the file lock is a link, say, that somebody else made.

    (filelock before 3.20.1 follows it, and empties the file that it leads to.)
    """
    with contextlib.suppress(FileNotFoundError):
        facts = (path / LOCK).lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise _not_as_made(path, LOCK)


def socket_path(path: Path, epoch: int) -> Path:
    """Where the server of an epoch listens."""
    return path / f"socket-{epoch}"


def remove(path: Path) -> None:
    """Remove the directory and all in it, for whoever holds it. Who has its files mapped keeps them.

    The settings go nearly last: whoever is killed meanwhile leaves an empty store, and no heap of nameless files. The
    header goes behind the log, which would look like one that has lost it.
    """
    names = _names(path)
    for name in sorted(set(names) - set(_REMOVED_LAST)) + [name for name in _REMOVED_LAST if name in names]:
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            _remove_tree(entry)  # what a repair replaced or a compaction makes, or none of ours
        else:
            entry.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody makes a new store in it already
        path.rmdir()


def _remove_tree(path: Path) -> None:
    """Remove a directory, in which a compaction may be at work for a moment still."""
    deadline = time.monotonic() + _HOLD_SECONDS
    while True:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or time.monotonic() > deadline:
                raise
        else:
            return


def check_owned(path: Path) -> os.stat_result:
    """Raise `StoreUnavailableError` unless this is a directory of ours, and no link to one."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        raise VanishedError(str(path)) from None
    except OSError as error:
        raise StoreUnavailableError(str(path), f"cannot look at it: {error.strerror}") from None
    if not stat.S_ISDIR(facts.st_mode):
        raise StoreUnavailableError(str(path), "not a directory" + " but a link" * stat.S_ISLNK(facts.st_mode))
    if facts.st_uid != os.geteuid():
        raise StoreUnavailableError(str(path), f"belongs to user {facts.st_uid}, not to you (user {os.geteuid()})")
    if facts.st_mode & 0o700 != 0o700:
        raise StoreUnavailableError(str(path), f"you may not do all in it, though it is yours: chmod 700 {path}")
    return facts


def _read_own(path: Path, name: str, most: int) -> bytes:
    """What a file holds. Raises `FileNotFoundError`, and `StoreUnavailableError` unless it is ours alone."""
    try:
        descriptor = os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreUnavailableError(str(path), f"its file {name!r} cannot be opened: {error.strerror}") from None
    try:
        facts = os.fstat(descriptor)
        content = os.read(descriptor, most + 1) if stat.S_ISREG(facts.st_mode) else b""
    finally:
        os.close(descriptor)
    if not content or len(content) > most or facts.st_uid != os.geteuid():
        raise _not_as_made(path, name)
    if facts.st_mode & 0o077:
        reason = f"others may open its file {name!r}; if you trust what is in it: chmod 600 {path / name}"
        raise StoreUnavailableError(str(path), reason)
    return content


def _not_as_made(path: Path, name: str) -> StoreUnavailableError:
    instead = _ANEW if name == SETTINGS else "end its server and remove it: it is made anew"
    return StoreUnavailableError(str(path), f"its file {name!r} is not as it was made; {instead}")


def _names(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.iterdir()]
    except FileNotFoundError:
        raise VanishedError(str(path)) from None


def _fill(path: Path, settings: Settings) -> None:
    """Write key and settings by one descriptor of the directory: all goes into the same one, or nowhere."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _exists(SETTINGS, directory):
            os.fchmod(directory, 0o700)
            check(path, may_be_empty=True)  # again: others may have been quick
        _write_once(AUTHKEY, secrets.token_bytes(KEY_BYTES), directory)
        _write_once(SETTINGS, json.dumps(asdict(settings)).encode(), directory)
    finally:
        os.close(directory)


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_once(name: str, content: bytes, directory: int) -> None:
    if _exists(name, directory):
        return
    unfinished = f"{name}-{secrets.token_hex(4)}{_UNFINISHED}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(unfinished, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=directory)
