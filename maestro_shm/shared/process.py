"""The server process: how a fresh interpreter begins to serve a store, and which signals mean what to it.

It outlives whoever started it: it ignores what is typed at the terminal, and finishes its batch on SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from maestro_shm import options
from maestro_shm.errors import StoreError, StoreUnavailableError
from maestro_shm.shared import complaints, launch, mailboxes, wire
from maestro_shm.shared import creator as creators
from maestro_shm.shared import directory as directories
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.server import LoopServer, StoreManager
from maestro_shm.shared.transport import SERIALIZER


def main(path: str) -> NoReturn:
    """Serve the store in the directory; how a fresh interpreter begins."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what a thread of the user's program blocks is inherited
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    _allow_many_descriptors()
    directory = Path(path)
    try:
        server = _make_server(directory)
    except StoreError as error:
        os.write(1, launch.FAILED + wire.pack(wire.refusal(0, error)))
        sys.exit(1)
    server.leave_on_signal(_descriptor_of_sigterm())
    _say_ready(directory)
    server.serve_forever()
    sys.exit(0)


def _make_server(directory: Path) -> LoopServer:
    held = directories.hold_soon(directory)  # for as long as this process lives
    if held is None:
        raise StoreUnavailableError(str(directory), directories.HELD)
    settings = directories.read_settings(directory)
    for stale in directory.glob("socket-*"):
        stale.unlink()
    mailboxes.sweep(directory)
    waits_for_disk = settings.durability == options.POWER
    journal = Journal.open(directory, max_commit_bytes=settings.max_commit_bytes, waits_for_disk=waits_for_disk)
    StoreManager.register("journal", lambda: journal, exposed=wire.METHODS, create_method=False)
    address = str(directories.socket_path(directory, journal.epoch))
    server = StoreManager(address, directories.read_key(directory), SERIALIZER).get_server()
    server.guard(held, settings)
    if settings.creator is not None and (descriptor := creators.watch(settings.creator)) is not None:
        server.end_with(descriptor)
    return server


def _allow_many_descriptors() -> None:
    """Each client takes one, so take all that the system lets this user have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit beside
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptor_of_sigterm() -> int:
    """A descriptor that becomes readable when SIGTERM comes."""
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.settimeout(0)
    signal.set_wakeup_fd(wake.detach())
    signal.signal(signal.SIGTERM, lambda *_: None)
    return woken.detach()


def _say_ready(directory: Path) -> None:
    """Tell who started us, then talk to the log only."""
    out = os.dup(1)
    complaints.redirect_output(directory / directories.SERVER_LOG)
    with contextlib.suppress(BrokenPipeError):
        os.write(out, launch.READY)
    os.close(out)
