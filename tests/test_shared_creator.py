"""Who a private store belongs to, and whether that process lives."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest
from processes import is_gone, wait_until

from maestro_shm.shared import creator as creators


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_is_alive_until_it_ends_also_while_nobody_has_asked_for_it(sleeper: subprocess.Popen[bytes]) -> None:
    name = creators.identity(sleeper.pid)
    assert creators.is_identity(name)
    assert creators.pid_of(name) == sleeper.pid
    assert creators.is_alive(name)
    sleeper.kill()
    wait_until(lambda: is_gone(sleeper.pid), "the process is a zombie")
    assert not creators.is_alive(name)
    sleeper.wait()
    assert not creators.is_alive(name)


def test_a_later_process_of_the_same_number_is_another(sleeper: subprocess.Popen[bytes]) -> None:
    pid, started, namespace = creators.identity(sleeper.pid).split("-")
    assert not creators.is_alive(f"{pid}-{int(started) - 1}-{namespace}")


def test_a_process_of_another_namespace_counts_as_alive() -> None:
    assert creators.is_alive(f"{2**22 + 1}-1-1")


def test_the_end_of_another_process_than_the_one_meant_is_not_waited_for(sleeper: subprocess.Popen[bytes]) -> None:
    pid, started, namespace = creators.identity(sleeper.pid).split("-")
    assert creators.watch(f"{pid}-{int(started) - 1}-{namespace}") is None
    assert creators.watch(f"{pid}-{started}-1") is None


def test_a_process_that_cannot_be_looked_at_counts_as_alive(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = creators.identity(sleeper.pid)
    monkeypatch.setattr(creators, "_start_time", lambda _: None)
    assert creators.is_alive(name)
    unknown = creators.identity(sleeper.pid)
    assert creators.is_identity(unknown)
    monkeypatch.undo()
    assert creators.is_alive(unknown)


def test_the_end_of_a_process_can_be_waited_for(sleeper: subprocess.Popen[bytes]) -> None:
    descriptor = creators.watch(creators.identity(sleeper.pid))
    assert descriptor is not None
    try:
        assert not select.select([descriptor], [], [], 0)[0]
        sleeper.kill()
        assert select.select([descriptor], [], [], 30)[0]
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "name", [None, 5, "", "5", "5-6", "x-1-1", "5-6-7-8", "-1-2-3", "5-6-7\n", "99999999999-1-1", "\u0665-1-1"]
)
def test_what_is_no_name_of_a_process_is_told_apart(name: object) -> None:
    assert not creators.is_identity(name)
