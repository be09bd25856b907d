"""Counts of one kind of trial: what came of each, and the first few that went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

WRONG, UNDETECTED, DIED = "wrong", "undetected", "died"
"""Kinds of what must not be: a wrong outcome, damage that nobody saw, a process that a signal ended."""
_KEPT: Final = 5
_SHORT: Final = 200


@dataclass
class Tally:
    """How often which verdict was given. Wrong ones are told apart by their kind, and the first few are kept."""

    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def trials(self) -> int:
        return self.verdicts.total() + self.wrong.total()

    def note(self, verdict: str, count: int = 1) -> None:
        self.verdicts[verdict] += count

    def note_wrong(self, kind: str, error: BaseException | str, where: str) -> None:
        self.wrong[kind] += 1
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        if len(self.examples) < _KEPT:
            self.examples.append(f"{where}: {text}"[:_SHORT])

    def add(self, other: Tally) -> Self:
        self.verdicts += other.verdicts
        self.wrong += other.wrong
        self.examples = (self.examples + other.examples)[:_KEPT]
        return self

    def shown(self) -> str:
        """The verdicts with their counts, most frequent first, and an example of what went wrong."""
        parts = [f"{count:,} {verdict}" for verdict, count in self.verdicts.most_common()]
        return "; ".join([*parts, *self.examples[:1]])


def total(tallies: Iterable[Tally]) -> Tally:
    """All of them in one."""
    whole = Tally()
    for tally in tallies:
        whole.add(tally)
    return whole
