"""Threads that take turns at each load and store of shared words, in an order that is chosen for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, Final

from processes import PATIENCE


class _Abandoned(BaseException):
    """Lets a thread end that nobody wakes up any more."""


@dataclass
class _Part:
    """One of those who take turns."""

    work: Callable[[], None]
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    awaited: Callable[[], object] | None = None
    is_done: bool = False
    error: BaseException | None = None

    @property
    def can_go_on(self) -> bool:
        return not self.is_done and (self.awaited is None or bool(self.awaited()))


class Interleaving:
    """Runs works as if they were on processors of their own; only one goes on at a time."""

    def __init__(self, choices: Sequence[int]) -> None:
        """Each choice is how far the turn goes on among those that can: 0 is to the same. Then it goes by one."""
        self._choices: Final = chain(choices, repeat(1))
        self._back = threading.Semaphore(0)
        self._own = threading.local()
        self._is_over = False

    def words(self, words: memoryview) -> Any:
        """The same words, with a turn for somebody else before each load and store."""
        return _Words(words, self.step)

    def step(self) -> None:
        """Let somebody else go on here."""
        if not self._is_over and (part := getattr(self._own, "part", None)) is not None:
            self._pause(part)

    def sleep_until(self, condition: Callable[[], object]) -> None:
        """Go on when this holds. Nothing else wakes up."""
        self._own.part.awaited = condition
        self._pause(self._own.part)
        self._own.part.awaited = None

    def run(self, *works: Callable[[], None]) -> bool:
        """Whether all came to their ends; not so where all that are left sleep for ever."""
        parts = [_Part(work) for work in works]
        threads = [threading.Thread(target=self._live, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        last = 0
        while ready := [number for number, part in enumerate(parts) if part.can_go_on]:
            later = [number for number in ready if number > last] + [number for number in ready if number <= last]
            last = later[(next(self._choices) - 1) % len(later)]
            parts[last].turn.release()
            assert self._back.acquire(timeout=PATIENCE)
        self._is_over = True
        for part in parts:
            part.turn.release()
        for thread in threads:
            thread.join(PATIENCE)
        for part in parts:
            if part.error is not None and not isinstance(part.error, _Abandoned):
                raise part.error
        return all(part.error is None for part in parts)

    def _live(self, part: _Part) -> None:
        self._own.part = part
        try:
            assert part.turn.acquire(timeout=PATIENCE)
            part.work()
        except BaseException as error:  # noqa: BLE001 (the test is to hear of it)
            part.error = error
        finally:
            part.is_done = True
            self._back.release()

    def _pause(self, part: _Part) -> None:
        self._back.release()
        assert part.turn.acquire(timeout=PATIENCE)
        if self._is_over:
            raise _Abandoned


class _Words:
    def __init__(self, words: memoryview, step: Callable[[], None]) -> None:
        self._words = words
        self._step = step

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return _Words(self._words[place], self._step)
        self._step()
        return self._words[place]

    def __setitem__(self, place: int, number: int) -> None:
        self._step()
        self._words[place] = number

    def tolist(self) -> list[int]:
        """As the processor reads them: one after the other."""
        return [self[place] for place in range(len(self._words))]
