"""That a child is told from its parent, whoever has forked it."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable

import pytest

from maestro_shm.shared import own_process

FORKS: list[Callable[[], int]] = [os.fork, ctypes.PyDLL(None).fork]
"""The second as a server written in C forks: no hook of Python runs."""


def said_by_a_child(fork: Callable[[], int], say: Callable[[], int]) -> int:
    """What a child says, a small number."""
    if (child := fork()) == 0:
        try:
            os._exit(say())
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("fork", FORKS, ids=["python", "c"])
def test_a_child_is_another_process_and_so_is_its_child(fork: Callable[[], int]) -> None:
    known = own_process.note()
    assert own_process.own[0] == known == os.getpid()

    def differs() -> int:
        parent = own_process.note()
        return 2 * (own_process.own[0] == os.getpid()) + said_by_a_child(fork, lambda: own_process.own[0] != parent)

    assert said_by_a_child(fork, lambda: own_process.own[0] != known) == 1
    assert said_by_a_child(fork, differs) == 3
    assert own_process.own[0] == known


@pytest.mark.skipif(sys.platform != "linux", reason="a page that is wiped in a child is Linux's")
def test_no_system_call_tells_it_on_linux() -> None:
    assert isinstance(own_process.own, memoryview)


class Refusing(mmap.mmap):
    def madvise(self, *_: int) -> None:
        raise OSError(22, "Invalid argument")


class Ignoring(mmap.mmap):
    def madvise(self, *_: int) -> None:
        """As if it were done."""


@pytest.mark.parametrize("system", [Refusing, Ignoring])
@pytest.mark.parametrize("fork", FORKS, ids=["python", "c"])
def test_where_no_page_is_wiped_the_process_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, system: type[mmap.mmap], fork: Callable[[], int]
) -> None:
    monkeypatch.setattr(mmap, "mmap", system)
    asked = own_process._wiped_on_fork()
    known = os.getpid()
    asked[0] = known
    assert asked[0] == known
    assert said_by_a_child(fork, lambda: asked[0] == os.getpid() != known) == 1


def test_a_child_that_python_forks_is_told_by_a_hook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "own", memoryview(bytearray(8)).cast("Q"))  # which nobody wipes
    own_process.note()
    assert said_by_a_child(os.fork, lambda: own_process.own[0] == os.getpid()) == 1
