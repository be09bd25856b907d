"""Those who shall not get in, and those who are in and do no good: what they may take from the others is bounded."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Fork, cleaned_up, other_package, output_of, wait_until
from test_shared_bad_input import hung_up, made, soon

import maestro_shm as ms
from maestro_shm.shared import directory as directories
from maestro_shm.shared import handshake, peer, wire
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.peer import Peer
from maestro_shm.shared.transport import DeadlineError, Line, Listener

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


# Clients that do not go on


@pytest.fixture
def client_and_peer() -> Iterator[tuple[socket.socket, Peer]]:
    """A client that is in, and the server's end of its connection."""
    key = bytes(handshake.KEY_BYTES)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        theirs.settimeout(0)
        known = Peer(theirs, key, 1000)
        greeted = ours.recv(1000)[wire.LENGTH_BYTES :]
        ours.sendall(wire.frame(handshake.answer(key, greeted)))
        assert known.receive() == []
        ours.recv(1000)
        yield ours, known


def test_a_client_at_rest_may_be_silent_for_ever(client_and_peer: tuple[socket.socket, Peer]) -> None:
    client, known = client_and_peer
    assert known.deadline == math.inf
    client.sendall(wire.frame(b"whole"))
    assert known.receive() == [b"whole"]
    assert known.deadline == math.inf


def test_a_message_has_one_deadline_however_slowly_it_comes(client_and_peer: tuple[socket.socket, Peer]) -> None:
    client, known = client_and_peer
    client.sendall(wire.frame(b"slow")[:5])
    assert known.receive() == []
    deadline = known.deadline
    assert time.monotonic() < deadline <= time.monotonic() + peer.STALLED_SECONDS
    client.sendall(b"l")
    assert known.receive() == []
    assert known.deadline == deadline
    client.sendall(b"ow" + wire.frame(b"next")[:6])
    assert known.receive() == [b"slow"]
    assert deadline < known.deadline < math.inf
    client.sendall(b"xt")
    assert known.receive() == [b"next"]
    assert known.deadline == math.inf


def test_replies_have_one_deadline_until_they_are_fetched(client_and_peer: tuple[socket.socket, Peer]) -> None:
    client, known = client_and_peer
    known.send(bytes(1 << 21))
    deadline = known.deadline
    assert deadline < math.inf
    received = len(client.recv(1 << 20))
    known.flush()
    assert known.deadline == deadline
    while received < 1 << 21:
        received += len(client.recv(1 << 20))
        if known.unsent:
            known.flush()
    assert known.deadline == math.inf


SHORT_PATIENCE = """
from maestro_shm.shared import peer
peer.STALLED_SECONDS = 0.1
"""


def test_a_client_that_stops_within_a_message_or_fetches_no_replies_is_dropped(path: Path, tmp_path: Path) -> None:
    package = other_package(tmp_path, SHORT_PATIENCE)
    program = "import sys; sys.path.insert(0, sys.argv[1]); import maestro_shm as ms; ms.connect(sys.argv[2]).close()"
    with cleaned_up(path):
        output_of(program, package.parent, path)
        address, key = str(directories.socket_path(path, 1)), directories.read_key(path)
        resting, within, deaf = (Line(address, key, soon()) for _ in range(3))
        within._send(wire.pack([1, "journal", "reset", []])[:-1], soon())
        refused_request = wire.pack([1, "journal", "commit_snapshot", []])
        with pytest.raises((DeadlineError, ConnectionError)):  # it may be dropped before it gives up
            deaf._send(refused_request * 50_000, time.monotonic() + 1)
        assert hung_up(within._connection)
        assert hung_up(deaf._connection)
        assert wire.unpack(resting.exchange(refused_request, soon()))[:2] == (1, False)
        for line in (resting, within, deaf):
            line.close()


def as_many_as_get_in(address: str, key: bytes) -> list[Line]:
    lines = []
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            lines.append(Line(address, key, soon()))
    return lines


def test_clients_leave_the_server_the_descriptors_that_a_growing_log_needs(path: Path) -> None:
    with ms.connect(path) as store:
        server = store.stats()["server_pid"]
        resource.prlimit(server, resource.RLIMIT_NOFILE, (120, 120))
        address, key = str(directories.socket_path(path, 1)), directories.read_key(path)
        lines = as_many_as_get_in(address, key)
        assert 50 < len(lines) < 120
        for sequence in range(1, 100):
            store.commit_events([ms.Event("a", sequence, "made", bytes(900_000))])
        for line in lines:
            line.close()
        wait_until(lambda: store.stats()["clients"] == 1, "the others have left")
        Line(address, key, soon()).close()
        assert store.stats()["server_pid"] == server


# A server that does not end


@pytest.fixture
def line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A line on which there is always more to receive."""
    key = bytes(handshake.KEY_BYTES)
    listener = Listener(str(tmp_path / "socket"))
    listener.socket.settimeout(20)
    server = threading.Thread(target=admit_one, args=(listener, key))
    server.start()
    with contextlib.closing(listener), contextlib.closing(Line(listener.address, key, soon())) as line:
        server.join(20)
        monkeypatch.setattr(line, "_look", lambda: b"\xff")
        yield line


def admit_one(listener: Listener, key: bytes) -> None:
    connection, _ = listener.socket.accept()
    connection.settimeout(20)
    with connection:
        known = Peer(connection, key, 1000)
        while not known.is_known:
            known.receive()
        known.receive()  # it asks for a mailbox
        known.send(wire.pack([0, True, None]))


def test_a_reply_without_end_does_not_outlast_the_deadline(line_without_end: Line) -> None:
    with pytest.raises(DeadlineError):
        line_without_end._receive(time.monotonic() + 0.2)


def test_a_server_that_talks_on_instead_of_ending_does_not_outlast_the_deadline(line_without_end: Line) -> None:
    with pytest.raises(DeadlineError):
        line_without_end.wait_for_end(time.monotonic() + 0.2)
