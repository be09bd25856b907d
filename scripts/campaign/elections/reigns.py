"""Whether there was only ever one server at a time: what clients were answered, held against what the log has.

A client knows who answered it by the socket that the answer came through: the system tells the process, the socket's
name the epoch. The log tells which epoch stored what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from campaign.histories.stored import Commit


class Rule(StrEnum):
    """What must not be."""

    FALL = "an epoch in the log that is below the one before it"
    RIVAL = "two processes, or more, in one epoch"
    OVERLAP = "an epoch that still answered when a later one had answered already"
    FORGERY = "an answer of an epoch before the one that stored it"
    LOST = "an acknowledged commit that is not in the log at its position"
    TWICE = "a commit that is in the log twice"


class Answer(NamedTuple):
    """A commit that succeeded. Times are of `time.monotonic_ns`."""

    identity: int
    start: int
    end: int
    position: int
    epoch: int
    server: int


@dataclass
class Chronicle:
    """All answers, and all commits in the order of the log."""

    answers: Sequence[Answer]
    commits: Sequence[Commit]


def breaches(chronicle: Chronicle) -> Iterator[Rule]:
    """The rules that are broken, each as often as it is."""
    answers, commits = chronicle.answers, chronicle.commits
    yield from (Rule.FALL for before, after in pairwise(commits) if before.epoch > after.epoch)
    reigns = {(answer.epoch, answer.server) for answer in answers}
    yield from (Rule.RIVAL for servers in Counter(epoch for epoch, _ in reigns).values() if servers > 1)
    copies = Counter(commit.identity for commit in commits)
    yield from (Rule.TWICE for count in copies.values() if count > 1)
    stored = {(commit.identity, commit.position): commit.epoch for commit in commits}
    for answer in answers:
        epoch = stored.get((answer.identity, answer.position))
        if epoch is None:
            yield Rule.LOST
        elif answer.epoch < epoch:  # a later one answers what was sent again
            yield Rule.FORGERY
    yield from _overlaps(answers)


def _overlaps(answers: Sequence[Answer]) -> Iterator[Rule]:
    """One for each answer that was asked for when a later epoch, or for a later position, had been answered."""
    ended = sorted(answers, key=lambda answer: answer.end)
    epoch = position = passed = 0
    for answer in sorted(answers, key=lambda answer: answer.start):
        while passed < len(ended) and ended[passed].end < answer.start:
            epoch, position = max(epoch, ended[passed].epoch), max(position, ended[passed].position)
            passed += 1
        if answer.epoch < epoch or answer.position < position:
            yield Rule.OVERLAP
