"""The process that compacts a store: low in priority, beside the server, which goes on.

It is a client of the server, and copies by the mapped files. Whoever kills it at any time leaves the store as it is.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Final, NoReturn

from maestro_shm.errors import StoreError, StoreUnavailableError
from maestro_shm.shared import election, launch, wire
from maestro_shm.shared import header as head
from maestro_shm.shared.compaction import Compaction
from maestro_shm.shared.file_leases import FileLeases
from maestro_shm.shared.proxy import StoreProxy

_LOWEST_PRIORITY: Final = 19
_TIMEOUT: Final = 30.0
_LEASES: Final = "leases-compaction"
_LOOK: Final = 0.002
"""Seconds between two looks whether the server has gone over."""


def main(path: str) -> NoReturn:
    """Compact the store in the directory; how a fresh interpreter begins."""
    os.umask(0o077)
    os.nice(_LOWEST_PRIORITY)
    try:
        compact(Path(path))
    except StoreError as error:
        _say_why_not(error)
        sys.exit(1)
    except OSError as error:
        _say_why_not(StoreUnavailableError(path, f"cannot compact it: {error}"))
        sys.exit(1)
    os.write(1, launch.READY)
    sys.exit(0)


def _say_why_not(error: StoreError) -> None:
    """To the server's log, or to who waits."""
    os.write(2, f"compaction: {error}\n".encode(errors="backslashreplace"))
    os.write(1, launch.FAILED + wire.pack(wire.refusal(0, error)))


def compact(directory: Path) -> None:
    """Compact a store, by its server, which is started if there is none.

    Raises `StoreUnavailableError` if somebody else does, or where it is reset meanwhile; `StoreFullError` where there
    is no room for what is live beside what there is. The store is as it was then.
    """
    with closing(FileLeases(directory / _LEASES)) as leases:
        if not leases.take(0):
            raise StoreUnavailableError(str(directory), "it is being compacted already")
        # Then hang up: it takes long, and a store that is compacted by itself may be destroyed meanwhile.
        election.attach(directory, time.monotonic() + _TIMEOUT).close()
        compaction = Compaction(directory)
        compaction.run()
        line = election.attach(directory, time.monotonic() + _TIMEOUT)
        with closing(StoreProxy(directory, _TIMEOUT, line)) as proxy:
            proxy.adopt(compaction.number, compaction.epoch, compaction.source_end)
            while proxy.goes_over():
                time.sleep(_LOOK)
        if not _has_gone_over(directory, compaction.number):
            reason = "its server did not go over to what was compacted; see its file server.log"
            raise StoreUnavailableError(str(directory), reason)


def _has_gone_over(directory: Path, number: int) -> bool:
    with closing(head.open_header(directory)) as header:
        return header.words[head.INCARNATION] >= number
