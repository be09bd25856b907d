"""A program that opens and closes stores again and again, and tells what is left of it; warnings are errors in it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import maestro_shm as ms
from campaign.kills import footprint
from campaign.kills.footprint import Footprint
from maestro_shm.shared import creator as creators
from maestro_shm.shared import places
from maestro_shm.shared.reader import Reader
from maestro_shm.shared.store import path_of

_kept: Final[list[Any]] = []
"""What a planted fault leaves."""


def main(target: str, cycles: int, patience: float, fault: str) -> None:
    """Print how often the store was opened and closed, and what is not as it was before."""
    complaints: list[str] = []
    sys.unraisablehook = lambda caught: complaints.append(f"{type(caught.exc_value).__name__}: {caught.exc_value}")
    directories = [path_of(target)] if target else []
    _cycle(target, 0)  # what is imported and cached once is no leak
    before = _at_rest(directories, patience)
    for number in range(1, cycles + 1):
        _cycle(target, number)
    if fault:
        FAULTS[fault](target)
    left = _left(before, directories, patience)
    print(json.dumps([cycles, left + complaints]), flush=True)
    for undo in _kept:
        undo()


def _cycle(target: str, number: int) -> None:
    with ms.connect(target or None) as store:
        sequence = (store.last_sequence("a") or 0) + 1
        (stored,) = store.commit_events([ms.Event("a", sequence, "made", number)])
        if store.get_events("a", sequence) != [stored]:
            raise AssertionError(f"the event of cycle {number} was not read again")


def _at_rest(directories: list[Path], patience: float) -> Footprint:
    """The footprint as soon as there are no more servers than stores: a private one's ends a moment after it."""
    deadline = time.monotonic() + patience
    while (found := footprint.of_this_process(directories)).servers > len(directories) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def _left(before: Footprint, directories: list[Path], patience: float) -> list[str]:
    """What is different after a while: a server ends a moment after its store is gone."""
    deadline = time.monotonic() + patience
    while True:
        gc.collect()
        differences = footprint.of_this_process(directories).differences(before)
        if not differences or time.monotonic() > deadline:
            return differences
        time.sleep(0.01)


def _keep_a_descriptor(_: str) -> None:
    _kept.append(partial(os.close, os.open(os.devnull, os.O_RDONLY)))


def _keep_a_thread(_: str) -> None:
    stop = threading.Event()
    threading.Thread(target=stop.wait).start()
    _kept.append(stop.set)


def _keep_a_process(_: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    _kept.append(process.communicate)


def _keep_a_store(_: str) -> None:
    _kept.append(ms.connect().close)


def _keep_a_handle(target: str) -> None:
    store = ms.connect(target or None)
    _kept.append(store.close)


def _keep_a_mapping(target: str) -> None:
    """As a handle would that forgets its reader; a private store's server is gone then, and the files with it."""
    with ms.connect(target or None) as store:
        reader = Reader(Path(store.stats()["directory"]))
    _kept.append(reader.close)


def _keep_a_directory(_: str) -> None:
    path = places.new_private_path(creators.identity(os.getpid()))
    path.mkdir()
    _kept.append(path.rmdir)


def _keep_a_server(_: str) -> None:
    """Close the handle of a private store as one of a fork, which ends nothing."""
    store: Any = ms.connect()
    end, store._end_private = store._end_private, None
    store.close()

    def undo() -> None:
        store._end_private = end  # the store itself must live until here, or it would be ended with its last reference
        end()

    _kept.append(undo)


def _warn(_: str) -> None:
    """A file that nobody closes; Python warns when it goes."""
    open(os.devnull)  # noqa: SIM115, PTH123 (that is the fault)
    gc.collect()
    if not sys.warnoptions:
        raise AssertionError(f"warnings are no errors here: {warnings.filters[:2]}")


FAULTS: Final[dict[str, Callable[[str], None]]] = {
    fault.__name__: fault
    for fault in (
        *(_keep_a_descriptor, _keep_a_thread, _keep_a_process, _keep_a_store, _keep_a_handle),
        *(_keep_a_mapping, _keep_a_directory, _keep_a_server, _warn),
    )
}
