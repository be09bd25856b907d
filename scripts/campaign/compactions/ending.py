"""The end of a siege: one compaction undisturbed, nothing left over, and the files as sound as a store's can be."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from books import pretend_reboot
from processes import PATIENCE as _LONG
from processes import compactors_of, kill, servers_of, wait_until

import maestro_shm as ms
from campaign.compactions.pruner import Pruner
from campaign.compactions.scene import Scene
from campaign.compactions.stage import leavings
from maestro_shm.shared import header as head
from maestro_shm.shared.diagnosis import diagnose

PATIENCE: Final = _LONG
GRACE: Final = 0.3
"""Seconds after which the servers of a siege remove what a compaction has replaced."""
SHORT_GRACE: Final = f"from maestro_shm.shared import compaction_duty\ncompaction_duty._GRACE = {GRACE}\n"
_ALREADY: Final = "it is being compacted already"
_BURDEN: Final = 12 << 20
_LEAST_BACK: Final = 2 << 20
"""Of that burden so much has to go at least: the rest may be among the newest commits, which stay whole."""


def end(scene: Scene, choices: random.Random, patience: float) -> None:
    """What is wrong is in the ledger then."""
    faults = scene.ledger.faults
    scene.end()
    scene.audit()
    if faults:  # a store that is past use
        return
    try:
        faults += _compact(scene, choices)
    except ms.StoreError as error:
        faults.append(f"the last compaction: {type(error).__name__}: {error}")
    faults += [f"left over: {name}" for name in _left(lambda: leavings(scene.directory), patience)]
    scene.audit()
    _end_server(scene)
    faults += _damages(scene)
    pretend_reboot(scene.directory)
    scene.audit()
    _end_server(scene)
    faults += _damages(scene)


def _compact(scene: Scene, choices: random.Random) -> list[str]:
    """With nobody beside it that disturbs."""
    Pruner(scene.store, "last", choices, scene.notebook()).burden(_BURDEN)
    before, number = scene.word(head.PUBLISHED), scene.word(head.COMPACTIONS)
    while not _has_compacted(scene):
        wait_until(lambda: not compactors_of(scene.directory), "what the server has begun by itself has ended")
    back = before - scene.word(head.PUBLISHED)
    faults = [] if scene.word(head.COMPACTIONS) > number else ["the last compaction was none"]
    return faults if back >= _LEAST_BACK else [*faults, f"only {back:,} bytes came back by the last compaction"]


def _has_compacted(scene: Scene) -> bool:
    """False where the server had begun to do it by itself, as it does with a large log that is mostly dead."""
    try:
        scene.store.compact()
    except ms.StoreUnavailableError as error:
        if _ALREADY not in error.reason:
            raise
        return False
    return True


def _left(look: Callable[[], list[str]], patience: float) -> list[str]:
    deadline = time.monotonic() + patience
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _end_server(scene: Scene) -> None:
    for pid in servers_of(scene.directory):
        kill(pid)


def _damages(scene: Scene) -> list[str]:
    """Of the store, while nobody serves it."""
    found = diagnose(scene.directory)
    return ["there is no store"] if found is None else [f"damaged: {damage}" for damage in found.damages]
