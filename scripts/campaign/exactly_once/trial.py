"""Commits that are made again until their outcome is known, with rivals beside them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from processes import PATIENCE

import maestro_shm as ms
from campaign.exactly_once.drafts import Draft, Drafter, Told, told_by
from campaign.exactly_once.outcomes import Commit

Work = tuple[str, random.Random, int]
"""The store of one worker, its choices, and how much it has to do."""
Done = tuple[list[Commit], Counter[str]]
"""What one worker committed, and what it counted meanwhile."""


class Trial:
    """Commits that are made until they are told of, and their rivals."""

    def __init__(self, random: random.Random, rival: ms.Store, commits: list[Commit]) -> None:
        self._random = random
        self._rival = rival
        self._commits = commits
        aggregates = [f"aggregate-{number}" for number in range(6)]
        self.drafter = Drafter(random, rival, "a", aggregates)

    def resolve(self, draft: Draft, call: Callable[[], Told | None]) -> None:
        """Make the call again until it is told of; a rival comes before it, beside it, in between, or not at all."""
        comes = self._random.choice(("never", "never", "before", "beside", "between"))
        if comes == "before":
            self._come_before(draft)
        with ThreadPoolExecutor(1) as threads:
            beside = self.drafter.rival_of(draft) if comes == "beside" else None
            told_beside = threads.submit(told_by, self._rival, beside) if beside else None
            told = call()
            deadline = time.monotonic() + PATIENCE
            while told is None and time.monotonic() < deadline:
                if comes == "between":
                    comes = "never"
                    self._come_before(draft)
                told = call()
            self._commits.append(draft.told(told))
            if beside and told_beside:
                self._commits.append(beside.told(told_beside.result()))

    def commit_anything(self) -> None:
        """A commit that meets nothing."""
        draft = self.drafter.draft()
        self._commits.append(draft.told(told_by(self._rival, draft)))

    def _come_before(self, draft: Draft) -> None:
        rival = self.drafter.rival_of(draft)
        self._commits.append(rival.told(told_by(self._rival, rival)))
