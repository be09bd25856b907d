"""Intruders at a store's directory: it was there before, or something in it is not what it should be."""

from __future__ import annotations

import contextlib
import hmac
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, NoReturn
from uuid import uuid4

import filelock
from processes import Fork, cleaned_up, wait_until

from campaign.hostile.attempt import (
    Attempt,
    Door,
    become_nobody,
    connects,
    copy_of_key,
    give_away,
    let_through,
    make_store,
    read_plainly,
)
from campaign.hostile.served import Served
from campaign.planting import exchange
from maestro_shm.shared import directory as directories
from maestro_shm.shared import handshake, mapped, places, wire
from maestro_shm.shared.transport import Listener

_SECRET: Final = "dear diary"

# The directory


def _of_another_user(scratch: Path, door: Door) -> bool:
    path = scratch / "store"
    path.mkdir(mode=0o700)
    give_away(path)
    with cleaned_up(path):
        return connects(path, door)


def _served_by_another_user(scratch: Path, door: Door) -> bool:
    path = scratch / "store"

    def take_over() -> None:
        give_away(path)
        let_through(path)
        become_nobody()

    with cleaned_up(path), Served(path, take_over):
        return connects(path, door)


def _open_to_others(scratch: Path, door: Door) -> bool:
    path = scratch / "store"
    make_store(path)
    path.chmod(0o777)
    with cleaned_up(path):
        return connects(path, door)


def _filled_by_others(scratch: Path, door: Door) -> bool:
    """Files without the settings: what others could put there before the store was made."""
    path = scratch / "store"
    make_store(path)
    (path / directories.SETTINGS).unlink()
    path.chmod(0o777)
    with cleaned_up(path):
        return connects(path, door)


def _link(scratch: Path, door: Door) -> bool:
    path = scratch / "store"
    with Served(scratch / "elsewhere") as served:
        path.symlink_to(served.path)
        return connects(path, door)


def _link_in_shared_memory(scratch: Path, door: Door) -> bool:
    target = f"{places.SHM_SCHEME}torture-{uuid4().hex[:12]}"
    path = places.named_path(target)
    try:
        with Served(scratch / "elsewhere") as served:
            path.symlink_to(served.path)
            return connects(target, door)
    finally:
        path.unlink(missing_ok=True)


def _file(scratch: Path, door: Door) -> bool:
    (scratch / "store").write_text(_SECRET)
    return connects(scratch / "store", door) or (scratch / "store").read_text() != _SECRET


def _trust_all_directories() -> None:
    exchange(directories, "check", lambda *_, **__: None)


def _trust_all_that_is_there() -> None:
    _trust_all_directories()
    exchange(directories, "make", lambda *_: None)
    exchange(directories, "_read_own", read_plainly)


# The key


def _key_replaced(replace: Callable[[Path, Path], object]) -> Callable[[Path, Door], bool]:
    """An attempt with another file in place of the key; `replace` is given the key and a copy of it."""

    def attempt(scratch: Path, door: Door) -> bool:
        with Served(scratch / "store") as served, cleaned_up(served.path):
            key = served.path / directories.AUTHKEY
            copy = copy_of_key(served.path, scratch / "copy")
            key.unlink()
            replace(key, copy)
            with Fork(lambda: _feed(key, copy)):
                return connects(served.path, door)

    return attempt


def _feed(key: Path, copy: Path) -> None:
    """Write the key where a pipe is, as soon as somebody reads."""
    if key.is_fifo():
        key.write_bytes(copy.read_bytes())


def _file_of_another_user(key: Path, copy: Path) -> None:
    give_away(copy)
    os.link(copy, key)


def _readable(key: Path, copy: Path) -> None:
    copy.rename(key).chmod(0o644)


def _read_any_file() -> None:
    exchange(directories, "_read_own", read_plainly)


_KEYS: Final[dict[str, tuple[Callable[[Path, Path], object], Door | None, bool]]] = {
    "a link": (lambda key, copy: key.symlink_to(copy), _read_any_file, False),
    "a pipe": (lambda key, _: os.mkfifo(key, 0o600), _read_any_file, False),
    "readable by all": (_readable, _read_any_file, False),
    "another user's, by a hard link": (_file_of_another_user, _read_any_file, True),
    "a directory": (lambda key, _: key.mkdir(mode=0o700), None, False),
}

