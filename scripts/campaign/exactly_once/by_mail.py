"""Commits by mail, to servers that are killed in the midst of an answer, answer late, or never.

What a request is to meet lies in a file, with bytes by which the server knows it; the next server finds what is left.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from processes import PATIENCE

import maestro_shm as ms
from campaign.exactly_once.drafts import Draft, Told, told_by
from campaign.exactly_once.outcomes import Commit
from campaign.exactly_once.trial import Done, Trial, Work
from campaign.planting import exchange, servers_begin_with
from maestro_shm.shared import wire
from maestro_shm.shared.store import SharedStore

_LITTLE_PATIENCE: Final = 0.3
"""Seconds that a reply is waited for which does not come."""
_KILLS: Final = ("before", "after", "within", "unrung")
_HOLDS: Final = ("late", "never")
_SERVER: Final = """
import os, signal, time
from pathlib import Path
from maestro_shm.shared import mailboxes
from maestro_shm.shared.server import LoopServer

fates = Path({fates!r})
commit_at_once, reply = LoopServer._commit_at_once, mailboxes.Mailboxes.reply
met = ""

def fate_of(payload):
    for file in sorted(fates.iterdir()):
        fate, content = file.read_text().split(" ", 1)
        if content.encode() in payload:
            file.rename(fates.parent / "met" / file.name)
            return fate
    return ""

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def commit_or_die(server, peer, mailbox, request):
    global met
    met = fate_of(request)
    if met == "before":
        die()
    return commit_at_once(server, peer, mailbox, request)

def reply_or_not(mail, number, message):
    global met
    fate, met = met, ""
    if fate == "after":
        die()
    elif fate == "within":
        place = mailboxes._start(number) + mailboxes._REPLY_AT
        mail._data[place : place + len(message)] = message
        die()
    elif fate == "late":
        time.sleep({late})
    must_ring = fate != "never" and reply(mail, number, message)
    return must_ring and fate != "unrung"

LoopServer._commit_at_once, mailboxes.Mailboxes.reply = commit_or_die, reply_or_not
"""


class _Fates:
    """What requests are to meet."""

    def __init__(self, scratch: Path) -> None:
        self._open = scratch / "open"
        self._met = scratch / "met"
        self._number = 0
        self._open.mkdir()
        self._met.mkdir()
        self.servers: Final = _SERVER.format(fates=str(self._open), late=2 * _LITTLE_PATIENCE)

    @property
    def met(self) -> int:
        """How many were met until now."""
        return len(list(self._met.iterdir()))

    def set(self, draft: Draft, fates: Sequence[str]) -> None:
        """What the next requests with a draft meet, one each."""
        for fate in fates:
            self._number += 1
            unfinished = self._met.parent / "unfinished"
            unfinished.write_text(f"{fate} {draft.content}")
            unfinished.rename(self._open / f"{self._number:06}")

    def spare(self) -> None:
        """Forget what was not met: it went by the socket."""
        for file in self._open.iterdir():
            file.unlink(missing_ok=True)


def commit_by_mail(work: Work) -> Done:
    """What came of so many commits that met something."""
    target, random, count = work
    commits: list[Commit] = []
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        fates = _Fates(Path(scratch))
        with servers_begin_with(fates.servers), ms.connect(target) as rival, ms.connect(target) as store:
            trial = Trial(random, rival, commits)
            while fates.met < count:
                trial.commit_anything()
                draft = trial.drafter.draft()
                trial.resolve(draft, partial(_ask, store, fates, draft, [_choice(random)]))
                fates.spare()
            counts["servers killed"] = rival.stats()["epoch"] - 1
        counts["mailed"] = fates.met
    return commits, counts


def _choice(random: random.Random) -> list[str]:
    """What a call meets: a reply that does not come in time, or kills one after the other."""
    if random.random() < 0.2:
        return [random.choice(_HOLDS)]
    return [random.choice(_KILLS) for _ in range(random.choice((1, 1, 2, 3, 4)))]


def _ask(store: ms.Store, fates: _Fates, draft: Draft, first: list[list[str]]) -> Told | None:
    """The first time with little patience if the reply does not come, then with as much as a server's start takes."""
    assert isinstance(store, SharedStore)
    meets = first.pop() if first else []
    fates.set(draft, meets)
    store._proxy._timeout = _LITTLE_PATIENCE if meets and meets[0] in _HOLDS else PATIENCE
    return told_by(store, draft)


def forget_what_was_sent(work: Work) -> Done:
    """The same by a client with a fault: it sends each commit as if it were for the first time."""
    payload_of = wire.payload_of

    def forgetful(message: list[Any]) -> bytes:
        if message[1] == "journal":
            *others, arguments = message
            message = [*others, [*arguments[:-1], False]]
        return payload_of(message)

    exchange(wire, "payload_of", forgetful)
    return commit_by_mail(work)
