"""Faults planted into a true history: what `faults_of` has to find."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from campaign.exactly_once.outcomes import Commit, Conflict, Frames, NotNewer, Outcome, Stored, faults_of
from maestro_shm.shared.frame import EVENT

History = tuple[list[Commit], Frames]
_Plant = Callable[[random.Random, list[Commit], Frames], History]


def caught(
    random: random.Random, count: int, commits: Sequence[Commit], frames: Frames, *, with_rivals: bool = True
) -> int:
    """How many of some planted faults were found, beside what there was. Some need conflicts to begin with."""
    plants = _PLANTS + _PLANTS_OF_RIVALS * with_rivals
    before = faults_of(commits, frames)
    found = 0
    for number in range(count):
        kind, plant = plants[number % len(plants)]
        found += faults_of(*plant(random, list(commits), list(frames)))[kind] > before[kind]
    return found


def _stored(random: random.Random, commits: list[Commit]) -> Commit:
    return random.choice([commit for commit in commits if type(commit.outcome) is Stored])


def _frame_of(commit: Commit, frames: Frames) -> int:
    return next(number for number, entries in enumerate(frames) if entries[0].content == commit.content)


def _tell(commits: list[Commit], commit: Commit, outcome: Outcome) -> list[Commit]:
    return [replace(other, outcome=outcome) if other is commit else other for other in commits]


def _double(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    again = frames[_frame_of(_stored(random, commits), frames)]
    last = max(entry.place[0] for entries in frames for entry in entries)
    behind = tuple(
        replace(entry, sequence=entry.sequence + 2**40, place=(last + number, entry.place[1]))
        for number, entry in enumerate(again, 1)
    )
    return commits, [*frames, behind]


def _lose(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    del frames[_frame_of(_stored(random, commits), frames)]
    return commits, frames


def _halve(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    number = random.choice([number for number, entries in enumerate(frames) if len(entries) > 1])
    frames[number] = frames[number][:-1]
    return commits, frames


def _fall_silent(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    return _tell(commits, random.choice(commits), None), frames


def _conflict_with_itself(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    commit = _stored(random, [commit for commit in commits if commit.kind == EVENT])
    return _tell(commits, commit, Conflict(*commit.keys[0], commit.keys[0][1])), frames


def _conflict_with_nobody(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    commit = random.choice([commit for commit in commits if type(commit.outcome) is Conflict])
    return _tell(commits, commit, Conflict(*commit.keys[0], 2**50)), frames


def _deny(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    return _tell(commits, _stored(random, commits), Conflict("nobody", 1, 1)), frames


def _claim(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    commit = random.choice([commit for commit in commits if type(commit.outcome) in (Conflict, NotNewer)])
    return _tell(commits, commit, Stored(tuple((1, 1) for _ in commit.keys))), frames


def _misplace(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    commit = _stored(random, commits)
    assert type(commit.outcome) is Stored
    (position, timestamp), *rest = commit.outcome.places
    return _tell(commits, commit, Stored(((position + 1, timestamp), *rest))), frames


def _mistime(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    commit = _stored(random, commits)
    assert type(commit.outcome) is Stored
    (position, timestamp), *rest = commit.outcome.places
    return _tell(commits, commit, Stored(((position, timestamp + 1), *rest))), frames


def _exchange(random: random.Random, commits: list[Commit], frames: Frames) -> History:
    one = _stored(random, commits)
    other = _stored(random, [commit for commit in commits if commit.outcome != one.outcome])
    return _tell(_tell(commits, one, other.outcome), other, one.outcome), frames


_PLANTS: Final[tuple[tuple[str, _Plant], ...]] = (
    ("doubled", _double),
    ("missing", _lose),
    ("wrong", _halve),
    ("unresolved", _fall_silent),
    ("own", _conflict_with_itself),
    ("wrong", _deny),
    ("wrong", _misplace),
    ("wrong", _mistime),
    ("wrong", _exchange),
)
_PLANTS_OF_RIVALS: Final[tuple[tuple[str, _Plant], ...]] = (
    ("wrong", _conflict_with_nobody),
    ("missing", _claim),
)
