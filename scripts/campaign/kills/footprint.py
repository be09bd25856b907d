"""All that this process has of stores, and all that exists because of it: what has to be the same before and after."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from processes import is_gone, open_descriptors

from maestro_shm.shared import creator as creators
from maestro_shm.shared import places

_SERVER: Final = b"maestro_shm.shared.process"
_STORE_FILE: Final = re.compile(r"/(header|(log|positions|index)-\d+-\d+)( \(deleted\))?$")


class Footprint(NamedTuple):
    """One look."""

    descriptors: int
    threads: int
    children: int
    mappings: int
    directories: int
    servers: int

    def differences(self, before: Footprint) -> list[str]:
        return [
            f"{name}: {now} after {then}"
            for name, now, then in zip(self._fields, self, before, strict=True)
            if now != then
        ]


def of_this_process(directories: list[Path]) -> Footprint:
    """The footprint, with the private stores of this process and those in some other directories."""
    tasks = Path("/proc/self/task")
    identity = creators.identity(os.getpid())
    return Footprint(
        descriptors=open_descriptors(),
        threads=len(list(tasks.iterdir())),
        children=sum(len((task / "children").read_text(encoding="ascii").split()) for task in tasks.iterdir()),
        mappings=sum(map(_is_of_a_store, Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())),
        directories=len(private_directories(identity)) + sum(path.exists() for path in directories),
        servers=len(servers_of_creator(identity)) + sum(len(_servers(os.fsencode(path))) for path in directories),
    )


def private_directories(creator: str) -> list[Path]:
    """The directories of the private stores of a process."""
    pattern = places.new_private_path(creator)
    return list(pattern.parent.glob(f"{pattern.name.rpartition('-')[0]}-*"))


def servers_of_creator(creator: str) -> list[int]:
    """The servers of the private stores of a process, also those that are only starting."""
    return _servers(f"private-{creator}-".encode())


def _servers(name: bytes) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes()
            if _SERVER in command and name in command:
                found.append(int(path.parent.name))
    return [pid for pid in found if not is_gone(pid)]


def _is_of_a_store(mapping: str) -> bool:
    return _STORE_FILE.search(mapping) is not None