# Other files


def _socket(scratch: Path, door: Door) -> bool:
    """Somebody listens in the server's place, who does not know the key."""
    with Served(scratch / "store") as served:
        address = served.address
    Path(address).unlink()
    with cleaned_up(served.path), Fork(lambda: _agree(served.path, address)):
        wait_until(lambda: directories.is_served(served.path) and Path(address).exists(), "somebody listens")
        return connects(served.path, door)


def _agree(path: Path, address: str) -> NoReturn:
    """Greet everybody, and agree to everything."""
    directories.hold(path)
    listener = Listener(address)
    listener.socket.settimeout(None)
    while True:
        connection, _ = listener.socket.accept()
        with connection, contextlib.suppress(OSError):
            no_mailbox, done = wire.pack([0, True, None]), wire.pack([1, True, True])
            for said in (wire.frame(handshake.greeting()), wire.frame(bytes(32)), no_mailbox, done):
                connection.sendall(said)
                connection.recv(1000)


def _lock(scratch: Path, door: Door) -> bool:
    path, victim = scratch / "store", scratch / "diary"
    make_store(path)
    victim.write_text(_SECRET)
    (path / directories.LOCK).unlink(missing_ok=True)
    (path / directories.LOCK).symlink_to(victim)
    with cleaned_up(path):
        return connects(path, door) or victim.read_text() != _SECRET


def _header(scratch: Path, door: Door) -> bool:
    with Served(scratch / "store") as served, cleaned_up(served.path):
        victim = (served.path / "header").rename(scratch / "diary")
        (served.path / "header").symlink_to(victim)
        return connects(served.path, door)


def _log(scratch: Path, door: Door) -> bool:
    path = scratch / "store"
    make_store(path)
    victim = (path / "log-1-000000").rename(scratch / "diary")
    (path / "log-1-000000").symlink_to(victim)
    return _is_served(path, door)


def _server_log(scratch: Path, door: Door) -> bool:
    path, victim = scratch / "store", scratch / "diary"
    make_store(path)
    victim.write_text(_SECRET)
    (path / directories.SERVER_LOG).unlink()
    (path / directories.SERVER_LOG).symlink_to(victim)
    return _is_served(path, door) or victim.read_text() != _SECRET


def _is_served(path: Path, door: Door) -> bool:
    """Whether a server starts with it."""
    try:
        with Served(path, door):
            return True
    except AssertionError:
        return False


def _believe_every_server() -> None:
    exchange(hmac, "compare_digest", lambda *_: True)


def _follow_links() -> None:
    exchange(mapped, "_open", os.open)
    exchange(os, "O_NOFOLLOW", 0)


class _CarelessLock:
    """Locks as filelock once did: it opens what is there, and empties it."""

    def __init__(self, path: Path, **_: Any) -> None:
        self._path = path

    def acquire(self, **_: Any) -> AbstractContextManager[None]:
        self._path.write_bytes(b"")
        return nullcontext()


def _lock_carelessly() -> None:
    exchange(directories, "check_lock", lambda _: None)
    exchange(filelock, "FileLock", _CarelessLock)


ATTEMPTS: Final = (
    Attempt("squatted directory", "of another user", _of_another_user, _trust_all_directories, needs_root=True),
    Attempt(
        "squatted directory",
        "served by another user",
        _served_by_another_user,
        _trust_all_that_is_there,
        needs_root=True,
    ),
    Attempt("squatted directory", "open to others", _open_to_others, _trust_all_directories),
    Attempt("squatted directory", "filled by others", _filled_by_others, _trust_all_directories),
    Attempt("squatted directory", "a link", _link, _trust_all_that_is_there),
    Attempt("squatted directory", "a link in shared memory", _link_in_shared_memory, _trust_all_that_is_there),
    Attempt("squatted directory", "a file", _file, None),
    *(Attempt("symlinked key", name, _key_replaced(how), door, root) for name, (how, door, root) in _KEYS.items()),
)
FILES: Final = (
    Attempt("socket", "of somebody without the key", _socket, _believe_every_server),
    Attempt("lock", "a link", _lock, _lock_carelessly),
    Attempt("header", "a link", _header, _follow_links),
    Attempt("log", "a link", _log, _follow_links),
    Attempt("server's log", "a link", _server_log, _follow_links),
)
