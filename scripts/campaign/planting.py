"""Planting a fault: exchanging one piece of the store for another, in a process that is to have the fault."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from maestro_shm.shared import launch


def exchange(owner: Any, name: str, by: Any) -> None:
    """Exchange what a module or class has under a name. It must have it: else nothing would be planted."""
    assert hasattr(owner, name), f"{owner!r} has no {name!r} any more; a planted fault must be planted elsewhere"
    setattr(owner, name, by)


def servers_begin_with(source: str) -> AbstractContextManager[Any]:
    """Let the servers that this process and its forks start run some more code first, as long as this lasts."""
    before, start, end = launch._PROGRAM.partition("main(")
    patch: AbstractContextManager[Any] = mock.patch.object(launch, "_PROGRAM", before + source + start + end)
    return patch
