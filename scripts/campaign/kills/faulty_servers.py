"""Servers that do something wrong when a worker is gone: what the campaign has to notice."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Final
from unittest import mock

from maestro_shm.shared import launch

_ON_DROP: Final = """
from maestro_shm.shared import wire
from maestro_shm.shared.server import LoopServer
drop, kept = LoopServer._drop, []

def drop_badly(server, peer):
    {fault}
    drop(server, peer)

LoopServer._drop = drop_badly
"""
_KEEP_THE_SOCKET: Final = "kept.append(peer.socket.dup())"
_KEEP_MEMORY: Final = "kept.append(b'x' * 100_000)"
_KEEP_THE_COUNT: Final = "peer.is_known = False"
_LEAVE: Final = "server._leave()"
_ANSWER_OTHERS: Final = """
    for other in server._peers - {peer}:
        other.send(wire.pack([0, True, None]))
"""
_LOSE_A_POSITION: Final = """
    clock, aggregates, position, end = server.journal._written
    server.journal._written = clock, aggregates, max(position - 1, 0), end
"""

WHEN_DROPPING: Final = tuple(
    _ON_DROP.format(fault=fault)
    for fault in (_KEEP_THE_SOCKET, _KEEP_MEMORY, _KEEP_THE_COUNT, _LEAVE, _ANSWER_OTHERS, _LOSE_A_POSITION)
)
"""What such servers run before they begin: they keep something of the worker, or let others feel that it is gone."""


def faulty_program(source: str) -> AbstractContextManager[Any]:
    """Let the servers that this process and its forks start run some more code first, as long as this lasts."""
    before, start, end = launch._PROGRAM.partition("main(")
    patch: AbstractContextManager[Any] = mock.patch.object(launch, "_PROGRAM", before + source + start + end)
    return patch
