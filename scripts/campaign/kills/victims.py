"""Workers that are there to be killed: in mid-call, in mid-send, in the handshake, at rest, with replies to fetch."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from processes import PATIENCE

import maestro_shm as ms
from campaign.kills.audit import Outcome, Sent, entry_of_event
from campaign.kills.notebook import Notebook
from maestro_shm import validation
from maestro_shm.shared import directory as directories
from maestro_shm.shared import handshake, wire
from maestro_shm.shared import header as head
from maestro_shm.shared.rows import Row
from maestro_shm.shared.transport import Line

READY: Final = "ready"
_LARGE: Final = 900_000
_HOARD: Final = 4000
"""Events of a commit that is asked for again and again: its reply is much longer than the question."""
_QUESTIONS: Final = 100


class Scene(NamedTuple):
    """Where a victim lives, what it notes, and what was there before it."""

    directory: Path
    notebook: Notebook
    hoard: tuple[bytes, list[Row]]


def make_hoard(directory: Path) -> tuple[tuple[bytes, list[Row]], Sent]:
    """A commit with a long reply, and how it is written down."""
    events = [ms.Event("hoard", number, "hoarded", number) for number in range(1, _HOARD + 1)]
    rows, commit_id = validation.pack_events(events, 1 << 20), os.urandom(16)
    line = _line(directory)
    reply = line.exchange(_request(1, [commit_id, rows, False]), time.monotonic() + PATIENCE)
    line.close()
    first, timestamps = wire.result_of(wire.unpack(reply))
    told = [
        entry_of_event(event)._replace(position=first + number, timestamp=timestamp)
        for number, (event, timestamp) in enumerate(zip(events, timestamps, strict=True))
    ]
    return (commit_id, rows), Sent(Outcome.ACKNOWLEDGED, tuple(told))


def _commit(scene: Scene, _: random.Random) -> None:
    with ms.connect(scene.directory) as store:
        scene.notebook.note(READY)
        while True:
            _commit_once(store, scene.notebook, "victim")


def _commit_in_threads(scene: Scene, _: random.Random) -> None:
    """With a connection for each: what the threads commit is refused, since notes are of one writer."""
    with ms.connect(scene.directory) as store:
        for _number in range(4):
            threading.Thread(target=_be_refused, args=(store, 10), daemon=True).start()
        scene.notebook.note(READY)
        _be_refused(store, 10)


def _send_much(scene: Scene, _: random.Random) -> None:
    with ms.connect(scene.directory) as store:
        scene.notebook.note(READY)
        _be_refused(store, _LARGE)


def _stop_in_mid_send(scene: Scene, choices: random.Random) -> None:
    message = _request(1, [os.urandom(16), [("victim", 0, None, bytes(_LARGE))], False])
    line = _line(scene.directory)
    _send(line, message[: choices.randrange(1, len(message))])
    _hold(scene, line)


def _ask_and_leave_it(scene: Scene, _: random.Random) -> None:
    """Ask for more than goes into the socket, and fetch nothing."""
    commit_id, rows = scene.hoard
    questions = b"".join(_request(number, [commit_id, rows[:1], True]) for number in range(_QUESTIONS))
    line = _line(scene.directory)
    _send(line, questions)
    _hold(scene, line)


def _rest(scene: Scene, _: random.Random) -> None:
    with ms.connect(scene.directory) as store:
        _commit_once(store, scene.notebook, "rested")
        _hold(scene, store)


def _shake_half_a_hand(scene: Scene, choices: random.Random) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_address(scene.directory))
        greeted = connection.recv(1000)[wire.LENGTH_BYTES :]
        answer = wire.frame(handshake.answer(directories.read_key(scene.directory), greeted))
        connection.send(answer[: choices.randrange(len(answer))])
        _hold(scene, connection)


def _shake_hands(scene: Scene, _: random.Random) -> None:
    scene.notebook.note(READY)
    while True:
        _line(scene.directory).close()


Victim = Callable[[Scene, random.Random], None]
KINDS: Final[tuple[Victim, ...]] = (
    *(_commit, _commit_in_threads, _send_much, _stop_in_mid_send),
    *(_ask_and_leave_it, _rest, _shake_half_a_hand, _shake_hands),
)

STAYING: Final = (_rest, _ask_and_leave_it, _stop_in_mid_send)
"""Those that hold something as long as they live."""


def _commit_once(store: ms.Store, notebook: Notebook, aggregate_id: str) -> None:
    event = ms.Event(aggregate_id, (store.last_sequence(aggregate_id) or 0) + 1, "made", os.urandom(8))
    notebook.note(Sent(Outcome.OPEN, (entry_of_event(event),)))
    stored = store.commit_events([event])
    notebook.note(Sent(Outcome.ACKNOWLEDGED, tuple(map(entry_of_event, stored))))


def _be_refused(store: ms.Store, size: int) -> NoReturn:
    while True:
        try:
            store.commit_events([ms.Event("hoard", 1, "late", bytes(size))])
        except ms.SequenceConflictError:
            continue
        except ms.StoreError as error:
            raise SystemExit(str(error)) from None  # a thread ends by it without a word
        raise AssertionError("a commit that came too late was stored")


def _hold(scene: Scene, _: object) -> NoReturn:
    """Hold a connection (one that nobody refers to any more is closed), and do nothing."""
    scene.notebook.note(READY)
    while True:
        time.sleep(PATIENCE)


def _request(number: int, arguments: list[Any]) -> bytes:
    return wire.pack([number, "journal", "commit_events", arguments])


def _send(line: Line, data: bytes) -> None:
    line._send(data, time.monotonic() + PATIENCE)


def _line(directory: Path) -> Line:
    return Line(_address(directory), directories.read_key(directory), time.monotonic() + PATIENCE)


def _address(directory: Path) -> str:
    header = head.open_header(directory)
    epoch = header.words[head.EPOCH]
    header.close()
    return str(directories.socket_path(directory, epoch))
