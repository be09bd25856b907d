from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from processes import cleaned_up, kill, output_of

import maestro_shm as ms
from maestro_shm.shared import directory as directories
from maestro_shm.shared import header as head
from maestro_shm.shared import wire
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.transport import Line


@pytest.mark.parametrize(
    "target", ["", "http://x", "redis:", "postgres:x", "shm:", "shm:a/b", "shm:..", "shm:" + "x" * 65, "/tmp/a\0b"]
)
def test_a_target_of_an_unknown_scheme_or_a_bad_name_is_refused(target: str) -> None:
    with pytest.raises(ms.StoreUnavailableError) as caught:
        ms.connect(target)
    assert caught.value.target == target


@pytest.mark.parametrize("name", ["shm:x", "memory:", "http:x", "plain"])
def test_what_is_given_as_a_path_is_a_path_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with cleaned_up(tmp_path / name):
        ms.connect(Path(name)).close()
        assert (tmp_path / name / directories.SETTINGS).exists()
        ms.destroy(os.fsencode(name))  # type: ignore[arg-type] # what every os function takes
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "path", ["/tmp/" + "x" * 300, "/tmp/" + "x/" * 3000, "/nowhere/store", "/etc/passwd/store"], ids=len
)
def test_a_path_where_no_directory_can_be_is_refused(path: str) -> None:
    with pytest.raises(ms.StoreUnavailableError, match="cannot make its directory"):
        ms.connect(path)
    with pytest.raises(ms.StoreUnavailableError):
        ms.destroy(path)


def test_a_directory_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("dear")
    with pytest.raises(ms.StoreUnavailableError, match="not a store"):
        ms.connect(path)
    assert [entry.name for entry in path.iterdir()] == ["letter.txt"]


def test_a_file_and_a_link_are_refused(path: Path) -> None:
    path.write_text("")
    with pytest.raises(ms.StoreUnavailableError, match="not a directory"):
        ms.connect(path)
    path.unlink()
    path.symlink_to(path.parent)
    with pytest.raises(ms.StoreUnavailableError, match="a link"):
        ms.connect(path)


