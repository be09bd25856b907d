"""Those who shall not get in, and those who are in and do no good: what they may take from the others is bounded."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from processes import Fork
from test_shared_bad_input import made

import maestro_shm as ms
from maestro_shm.shared import directory as directories
from maestro_shm.shared import wire
from maestro_shm.shared.directory import Settings

# What lies in the directory


def refused(path: Path, what: str) -> bool:
    """Whether connecting ends with this error; in a fork, since a file that is none may block it for ever."""

    def attempt() -> str:
        try:
            ms.connect(path, timeout=20).close()
        except ms.StoreUnavailableError as error:
            return str(error)
        return "got in"

    with Fork(attempt) as fork:
        said = fork.result()
    assert what in said, said
    return True


@pytest.mark.parametrize("name", [directories.AUTHKEY, directories.SETTINGS])
@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "readable", "empty"])
def test_a_file_that_is_not_ours_alone_is_refused_and_never_waited_for(path: Path, name: str, kind: str) -> None:
    made(path)
    file = path / name
    other = path.parent / "other"
    file.rename(other)
    if kind == "pipe":
        os.mkfifo(file, 0o600)
    elif kind == "directory":
        file.mkdir(mode=0o700)
    elif kind == "link":
        file.symlink_to(other)
    elif kind == "readable":
        file.write_bytes(other.read_bytes())
        file.chmod(0o604)
    else:
        file.touch(0o600)
    assert refused(path, f"its file '{name}'")


def test_a_file_of_somebody_else_is_refused(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    made(path)
    os.chown(path / directories.SETTINGS, 12345, -1)
    assert refused(path, "'settings' is not as it was made")


def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_stays_as_it_is(path: Path) -> None:
    made(path)
    victim = path.parent / "letter.txt"
    victim.write_text("dear")
    (path / directories.LOCK).unlink(missing_ok=True)
    (path / directories.LOCK).symlink_to(victim)
    assert refused(path, "'lock' is not as it was made")
    assert victim.read_text() == "dear"


def test_what_is_put_into_an_open_directory_in_the_last_moment_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = os.fchmod

    def put_and_shut(descriptor: int, mode: int) -> None:
        (path / "header").touch()
        shut(descriptor, mode)

    path.mkdir()
    path.chmod(0o777)
    monkeypatch.setattr(os, "fchmod", put_and_shut)
    with pytest.raises(ms.StoreUnavailableError, match="not a store"):
        directories.make(path, Settings(4096, 30))
    assert [entry.name for entry in path.iterdir()] == ["header"]


# What a message may take


@pytest.mark.parametrize("length", [b"\xdd\x00\x07\xff\xff", b"\xdc\xff\xff"])
def test_arrays_that_are_announced_and_not_there_take_no_memory(length: bytes) -> None:
    def unpack() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(wire.ProtocolError):
            wire.unpack(length * 1000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    with Fork(unpack) as fork:
        assert fork.result() < 16_000  # kB


@pytest.mark.parametrize("reply", [(1, True), ("x" * 10_000,), (1, False, "x" * 10_000, ())])
def test_what_is_no_reply_is_named_in_short(reply: tuple[object, ...]) -> None:
    with pytest.raises(wire.ProtocolError) as caught:
        wire.result_of(reply)
    assert len(str(caught.value)) < 1000
