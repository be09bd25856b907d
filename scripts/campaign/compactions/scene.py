"""A store with pruners at work, and somebody who compacts it again and again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, Self

from processes import Fork, cleaned_up, compactors_of, kill, wait_until

import maestro_shm as ms
from campaign.compactions.ledger import Ledger
from campaign.compactions.pruner import Wrong, prune
from campaign.kills.logbook import words_of
from campaign.kills.notebook import Flag, Notebook
from maestro_shm.shared import header as head
from maestro_shm.shared.living import WHOLE_BYTES
from maestro_shm.shared.store import path_of

_PRUNERS: Final = 3
_NOTES: Final = 1 << 26
_PAUSE: Final = 0.02
"""Seconds between two compactions."""


class Scene:
    """Of one store. What is wrong with it is in the ledger."""

    def __init__(self, target: str, durability: str, choices: random.Random) -> None:
        self.directory: Final = path_of(target)
        self.ledger: Final = Ledger()
        self._target = target
        self._durability = durability
        self._choices = choices
        self._stack = ExitStack()
        self._pruners: list[Fork[None]] = []
        self._added = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            stack.enter_context(cleaned_up(self.directory))
            stack.callback(_end_compactors, self.directory)
            self.store = stack.enter_context(ms.connect(self._target, durability=self._durability))
            self._stop = stack.enter_context(Flag())
            for _ in range(_PRUNERS):
                self._add_pruner()
            self._caller = self._new_caller()
            self.wait(lambda: self.word(head.PUBLISHED) > WHOLE_BYTES, "the log is worth a compaction")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def is_over(self) -> bool:
        """Whether somebody has met something wrong."""
        return self._stop.is_raised()

    def word(self, number: int) -> int:
        """Of the header, as it is now."""
        return words_of(self.directory)[number]

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """As `wait_until`, but no longer than the pruners go on."""
        wait_until(lambda: self.is_over or condition(), what)

    def audit(self) -> None:
        """By a handle that is open all the time, and one that is opened only now."""
        self.ledger.audit(self.store)
        with ms.connect(self._target) as fresh:
            self.ledger.audit(fresh)

    def kill_a_pruner(self) -> None:
        """Another one, with other streams, takes its place."""
        self._pruners.pop(self._choices.randrange(len(self._pruners))).kill()
        self._add_pruner()

    def kill_the_caller(self) -> None:
        """What compacts the store goes on by itself, and the next caller may come while it does."""
        self._caller.kill()
        self._caller = self._new_caller()

    def end(self) -> None:
        """Let all of them come to their ends."""
        self._stop.raise_it()
        for fork in (*self._pruners, self._caller):
            fork.result()
        wait_until(lambda: not compactors_of(self.directory), "what compacts the store has ended")

    def notebook(self) -> Notebook:
        """A new one, whose notes go into the ledger."""
        notebook = self._stack.enter_context(Notebook(_NOTES))
        self.ledger.follow(notebook)
        return notebook

    def _add_pruner(self) -> None:
        self._added += 1
        choices = random.Random(self._choices.random())
        work = partial(prune, self._target, f"pruner-{self._added}", choices, self.notebook(), self._stop)
        self._pruners.append(self._stack.enter_context(Fork(work)))

    def _new_caller(self) -> Fork[None]:
        return self._stack.enter_context(Fork(partial(_compact, self._target, self.notebook(), self._stop)))


def _compact(target: str, notebook: Notebook, stop: Flag) -> None:
    """Again and again; whatever is killed meanwhile, only that it cannot be done now is no fault."""
    with ms.connect(target) as store:
        while not stop.is_raised():
            try:
                store.compact()
            except ms.StoreUnavailableError:
                time.sleep(_PAUSE)
            except ms.StoreError as error:
                notebook.note(Wrong(f"a compaction failed: {type(error).__name__}: {error}"))
                stop.raise_it()
            time.sleep(_PAUSE)


def _end_compactors(directory: Path) -> None:
    for pid in compactors_of(directory):
        kill(pid)
