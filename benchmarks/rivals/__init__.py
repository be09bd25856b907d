"""Everyone who takes part, ours first; the order is the order of play within a round."""

from __future__ import annotations

from typing import Final

from benchmarks.rivals.eventsourcing_recorders import PopoRecorder, SqliteRecorder
from benchmarks.rivals.lmdb_file import LmdbFile
from benchmarks.rivals.maestro import Maestro
from benchmarks.rivals.manager_dict import ManagerDict
from benchmarks.rivals.manager_object import ManagerObject
from benchmarks.rivals.ping_pong import PingPong
from benchmarks.rivals.rival import Contender
from benchmarks.rivals.sqlite_file import SqliteFile

ALL: Final[tuple[type[Contender], ...]] = (
    Maestro,
    PingPong,
    ManagerObject,
    ManagerDict,
    LmdbFile,
    SqliteFile,
    PopoRecorder,
    SqliteRecorder,
)
