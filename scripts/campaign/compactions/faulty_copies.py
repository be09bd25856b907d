"""Compactions that do one thing wrong: what the check has to notice.

Servers and compactors import it, too (see `in_copies`), so it needs nothing but the package. A fault is such that the
figures, which a server compares before it goes over, stay as they are: at least now and then.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from campaign.planting import compactors_begin_with, exchange, servers_begin_with
from maestro_shm.shared import compaction_duty, recovery, succession
from maestro_shm.shared import header as head
from maestro_shm.shared.copyist import Copyist
from maestro_shm.shared.frame import EVENT, FLOOR, SNAPSHOT, Frame, Record
from maestro_shm.shared.living import Living
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.succession import Succession

_Records = Sequence[Record]
_append: Final = Copyist.append
_SELDOM: Final = 0.1
_OFTEN: Final = 0.5
_MOSTLY: Final = 0.8
_SOME_STREAMS: Final = b"0"
"""How the ids of those end that lose something."""


def _change_frames(change: Callable[[_Records], _Records]) -> None:
    def append(copyist: Copyist, frame: Frame, records: _Records) -> None:
        if changed := change(records):
            _append(copyist, frame, changed)

    exchange(Copyist, "append", append)


def _lose_events() -> None:
    _change_frames(lambda records: [record for record in records if record.kind != EVENT or not _now_and_then()])


def _lose_late_commits() -> None:
    """The server does not bring over what was committed since the copy."""
    _change_frames(lambda records: [] if random.random() < _OFTEN else records)


def _lose_floors() -> None:
    _change_frames(lambda records: [record for record in records if not _is_of_some(record, FLOOR)])


def _lose_snapshots() -> None:
    _change_frames(lambda records: [record for record in records if not _is_of_some(record, SNAPSHOT)])


def _exchange_positions() -> None:
    """Of the events of a commit, where they are of several streams."""

    def change(records: _Records) -> _Records:
        if len({record.key for record in records}) < len(records) or any(record.kind != EVENT for record in records):
            return records
        positions = [record.position for record in records]
        return [
            record._replace(position=position) for record, position in zip(reversed(records), positions, strict=True)
        ]

    _change_frames(change)


def _change_times() -> None:
    _change_frames(
        lambda records: [record._replace(timestamp=record.timestamp + _now_and_then()) for record in records]
    )


def _mix_bodies() -> None:
    """An event gets the body of another one."""
    last = b""

    def changed(record: Record) -> Record:
        nonlocal last
        if record.kind != EVENT or not record.payload:
            return record
        last, mixed = record.payload, last if last and _now_and_then() else record.payload
        return record._replace(payload=mixed)

    _change_frames(lambda records: list(map(changed, records)))


def _go_over_early() -> None:
    """The server does not wait until all that was committed is there, and does not compare."""
    exchange(Succession, "advance", lambda _: True)
    exchange(succession, "_SAME", ())


def _tell_nobody() -> None:
    """Who reads the former files does not hear of it."""

    def succeed(directory: Path, _: MappedFile) -> None:
        recovery.publish(directory)

    exchange(recovery, "succeed", succeed)


def _tell_nobody_after_a_kill() -> None:
    """A server ends before it has told who reads the former files, and the next one does not do so either."""

    def succeed(directory: Path, _: MappedFile) -> None:
        recovery.publish(directory)
        os.kill(os.getpid(), signal.SIGKILL)

    exchange(recovery, "succeed", succeed)
    exchange(recovery, "retire_replaced", lambda _: None)


def _believe_what_is_unfinished() -> None:
    """A server ends while it goes over, and the next one takes what is unfinished for the store."""
    recover, take_over = recovery.recover, recovery.take_over

    def end_now_and_then(directory: Path, former: memoryview) -> recovery.WriterFiles:
        files = take_over(directory, former)
        if random.random() < _MOSTLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return files

    def believe(directory: Path) -> recovery.WriterFiles:
        if (directory / recovery.UNFINISHED).exists():
            (directory / recovery.UNFINISHED).replace(directory / head.NAME)
        return recover(directory)

    exchange(recovery, "take_over", end_now_and_then)
    exchange(recovery, "recover", believe)


def _sweep_nothing() -> None:
    exchange(compaction_duty, "_remove", lambda _: None)


def _keep_what_is_dead() -> None:
    exchange(Living, "of", lambda _, __, records: records)


def _now_and_then() -> bool:
    return random.random() < _SELDOM


def _is_of_some(record: Record, kind: int) -> bool:
    return record.kind == kind and record.key.endswith(_SOME_STREAMS)


_IN_SERVERS: Final = (
    *(_lose_late_commits, _go_over_early, _tell_nobody, _tell_nobody_after_a_kill, _believe_what_is_unfinished),
    _sweep_nothing,
)
_IN_COMPACTORS: Final = (
    *(_lose_events, _lose_floors, _lose_snapshots, _exchange_positions, _change_times, _mix_bodies),
    _keep_what_is_dead,
)
_FAULTS: Final[dict[str, Callable[[], None]]] = {fault.__name__: fault for fault in (*_IN_COMPACTORS, *_IN_SERVERS)}
NAMES: Final = tuple(_FAULTS)


def plant(name: str) -> None:
    """Let this process do this wrong from now on."""
    _FAULTS[name]()


def in_copies(name: str) -> AbstractContextManager[Any]:
    """Let the servers, or the compactors, that this process and its forks start do this wrong."""
    path = str(Path(__file__).parents[2])
    planting = f"sys.path.append({path!r})\nfrom campaign.compactions import faulty_copies\n"
    planting += f"faulty_copies.plant({name!r})\n"
    begin_with = servers_begin_with if _FAULTS[name] in _IN_SERVERS else compactors_begin_with
    return begin_with(planting)
