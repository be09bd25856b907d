"""Journals that do one thing wrong: what the campaign has to notice when a server, or a lone writer, has one.

Servers import it, too (see `in_servers`), so it needs nothing but the package.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final
from unittest import mock

from campaign.planting import servers_begin_with
from maestro_shm.errors import SequenceConflictError
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import Log
from maestro_shm.shared.rows import Row

_Reply = tuple[int, list[int]]
_Rows = Sequence[Row]
_store: Final = Journal.commit_events
_write: Final = Log.write


def _answer_only(journal: Journal, _commit_id: bytes, rows: _Rows) -> _Reply:
    """Acknowledge what is not stored."""
    clock, _, position, _ = journal._written
    return position + 1, [clock + number for number in range(1, len(rows) + 1)]


def _take_back(journal: Journal, commit_id: bytes, rows: _Rows) -> _Reply:
    """Acknowledge what is stored, and take it back."""
    before = journal._written
    reply = _store(journal, commit_id, rows, resent=False)
    journal._written = before
    journal._publish()
    return reply


def _store_twice(journal: Journal, commit_id: bytes, rows: _Rows) -> _Reply:
    reply = _store(journal, commit_id, rows, resent=False)
    again = [(name, _last_sequence(rows, name) + 1 + n, given, payload) for n, (name, _, given, payload) in _each(rows)]
    _store(journal, commit_id[::-1], again, resent=False)
    return reply


def _store_half(journal: Journal, commit_id: bytes, rows: _Rows) -> _Reply:
    """Acknowledge all and store a part."""
    position, timestamps = _store(journal, commit_id, rows[:-1] or rows, resent=False)
    return position, [*timestamps, timestamps[-1] + 1] if len(rows) > 1 else [timestamps[0] + 1]


def _store_in_two(journal: Journal, commit_id: bytes, rows: _Rows) -> _Reply:
    """Not all or nothing: each event is a commit of its own."""
    if len(rows) == 1:
        return _store_twice(journal, commit_id, rows)
    replies = [_store(journal, commit_id, [row], resent=False) for row in rows]
    return replies[0][0], [timestamp for _, timestamps in replies for timestamp in timestamps]


def _renumber(journal: Journal, commit_id: bytes, rows: _Rows) -> _Reply:
    position, timestamps = _store(journal, commit_id, rows, resent=False)
    return position + 1, timestamps


def _give_another_time(journal: Journal, commit_id: bytes, rows: _Rows) -> _Reply:
    position, timestamps = _store(journal, commit_id, rows, resent=False)
    return position, [timestamp + 1 for timestamp in timestamps]


def _store_and_refuse(journal: Journal, commit_id: bytes, rows: _Rows) -> _Reply:
    _store(journal, commit_id, rows, resent=False)
    raise SequenceConflictError(rows[0][0], rows[0][1], rows[0][1])


def _skip_a_position(journal: Journal, commit_id: bytes, rows: _Rows) -> _Reply:
    clock, aggregates, position, end = journal._written
    journal._written = clock, aggregates, position + 1, end
    return _store(journal, commit_id, rows, resent=False)


def _publish_unwritten(journal: Journal, commit_id: bytes, rows: _Rows) -> _Reply:
    """Publish a frame of which half was never written."""

    def write_half(log: Log, tail: int, offset: int, packed: bytes) -> None:
        _write(log, tail, offset, packed[: len(packed) // 2])

    with mock.patch.object(Log, "write", write_half):
        return _store(journal, commit_id, rows, resent=False)


def _each(rows: _Rows) -> Iterator[tuple[int, Row]]:
    return iter(enumerate(rows))


def _last_sequence(rows: _Rows, aggregate_id: str) -> int:
    return max(sequence for name, sequence, _, _ in rows if name == aggregate_id)


_Fault = Callable[[Journal, bytes, _Rows], _Reply]
_FAULTS: Final[dict[str, _Fault]] = {
    fault.__name__: fault
    for fault in (
        *(_answer_only, _take_back, _store_twice, _store_half, _store_in_two, _renumber, _give_another_time),
        *(_store_and_refuse, _skip_a_position, _publish_unwritten),
    )
}
NAMES: Final = tuple(_FAULTS)


def plant(name: str, chance: float, then: Callable[[], Any] = lambda: None) -> None:
    """Let the journals of this process do this wrong at some of their commits, and call `then` each time."""
    fault = _FAULTS[name]

    def commit_events(journal: Journal, commit_id: bytes, rows: _Rows, resent: object) -> _Reply:
        if resent or random.random() >= chance:
            return _store(journal, commit_id, rows, resent)
        try:
            return fault(journal, commit_id, rows)
        finally:
            then()

    Journal.commit_events = commit_events  # type: ignore[method-assign, assignment] # that is the fault


def in_servers(name: str, chance: float) -> AbstractContextManager[Any]:
    """Let the servers that this process and its forks start have such journals."""
    path = str(Path(__file__).parents[2])
    planting = f"sys.path.append({path!r})\nfrom campaign.kills import faulty_journal\n"
    planting += f"faulty_journal.plant({name!r}, {chance!r})\n"
    return servers_begin_with(planting)
