"""Whether the index and the positions of a store fit its log. They have no CRCs of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from maestro_shm.shared import header as head
from maestro_shm.shared import index as tables
from maestro_shm.shared.damage import Damage
from maestro_shm.shared.frame import EVENT
from maestro_shm.shared.index import Index
from maestro_shm.shared.log import Log
from maestro_shm.shared.positions import Positions
from maestro_shm.shared.salvage import Piece

_Key = tuple[int, bytes]
_Newest = dict[_Key, int]
"""The offset of the newest record of each kind and key."""


def misfit(directory: Path, words: memoryview, live: Iterable[Piece], unpublished: Iterable[Piece]) -> Damage | None:
    """The first thing in index or positions that is not as the log has it.

    A file that is missing, or not as long as it was made, is none: the next server builds both anew.
    """
    log = Log(directory, words[head.INCARNATION], writable=False)
    positions = Positions(directory, words[head.INCARNATION], writable=False)
    path = tables.path(directory, words[head.INCARNATION], words[head.GENERATION])
    try:
        table = Index.open(path, log)
    except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
        return None
    try:
        if not table.is_whole or not positions.are_there(words[head.LAST_POSITION]):
            return None
        newest: _Newest = {}
        return _misplaced(positions, live, newest) or _mislead(
            path, table, newest, unpublished, servers=words[head.EPOCH]
        )
    finally:
        table.close()
        positions.close()


def _misplaced(positions: Positions, live: Iterable[Piece], newest: _Newest) -> Damage | None:
    """Compare the positions of all events; and note the newest records on the way."""
    for piece in live:
        for record in piece.records:
            newest[record.kind, record.key] = record.offset
            if record.kind == EVENT and positions.offset(record.position) != record.offset:
                path, start = positions.place(record.position)
                return Damage(str(path), start, start + 8, "it leads to another place than the log's", may_lose=False)
    return None


def _mislead(path: Path, table: Index, newest: _Newest, unpublished: Iterable[Piece], *, servers: int) -> Damage | None:
    """Compare the table. It may lead to records already that are not published yet.

    And each server may have been killed when it had counted a slot and not taken it.
    """
    possible: defaultdict[_Key, set[int]] = defaultdict(set)
    for piece in unpublished:
        for record in piece.records:
            possible[record.kind, record.key].add(record.offset)
    fits = (
        0 <= table.used - sum(1 for mark in table.words[2::2] if mark) <= servers
        and len(newest) <= sum(1 for offset in table.words[3::2] if offset) <= len(newest.keys() | possible.keys())
        and all(_leads(table, key, {offset} | possible.get(key, set())) for key, offset in newest.items())
    )
    reason = "it leads to other records than the log's"
    return None if fits else Damage(str(path), 0, len(table.words) * 8, reason, may_lose=False)


def _leads(table: Index, key: _Key, offsets: set[int]) -> bool:
    mark = tables.fingerprint(*key)
    return any(table.locate(mark, offset) is not None for offset in offsets)
