"""A store with its server: the real program, in a fork of this process, so that traps and planted faults may be set."""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from processes import PATIENCE, is_gone

from maestro_shm.shared import directory as directories
from maestro_shm.shared import header as head
from maestro_shm.shared import launch, process
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.transport import Line

_CAP: Final = 1 << 20
_IDLE_SECONDS: Final = 60.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Served:
    """One store and the process that serves it. To be used by `with`."""

    def __init__(self, path: Path, before: Callable[[], object] = int) -> None:
        """Start it; `before` runs in the server's process before anything else."""
        self.path = path
        directories.make(path, Settings(_CAP, _IDLE_SECONDS))
        self.key: Final = directories.read_key(path)
        reader, writer = os.pipe()
        self._reaped = False
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            _serve(path, writer, before)
        os.close(writer)
        try:
            self._wait_until_ready(reader)
        except BaseException:
            self.end()
            raise
        finally:
            os.close(reader)
        header = head.open_header(path)
        self.address: Final = str(directories.socket_path(path, header.words[head.EPOCH]))
        header.close()

    def line(self, seconds: float = PATIENCE) -> Line:
        """A line of somebody with the key."""
        return Line(self.address, self.key, time.monotonic() + seconds)

    @property
    def is_alive(self) -> bool:
        """Whether the process that was started still runs."""
        return not is_gone(self.pid)

    def own_memory(self) -> int:
        """Bytes of memory that only the server has; what it has mapped does not count."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    def descriptors(self) -> list[int]:
        """The descriptors that the server has open."""
        return sorted(map(int, os.listdir(f"/proc/{self.pid}/fd")))  # noqa: PTH208 (names are enough)

    def end(self) -> None:
        """Kill the server."""
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)  # a zombie takes it, too: nobody else reaps it
            os.waitpid(self.pid, 0)
            self._reaped = True

    def _wait_until_ready(self, reader: int) -> None:
        said = b""
        while launch.READY not in said:
            assert select.select([reader], [], [], PATIENCE)[0], f"a server hung at its start: {said!r}"
            data = os.read(reader, 1 << 16)
            assert data, f"a server could not start: {said.decode(errors='replace')}"
            said += data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def processor_seconds(pid: int) -> float:
    """How long a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _give_back_free_memory() -> None:
    """What earlier checks left free in this fork's heap would hide what the server comes to hold of its own."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _serve(path: Path, writer: int, before: Callable[[], object]) -> NoReturn:
    try:
        for standard in (1, 2):
            os.dup2(writer, standard)
        os.close(writer)
        _give_back_free_memory()
        before()
        process.main(str(path))
    except SystemExit:
        pass
    except BaseException:  # noqa: BLE001 (nothing may get out of the child; its log says it)
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)
