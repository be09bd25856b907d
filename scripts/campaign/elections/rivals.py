"""Two real servers forced onto one directory: neither takes the lock, and, if so told, neither looks at the epoch.

The first epoch's server still has a client when the second's begins, as if no lock had kept it from beginning.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

from processes import Program, named_target

import maestro_shm as ms
from campaign.elections.racers import answered_by
from campaign.elections.reigns import Answer, Chronicle
from campaign.histories.stored import read_commits
from maestro_shm.options import DEFAULT_COMMIT_BYTES, DEFAULT_IDLE_TIMEOUT
from maestro_shm.shared import directory as directories
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.store import SharedStore, path_of

_TURNS: Final = 6
_SERVER: Final = """
    import os, sys
    import maestro_shm.shared.process
    from maestro_shm.shared import directory, journal
    assert callable(directory.hold) and callable(journal.Journal._check_is_writer)  # else nothing would be planted
    directory.hold = lambda path: os.open(path, os.O_RDONLY)
    if sys.argv[2] == "unchecked":
        journal.Journal._check_is_writer = lambda journal: None
    maestro_shm.shared.process.main(sys.argv[1])
"""


def refuse_each_other() -> bool:
    """Whether the overtaken server refuses to write, as it must where the lock alone has failed."""
    with ExitStack() as stack:
        stores, _ = _start_two(stack, "checked")
        try:
            _commit(stores[0], 0, 2)
        except ms.StoreUnavailableError as error:
            return "another server has taken over" in error.reason
        return False


def chronicle_of_both() -> Chronicle:
    """What their clients are answered, in turns, and what they leave, where nothing keeps them apart."""
    with ExitStack() as stack:
        stores, answers = _start_two(stack, "unchecked")
        for number in range(2, _TURNS):
            answers.append(_commit(stores[number % 2], number % 2, number))
        return Chronicle(answers, list(read_commits(stores[0].directory)))


def _start_two(stack: ExitStack, how: str) -> tuple[list[SharedStore], list[Answer]]:
    """A client of each, and the first answers."""
    target = stack.enter_context(named_target())
    directory = path_of(target)
    directories.make(directory, Settings(DEFAULT_COMMIT_BYTES, DEFAULT_IDLE_TIMEOUT))
    stores, answers = [], []
    for number in range(2):
        server = stack.enter_context(Program(_SERVER, directory, how))
        assert server.line() == "maestro_shm: ready"
        stores.append(stack.enter_context(SharedStore.shared(target)))
        answers.append(_commit(stores[number], number, number))
    return stores, answers


def _commit(store: SharedStore, writer: int, number: int) -> Answer:
    event = ms.Event(f"writer-{writer}", number + 1, "told", number)
    start = time.monotonic_ns()
    stored = store.commit_events([event])
    end = time.monotonic_ns()
    return Answer(number, start, end, stored[0].position or 0, *answered_by(store))
