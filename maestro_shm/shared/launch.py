"""Starting a server: a fresh interpreter in a session of its own, never a fork of the user's program.

The interpreter forks once more by itself and its first process ends at once, so that the server is nobody's child:
no zombie is left, and nobody gets its SIGCHLD. Until it is ready it talks through a pipe; what it says there when it
fails goes into the error.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from multiprocessing import spawn
from pathlib import Path
from typing import IO, Final

import filelock
import msgpack

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.shared import wire

READY: Final = b"maestro_shm: ready\n"
"""The server's last word through the pipe."""
FAILED: Final = b"maestro_shm: failed\n"
"""Or this, and the error behind it as a reply."""
_PROGRAM: Final = (
    "import os, sys\n"
    "if os.fork(): os._exit(0)\n"
    "sys.path += sys.argv[2:]\n"
    "from maestro_shm.shared.process import main\n"
    "main(sys.argv[1])\n"
)


_COMPACTION: Final = (
    "import sys\nsys.path += sys.argv[2:]\nfrom maestro_shm.shared.compactor import main\nmain(sys.argv[1])\n"
)


class SilentError(StoreUnavailableError):
    """A server ended before it could say anything, as one does that is killed while it starts."""


class Compactor:
    """A process that compacts a store, beside its server."""

    def __init__(self, directory: Path, output: int = subprocess.DEVNULL) -> None:
        """Start it. Where nobody asks for its output, what it complains of goes where our own complaints do."""
        # As a server is started, see below.
        command = [_executable(directory), "-I", "-S", "-c", _COMPACTION, str(directory), *_import_paths()]
        try:
            self.process: Final = subprocess.Popen(  # noqa: S603 (our own program)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output == subprocess.DEVNULL else subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise StoreUnavailableError(str(directory), f"cannot start what compacts it: {error}") from None

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self.process.poll() is not None


def compact(directory: Path) -> None:
    """Let a process compact a store, and return when it has. Raises what it failed with; ends it when interrupted."""
    with Compactor(directory, subprocess.PIPE).process as process:
        try:
            said, _ = process.communicate()
        finally:
            process.kill()
    if not said.endswith(READY):
        _raise_what_it_said(said)
        reason = said.decode(errors="replace").strip() or "its process ended and said nothing"
        raise StoreUnavailableError(str(directory), f"it was not compacted: {reason}")


def launch(directory: Path, deadline: float) -> None:
    """Start a server for the store and return when it listens. Raises what kept it from starting."""
    executable = _executable(directory)
    # Isolated: neither the current directory nor the user's PYTHON* variables change what the server runs; and without
    # `site`, so that it runs the very package that its client runs, whatever else is installed.
    command = [executable, "-I", "-S", "-c", _PROGRAM, str(directory), *_import_paths()]
    try:
        process = subprocess.Popen(  # noqa: S603 (our own program)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise StoreUnavailableError(str(directory), f"cannot start a server: {error}") from None
    with process:
        assert process.stdout is not None  # noqa: S101 (for the type checker: it is a pipe)
        said = b""
        try:
            said = _listen(process.stdout, deadline)
        finally:
            if not said.endswith(READY):
                # The whole session, before anybody waits for it: the server is a child of the process started here.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
    if not said.endswith(READY):
        _raise_what_it_said(said)
        late = time.monotonic() >= deadline
        kind = StoreUnavailableError if said.strip() or late else SilentError
        raise kind(str(directory), _reason(said, late=late))


def is_server(command: bytes) -> bool:
    """Whether a process with this command line, as /proc has it, is a server of some store."""
    return _PROGRAM.encode() in command


def _executable(directory: Path) -> str:
    executable = os.fsdecode(spawn.get_executable() or "")
    if not executable:
        raise StoreUnavailableError(str(directory), "cannot start a server: sys.executable is not set")
    if getattr(sys, "frozen", False) and executable == sys.executable:
        # That is the user's program, which would start itself again and again.
        reason = "a frozen program cannot start a server by itself; name a Python by multiprocessing.set_executable()"
        raise StoreUnavailableError(str(directory), reason)
    return executable


def _raise_what_it_said(said: bytes) -> None:
    """Raise the error that the server failed with, if it could tell."""
    _, failed, reply = said.partition(FAILED)
    if failed:
        with contextlib.suppress(wire.ProtocolError):
            wire.result_of(wire.unpack(reply[wire.LENGTH_BYTES :]))


def _import_paths() -> list[str]:
    """Where the server finds what it imports beside the standard library."""
    files = (Path(__file__).parent, Path(str(msgpack.__file__)), Path(str(filelock.__file__)))
    return list(dict.fromkeys(str(file.parents[1]) for file in files))


def _listen(pipe: IO[bytes], deadline: float) -> bytes:
    """What comes through the pipe until the word that all is well, its end, or the deadline."""
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not said.endswith(READY) and selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                break
            said += data
    return said


def _reason(said: bytes, *, late: bool) -> str:
    text = said.decode(errors="replace").strip() or "it said nothing"
    how = "did not become ready in time" if late else "could not start"
    return f"its server {how}:\n{text}"
