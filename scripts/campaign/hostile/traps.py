"""Traps for whatever unpickles, and for whatever starts a program. What walks into them is counted in shared memory."""

from __future__ import annotations

import _pickle
import marshal
import mmap
import pickle
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

from campaign.planting import exchange

_BYTES, _CALLS, _GLOBALS, _PROGRAMS = range(4)
_STARTS: Final = {"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen"}


class Traps:
    """Made before the fork, set in the child, read by the parent."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def set(self) -> None:
        """From now on this process is watched; there is no way back."""
        for module in (pickle, _pickle, marshal):
            for name in ("load", "loads"):
                exchange(module, name, self._counting(getattr(module, name)))
        for module in (pickle, _pickle):
            exchange(module, "Unpickler", self._counting(module.Unpickler))
        exchange(pickle, "_Unpickler", self._counting(pickle._Unpickler))
        exchange(ForkingPickler, "loads", pickle.loads)
        sys.addaudithook(self._hear)

    @property
    def bytes_unpickled(self) -> int:
        """How many bytes went into an unpickler."""
        return self._counts[_BYTES]

    @property
    def sprung(self) -> int:
        """How often any of the traps was walked into."""
        return sum(self._counts[number] for number in (_CALLS, _GLOBALS, _PROGRAMS))

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            # Python itself reads its compiled modules by `marshal`.
            if not str(sys._getframe(1).f_globals.get("__name__")).startswith(("importlib", "_frozen_importlib")):
                self._counts[_CALLS] += 1
                self._counts[_BYTES] += len(args[0]) if isinstance(args[0], bytes | bytearray | memoryview) else 1
            return function(*args, **kwargs)

        return count

    def _hear(self, event: str, _: object) -> None:
        if event == "pickle.find_class":
            self._counts[_GLOBALS] += 1
        elif event in _STARTS:
            self._counts[_PROGRAMS] += 1
