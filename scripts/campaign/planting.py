"""Planting a fault: exchanging one piece of the store for another, in a process that is to have the fault."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from maestro_shm.shared import launch


def exchange(owner: Any, name: str, by: Any) -> None:
    """Exchange what a module or class has under a name. It must have it: else nothing would be planted."""
    assert hasattr(owner, name), f"{owner!r} has no {name!r} any more; a planted fault must be planted elsewhere"
    setattr(owner, name, by)


@contextlib.contextmanager
def servers_begin_with(source: str) -> Iterator[None]:
    """Let the servers that this process and its forks start run some more code first, as long as this lasts."""
    with _begins_with("_PROGRAM", source), compactors_begin_with(_handed_on()):
        yield


def compactors_begin_with(source: str) -> AbstractContextManager[Any]:
    """The same for the processes that compact a store, but for those that a server starts by itself."""
    return _begins_with("_COMPACTION", source)


def _begins_with(program: str, source: str) -> AbstractContextManager[Any]:
    before, start, end = getattr(launch, program).rpartition("main(")
    patch: AbstractContextManager[Any] = mock.patch.object(launch, program, before + source + start + end)
    return patch


def _handed_on() -> str:
    """What compacts a store starts its server, too, where there is none."""
    return f"from maestro_shm.shared import launch\nlaunch._PROGRAM = {launch._PROGRAM!r}\n"
