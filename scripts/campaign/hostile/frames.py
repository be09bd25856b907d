"""Mutated frames before and after the handshake, from clients to the server and from a false server to clients."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from campaign.check import Finding, Run, comes_to_light
from campaign.hostile.assault import HONEST, Assault
from campaign.hostile.false_server import at_the_client
from campaign.planting import exchange
from maestro_shm.errors import StoreUnavailableError
from maestro_shm.shared import draft, handshake, journal, mailboxes, wire
from maestro_shm.shared.mailboxes import LARGEST_MESSAGE
from maestro_shm.shared.peer import Peer
from maestro_shm.shared.server import Late, LoopServer

_PLANTED_MESSAGES: Final = 1_800
_PLANTED_PATIENCE: Final = 3.0


def frames(run: Run) -> Iterator[Finding]:
    yield _at_the_server(run)
    yield at_the_client(run)


def _at_the_server(run: Run) -> Finding:
    real = Assault(run, "real")
    real.go(run.count(full=1_000_000, quick=4_000))
    print("  " + ", ".join(f"{count:,} {kind}" for kind, count in real.record.outcomes.most_common()))
    for kind, example in real.record.examples.items():
        print(f"  {kind}: {example}")
    caught = [name for name in _PLANTED if comes_to_light(partial(_catches, run, name))]
    for name in set(_PLANTED) - set(caught):
        print(f"  not caught: {name}")
    others = ", ".join(f"{count} {kind}" for kind, count in real.faults.items() if kind != "died") or "no other fault"
    return Finding(
        figure=f"{real.record.outcomes.total():,} mutated frames before and after the handshake, "
        f"{real.served_honestly:,} honest commits and reads between",
        goal="0 crashes, 0 bytes unpickled",
        found=f"{real.faults['died']} crashes, {real.traps.bytes_unpickled} bytes unpickled, {others}, "
        f"{real.growth >> 20} MB more memory",
        met=not real.faults and not real.traps.bytes_unpickled,
        planted=f"{len(caught)} of {len(_PLANTED)}",
        caught_all=len(caught) == len(_PLANTED),
    )


def _catches(run: Run, name: str, attempt: int) -> bool:
    plant, kinds = _PLANTED[name]
    planted = Assault(run, f"{name} {attempt}", plant, _PLANTED_PATIENCE, most_faults=1)
    planted.go(_PLANTED_MESSAGES)
    return any(planted.faults[kind] for kind in kinds)


# Servers with a fault


def _before_answering(harm: Callable[[LoopServer, bytes], bytes | None]) -> Callable[[], None]:
    """Let the server do harm with each request; what that returns is its answer, if it is any."""

    def plant() -> None:
        answer = LoopServer._answer

        def harmful(server: LoopServer, payload: bytes) -> tuple[int, bytes | Late]:
            instead = harm(server, payload)
            return answer(server, payload) if instead is None else (0, instead)

        exchange(LoopServer, "_answer", harmful)

    return plant


def _unpickle(_: LoopServer, payload: bytes) -> None:
    with contextlib.suppress(Exception):
        pickle.loads(payload)


def _die(_: LoopServer, payload: bytes) -> None:
    if len(payload) > 5000:
        os._exit(1)


_hoard: list[bytes] = []


def _keep(_: LoopServer, payload: bytes) -> None:
    _hoard.append(payload + b"x" * (1 << 18))


def _tell_all(_: LoopServer, payload: bytes) -> bytes | None:
    try:
        number, ident, _method, arguments = wire.unpack(payload)
        len(arguments[1] if ident == "journal" else ())
    except (wire.ProtocolError, ValueError):
        return None
    except (TypeError, IndexError):
        error = StoreUnavailableError("store", f'Traceback (most recent call last):\n  File "{__file__}", line 1')
        return wire.payload_of(wire.refusal(number, error))
    return None


def _swallow(_: LoopServer, payload: bytes) -> bytes | None:
    return b"" if _is_marked(payload) else None


def _mistake(_: LoopServer, payload: bytes) -> bytes | None:
    return wire.payload_of([123, True, None]) if _is_marked(payload) else None


def _is_marked(payload: bytes) -> bool:
    """Whether it is one of those requests with which the server errs; an honest one is not, it would wait for long."""
    return len(payload) % 50 == 7 and HONEST.encode() not in payload


def _believe_everything() -> None:
    for module in (journal, draft):
        exchange(module, "refusal", lambda *_: None)
    exchange(draft, "change_refusal", lambda *_: None)


def _with_each_letter(harm: Callable[[LoopServer, Peer, int, bytes], object]) -> Callable[[], None]:
    """Let the server do something else with a letter where that returns anything true."""

    def plant() -> None:
        right = LoopServer._open

        def harmful(server: LoopServer, peer: Peer, mailbox: int) -> None:
            if not harm(server, peer, mailbox, server._mail.request(mailbox)):
                right(server, peer, mailbox)

        exchange(LoopServer, "_open", harmful)

    return plant


def _leave_unread(_server: LoopServer, _peer: Peer, _mailbox: int, payload: bytes) -> bool:
    return _is_marked(payload)


def _answer_in_another(server: LoopServer, _peer: Peer, mailbox: int, payload: bytes) -> bool:
    if _is_marked(payload):
        others = [number for number in server._owners if number != mailbox]
        server._mail.reply(others[0], wire.payload_of([0, True, None]))
        return True
    return False


def _believe_the_size(server: LoopServer, _peer: Peer, mailbox: int, _payload: bytes) -> None:
    place = mailboxes._start(mailbox) // 8 + mailboxes._REQUEST_SIZE
    if server._mail._words[place] > LARGEST_MESSAGE:
        os._exit(1)


def _unpickle_letter(server: LoopServer, _peer: Peer, _mailbox: int, payload: bytes) -> None:
    _unpickle(server, payload)


def _hear_who_was_dropped() -> None:
    """A request by mail ends the line, and its ring is read then."""

    def attend(server: LoopServer, peer: Peer) -> None:
        server._deal_with(peer, peer.flush if peer.unsent else server._receive, *([] if peer.unsent else [peer]))

    exchange(LoopServer, "_attend", attend)


def _greet_everybody() -> None:
    admit = Peer._admit

    def polite(peer: Peer, answered: bytes) -> None:
        try:
            admit(peer, answered)
        except wire.ProtocolError:
            peer.send(wire.frame(b"who are you?"))
            raise

    exchange(Peer, "_admit", polite)


def _let_everybody_in() -> None:
    exchange(handshake, "accepts", lambda *_: True)


_PLANTED: Final[dict[str, tuple[Callable[[], Any], tuple[str, ...]]]] = {
    "unpickles": (_before_answering(_unpickle), ("unpickled",)),
    "dies": (_before_answering(_die), ("died",)),
    "keeps what it is sent": (_before_answering(_keep), ("grew",)),
    "tells tracebacks": (_before_answering(_tell_all), ("talkative",)),
    "does not answer": (_before_answering(_swallow), ("silent", "mistaken", "unreadable")),
    "answers somebody else": (_before_answering(_mistake), ("mistaken",)),
    "stores what it should not": (_believe_everything, ("wrote wrongly",)),
    "unpickles letters": (_with_each_letter(_unpickle_letter), ("unpickled",)),
    "leaves letters unread": (_with_each_letter(_leave_unread), ("silent",)),
    "answers in another's mailbox": (_with_each_letter(_answer_in_another), ("silent", "mistaken")),
    "believes a letter's size": (_with_each_letter(_believe_the_size), ("died",)),
    "hears whom it has dropped": (_hear_who_was_dropped, ("died",)),
    "talks to strangers": (_greet_everybody, ("open",)),
    "lets strangers in": (_let_everybody_in, ("open",)),
}