def test_a_directory_of_somebody_else_is_refused(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    path.mkdir()
    os.chown(path, 12345, -1)
    with pytest.raises(ms.StoreUnavailableError, match="belongs to user 12345"):
        ms.connect(path)


def made(path: Path) -> None:
    with ms.connect(path) as store:
        store.commit_events([ms.Event("a", 1, "made", None)])
        kill(store.stats()["server_pid"])


def test_a_store_that_others_may_enter_is_refused(path: Path) -> None:
    made(path)
    path.chmod(0o755)
    with pytest.raises(ms.StoreUnavailableError, match="chmod 700"):
        ms.connect(path)


@pytest.mark.parametrize(("version", "advice"), [(head.FORMAT_VERSION + 1, "upgrade maestro_shm"), (0, "too old")])
def test_files_of_another_format_are_refused(path: Path, version: int, advice: str) -> None:
    made(path)
    header = MappedFile.open(path / head.NAME, writable=True)
    header.words[head.FORMAT] = version
    header.close()
    with pytest.raises(ms.StoreUnavailableError, match=f"format {version}.*{advice}"):
        ms.connect(path)


@pytest.mark.parametrize("fault", ["mode", "length", "link"])
def test_a_key_that_is_not_as_it_was_made_is_refused(path: Path, fault: str) -> None:
    made(path)
    key = path / directories.AUTHKEY
    if fault == "mode":
        key.chmod(0o644)
    elif fault == "length":
        key.write_bytes(b"short")
    else:
        key.rename(path / "other")
        key.symlink_to("other")
    with pytest.raises(ms.StoreUnavailableError, match="authkey"):
        ms.connect(path)


@pytest.mark.parametrize(
    "settings",
    [
        "{",
        "[]",
        "{}",
        '{"max_commit_bytes": 4096}',
        '{"max_commit_bytes": "4096", "idle_timeout": 30}',
        '{"max_commit_bytes": 4096, "idle_timeout": true}',
        '{"max_commit_bytes": 4096, "idle_timeout": 30, "creator": 5}',
        '{"max_commit_bytes": 4096, "idle_timeout": 30, "creator": "me"}',
        '{"max_commit_bytes": 4096, "idle_timeout": 30, "colour": "red"}',
        "\udc80",
    ],
)
def test_settings_that_cannot_be_read_are_refused(path: Path, settings: str) -> None:
    made(path)
    (path / directories.SETTINGS).write_text(settings, errors="surrogateescape")
    with pytest.raises(ms.StoreUnavailableError, match="its file 'settings' cannot be read"):
        ms.connect(path)


def test_a_server_that_cannot_start_has_its_own_words_in_the_error() -> None:
    said = output_of(
        """
        import multiprocessing, maestro_shm as ms, os, stat, tempfile
        broken = os.path.join(tempfile.mkdtemp(), "python")
        open(broken, "w").write("#!/bin/sh\\necho no snakes here >&2; exit 3")
        os.chmod(broken, 0o700)
        multiprocessing.set_executable(broken)
        try:
            ms.connect()
        except ms.StoreUnavailableError as error:
            print(error)
        """
    )
    assert "could not start" in said
    assert "no snakes here" in said


def test_options_that_a_store_was_not_created_with_are_refused(path: Path) -> None:
    with ms.connect(path, max_commit_bytes=4096):
        ms.connect(path).close()
        with pytest.raises(ms.StoreUnavailableError, match="max_commit_bytes=4096, not 8192"):
            ms.connect(path, max_commit_bytes=8192)


BAD_SECONDS: tuple[Any, ...] = (-1, float("nan"), "1", True, None, [])


@pytest.mark.parametrize("seconds", [*BAD_SECONDS, 0, float("inf"), 1e300])
def test_a_timeout_that_is_no_time_is_refused(path: Path, seconds: Any) -> None:
    for target in (None, path):
        with pytest.raises(ValueError, match="timeout must be a number of seconds above 0"):
            ms.connect(target, timeout=seconds)
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0"):
        ms.destroy(path, timeout=seconds)
    assert not path.exists()


@pytest.mark.parametrize("seconds", [seconds for seconds in BAD_SECONDS if seconds is not None])
def test_an_idle_timeout_that_is_no_time_is_refused(path: Path, seconds: Any) -> None:
    with pytest.raises(ValueError, match="idle_timeout must be a number of seconds from 0 to"):
        ms.connect(path, idle_timeout=seconds)
    assert not path.exists()


def test_a_server_may_be_told_to_stay_for_ever(path: Path) -> None:
    ms.connect(path, idle_timeout=float("inf")).close()
    with pytest.raises(ms.StoreUnavailableError, match="idle_timeout=inf, not 30"):
        ms.connect(path, idle_timeout=30)


def test_an_unknown_option_is_refused(path: Path) -> None:
    with pytest.raises(TypeError, match="colour"):
        ms.connect(path, colour="red")
    assert not path.exists()


def test_reset_of_a_lasting_store_needs_leave(path: Path) -> None:
    with ms.connect(path) as store, pytest.raises(ms.StoreUnavailableError, match="allow_reset=True"):
        store.reset()


# Strangers at the socket


@pytest.fixture
def served(path: Path) -> Iterator[tuple[ms.Store, str, bytes]]:
    with ms.connect(path) as store:
        before = store.stats()["server_pid"]
        yield store, str(directories.socket_path(path, 1)), directories.read_key(path)
        store.commit_events([ms.Event("honest", 1, "served", None)])
        assert store.stats()["server_pid"] == before


def soon() -> float:
    return time.monotonic() + 20


def hung_up(connection: socket.socket) -> bool:
    connection.settimeout(20)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


Served = tuple[ms.Store, str, bytes]


def test_a_client_with_the_wrong_key_is_not_let_in(served: Served) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        Line(served[1], bytes(32), soon())


@pytest.mark.parametrize("said", [b"", wire.frame(b"x" * 64), wire.frame(b"x" * 129), b"\xff" * 200, b"\0" * 4])
def test_a_stranger_is_dropped_whatever_it_says(served: Served, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(served[1])
        stranger.sendall(said)
        started = time.monotonic()
        assert hung_up(stranger)
        assert time.monotonic() - started < 20


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_that_a_client_sends_is_unpickled(served: Served, tmp_path: Path) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        Line(served[1], served[2], soon()).exchange(wire.frame(pickle.dumps(Evil(tmp_path / "touched"))), soon())
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "message",
    [
        b"\xc1",
        b"\x93\x01",
        msgpack.packb({"a": 1}),
        msgpack.packb([1, 2, 3]),
        msgpack.packb([1, None, "shutdown", []]),
        msgpack.packb([1, None, "create", ["journal"]]),
        msgpack.packb([1, "journal", "close", []]),
        msgpack.packb([1, "journal", ["commit_events"], []]),
        msgpack.packb([1, "journal", "__init__", []]),
        b"\xdd\x7f\xff\xff\xff",
        b"\x91" * 900,
    ],
)
def test_a_client_that_breaks_the_protocol_is_dropped(served: Served, message: bytes) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        Line(served[1], served[2], soon()).exchange(wire.frame(message), soon())


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [1],
        [["a", 1, None]],
        [["a", "1", None, b""]],
        [["a", -1, None, b""]],
        [["a", 1, "now", b""]],
        [["a", 1, None, "text"]],
        [[1, 1, None, b""]],
        [["a", 1, None, bytes(1 << 20)]],
        [["a", 2**63, None, b""]],
        [["a", True, None, b""]],
        [["a", 1.5, None, b""]],
        [["a", 1, -1, b""]],
        [["a", 1, 2**62 + 2**61, b""]],
        [["a", 1, True, b""]],
        [["", 1, None, b""]],
        [["x" * 65_536, 1, None, b""]],
        [["a", 1, None, None]],
        [["a", 2, None, b""], ["a", 1, None, b""]],
        "text",
    ],
)
def test_a_commit_that_no_client_of_ours_would_send_changes_nothing(served: Served, rows: Any) -> None:
    line = Line(served[1], served[2], soon())
    message = wire.pack([7, "journal", "commit_events", [bytes(16), rows, False]])
    reply = wire.unpack(line.exchange(message, soon()))
    line.close()
    assert reply[:2] == (7, False)
    assert served[0].stats()["events"] == 0
    assert served[0].last_sequence("a") is None


