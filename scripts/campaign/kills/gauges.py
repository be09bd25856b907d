"""What a server holds: descriptors, clients, memory. A leak is what does not come back to what it was."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final, NamedTuple

from campaign.kills import logbook
from maestro_shm.shared import directory as directories
from maestro_shm.shared import header as head

MEMORY_BOUND: Final = 1 << 20
"""Bytes that a server may have more than before. Runs of 150 kills moved it by 200 to 500 KiB, one of 600 by 770."""
PLAIN_ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": str(1 << 15), "MALLOC_TRIM_THRESHOLD_": str(1 << 16)}
"""An environment in which, with glibc, a server's resident memory is what it uses: large blocks go back to the system.
By default it keeps them, some 1 to 50 MiB as chance has it: what looks like a leak, and what a leak can hide in."""
_READINGS: Final = 25


class Gauges(NamedTuple):
    """One reading."""

    server: int
    descriptors: int
    """Without those of the mapped files, of which there are more as the store grows."""
    clients: int
    memory: int
    """Bytes of its own, without the mapped files."""

    def leaks_since(self, before: Gauges) -> list[str]:
        """What is more now than it was."""
        found = [
            f"{name}: {now} after {then}"
            for name, now, then in zip(self._fields[:3], self[:3], before[:3], strict=True)
            if now != then
        ]
        if self.memory > before.memory + MEMORY_BOUND:
            found.append(f"memory: {self.memory:,} bytes after {before.memory:,}")
        return found


def read(directory: Path) -> Gauges:
    """The gauges of the server that a store's header tells of; one that has ended holds nothing."""
    words = logbook.words_of(directory)
    process = Path(f"/proc/{words[head.SERVER_PID]}")
    try:
        descriptors, memory = _descriptors(process, directory), _memory(process)
    except OSError:
        descriptors = memory = 0
    return Gauges(words[head.SERVER_PID], descriptors, words[head.CLIENTS], memory)


def lowest_memory(directory: Path) -> int:
    """The memory without that of the requests of one moment, which would hide a leak of their size."""
    lowest = read(directory).memory
    for _ in range(_READINGS):
        time.sleep(0.01)
        lowest = min(lowest, read(directory).memory)
    return lowest


def settled(directory: Path, before: Gauges, *, patience: float) -> list[str]:
    """What has not come back to what it was after a while."""
    deadline = time.monotonic() + patience
    while (leaks := read(directory).leaks_since(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return leaks


def _descriptors(process: Path, directory: Path) -> int:
    count = 0
    for link in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = link.readlink()
            count += target.parent != directory or target.name == directories.SERVER_LOG
    return count


def _memory(process: Path) -> int:
    for line in (process / "status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            return int(value.split()[0]) << 10
    return 0  # a zombie
