"""An attempt to get in, and what it is made with."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from processes import Fork

import maestro_shm as ms
from campaign.hostile.conversation import Conversation, Ended
from maestro_shm.shared import directory as directories
from maestro_shm.shared import wire

NOBODY: Final = 65_534
"""The other user: one who owns nothing."""
PATIENCE: Final = 15.0

Door = Callable[[], object]
"""Opens a door: it takes one guard away, in the process that has it."""


def shut() -> None:
    """The doors as they are."""


@dataclass(frozen=True)
class Attempt:
    """One way of trying, in a directory of its own, and the door that would have to be open."""

    way: str
    name: str
    gets_in: Callable[[Path, Door], bool]
    door: Door | None
    """None where no single door leads there, as with a file in place of a directory."""
    needs_root: bool = False


def is_let_in(address: str, answer: Callable[[bytes], bytes]) -> bool:
    """Whether a server carries out what is asked by somebody who answers its greeting so."""
    request = wire.pack([1, "journal", "commit_snapshot", [bytes(16), "intruder", 1, b"\xc0", False]])
    try:
        talk = Conversation(address, PATIENCE)
        try:
            talk.say(wire.frame(answer(talk.greeted)))
            talk.hear()
            talk.say(request)
            return wire.unpack(talk.hear())[:2] == (1, True)
        finally:
            talk.close()
    except (Ended, OSError, wire.ProtocolError):
        return False


def connects(path: Path | str, door: Door) -> bool:
    """Whether a client makes or finds a store there and uses it; in a fork, where a door may be open."""

    def connect() -> bool:
        door()
        try:
            with ms.connect(path, timeout=PATIENCE) as store:
                store.commit_snapshot(ms.Snapshot("intruded", 1, None))
        except ms.StoreUnavailableError:
            return False
        return True

    with Fork(connect) as fork:
        return fork.result()


def as_nobody(work: Callable[[], bool]) -> bool:
    """What the work comes to for another user."""

    def become_and_work() -> bool:
        become_nobody()
        with suppress(PermissionError):
            return work()
        return False

    with Fork(become_and_work) as fork:
        return fork.result()


def become_nobody() -> None:
    """Be the other user from now on."""
    codecs.lookup("ascii")  # Python loads it when it is first needed, from where nobody may read perhaps
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def give_away(path: Path) -> None:
    """Let the other user own a directory and all in it."""
    for entry in (path, *path.rglob("*")):
        os.chown(entry, NOBODY, NOBODY, follow_symlinks=False)


def make_store(path: Path) -> None:
    """A store that is served by nobody at the moment."""
    from campaign.hostile.served import Served

    with Served(path):
        pass


def let_through(path: Path) -> None:
    """Let everybody pass through a directory's parent, which a test's temporary one does not."""
    path.parent.chmod(0o711)


def read_plainly(path: Path, name: str, most: int) -> bytes:
    """Read a store's file without a look at it: a guard that is gone."""
    with (path / name).open("rb") as file:
        return file.read(most)


def copy_of_key(path: Path, to: Path) -> Path:
    """The key's content in another file."""
    to.write_bytes((path / directories.AUTHKEY).read_bytes())
    to.chmod(0o600)
    return to
