"""A process that has a journal for itself, without server and clients, and is there to be killed.

It notes what the journal says of each step in memory that outlives it, and ends when its parent does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from campaign.kills.notebook import Notebook
from campaign.kills.steps import CAP, Step
from maestro_shm.shared.journal import Journal

BEGUN: Final = b"b"
RECOVERED: Final = b"r"
PLANTED: Final = b"p"

_LONGEST: Final = 2000

Todo = Sequence[tuple[Step, bool]]
"""Steps, and of each whether it is sent again."""
BATCH: Final = 3
"""Steps that share one flush, in a journal that waits for the disk."""

Faults = Callable[[Callable[[], Any]], None]
"""Plants a fault into the child's journal, and has it call what it is given when the fault is done."""


def no_faults(_: Callable[[], Any]) -> None:
    """The journal as it is."""


class Child:
    """A process that recovers a store's files and does the steps, until it is killed."""

    def __init__(
        self, directory: Path, notebook: Notebook, todo: Todo, faults: Faults, *, waits_for_disk: bool
    ) -> None:
        self._said, said = os.pipe()
        alive, self._alive = os.pipe()
        notebook.clear()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._said)
            os.close(self._alive)
            _end_after(partial(_work, directory, notebook, todo, faults, said, alive, waits_for_disk), said)
        os.close(said)
        os.close(alive)

    def wait_for(self, word: bytes) -> bool:
        """Whether it says this word before it ends."""
        while said := os.read(self._said, 1):
            if said == word:
                return True
        return False

    def kill(self) -> str:
        """End it; what comes back says how it ended by itself before that, if it did."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        with os.fdopen(self._said, "rb") as pipe:
            said = pipe.read().lstrip(BEGUN + RECOVERED + PLANTED)
        os.close(self._alive)
        code = os.waitstatus_to_exitcode(status)
        return "" if code == -signal.SIGKILL else said.decode() or f"a journal's process ended by itself, with {code}"


def batches(todo: Todo, *, waits_for_disk: bool) -> Iterator[Todo]:
    """The steps as they are acknowledged together. A reset, which settles what was before it, is one by itself."""
    batch: list[tuple[Step, bool]] = []
    for step, resent in todo:
        if batch and (step.is_reset or batch[-1][0].is_reset or not waits_for_disk or len(batch) == BATCH):
            yield batch
            batch = []
        batch.append((step, resent))
    yield batch


def _work(
    directory: Path,
    notebook: Notebook,
    todo: Todo,
    faults: Faults,
    said: int,
    alive: int,
    waits_for_disk: bool,  # noqa: FBT001 (a `partial` fills it)
) -> None:
    faults(lambda: os.write(said, PLANTED))
    os.write(said, BEGUN)
    journal = Journal.open(directory, max_commit_bytes=CAP, waits_for_disk=waits_for_disk)
    notebook.note(RECOVERED)
    os.write(said, RECOVERED)
    for batch in batches(todo, waits_for_disk=waits_for_disk):
        answers = [step.do(journal, resent=resent) for step, resent in batch]
        journal.settle()
        for answer in answers:
            notebook.note(answer)
    os.read(alive, 1)  # until it is killed, or its parent ends


def _end_after(work: Callable[[], None], said: int) -> NoReturn:
    try:
        work()
    except BaseException:  # noqa: BLE001 (whatever it is, it is told)
        os.write(said, f"a journal failed by itself: {traceback.format_exc()[-_LONGEST:]}".encode())
    finally:
        os._exit(1)