@pytest.mark.parametrize("row", ["", "a", [], ["a"], ["a", 1, None], ["a", 1, None, b"", b""], 5, None])
def test_a_row_of_a_commit_that_is_sent_again_is_checked_as_well(served: Served, row: Any) -> None:
    line = Line(served[1], served[2], soon())
    message = wire.pack([7, "journal", "commit_events", [bytes(16), [row], True]])
    reply = wire.unpack(line.exchange(message, soon()))
    line.close()
    assert reply[:3] == (7, False, "InvalidEventError")


def test_a_message_over_the_limit_is_not_waited_for(served: Served) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        Line(served[1], served[2], soon()).exchange((1 << 30).to_bytes(4) + bytes(1 << 16), soon())


@pytest.mark.parametrize("commit_id", [b"", bytes(15), bytes(17), "x" * 16, None, 5])
def test_a_commit_without_a_right_id_changes_nothing(served: Served, commit_id: Any) -> None:
    line = Line(served[1], served[2], soon())
    rows = [["a", 1, None, b""]]
    for message in (["commit_events", [commit_id, rows, False]], ["commit_snapshot", [commit_id, "a", 1, b"", False]]):
        reply = wire.unpack(line.exchange(wire.pack([7, "journal", *message]), soon()))
        assert reply[:2] == (7, False)
    line.close()
    assert served[0].stats()["events"] == 0
    assert served[0].get_snapshot("a") is None


@pytest.mark.parametrize("number", [None, "1", 1.0, True, [[[]]]])
def test_a_request_without_a_number_is_none(served: Served, number: Any) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        Line(served[1], served[2], soon()).exchange(wire.pack([number, "journal", "reset", []]), soon())
