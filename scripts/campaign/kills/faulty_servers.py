"""Servers that do something wrong when a worker is gone: what the campaign has to notice."""

from __future__ import annotations

from typing import Final

_ON_DROP: Final = """
from maestro_shm.shared import wire
from maestro_shm.shared.server import LoopServer
drop, kept = LoopServer._drop, []

def drop_badly(server, peer, **facts):
    {fault}
    drop(server, peer, **facts)

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
