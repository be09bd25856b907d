"""Faults put into what a crowd was answered, or into the log: each certain to be one, with the rule that it breaks."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from campaign.elections.reigns import Answer, Chronicle, Rule

_NOBODY: Final = 1 << 30
"""No process has such a number."""


class Scene:
    """A chronicle to spoil: a copy, in the order of the answers and of the log."""

    def __init__(self, chronicle: Chronicle, choices: random.Random) -> None:
        self.answers = sorted(chronicle.answers, key=lambda answer: answer.start)
        self.commits = list(chronicle.commits)
        self.random = choices
        self.server_of = {answer.epoch: answer.server for answer in self.answers}

    def chronicle(self) -> Chronicle:
        """As it is by now."""
        return Chronicle(self.answers, self.commits)

    def choose_answer(self) -> tuple[int, Answer]:
        """One, and where it is; not of the first epoch nor of the last."""
        epochs = sorted(self.server_of)
        middle = [row for row, answer in enumerate(self.answers) if epochs[0] < answer.epoch < epochs[-1]]
        row = self.random.choice(middle)
        return row, self.answers[row]


def falling_epoch(scene: Scene) -> None:
    """A frame has the epoch before that of the frame before it."""
    place = scene.random.randrange(1, len(scene.commits))
    before = scene.commits[place - 1].epoch
    scene.commits[place] = scene.commits[place]._replace(epoch=before - 1)


def second_process(scene: Scene) -> None:
    """An answer came from another process of the same epoch."""
    row, answer = scene.choose_answer()
    scene.answers[row] = answer._replace(server=_NOBODY)
    scene.answers.append(answer._replace(start=answer.end + 1, end=answer.end + 2))


def late_answer(scene: Scene) -> None:
    """A server answered a call that began when the next one had answered."""
    row, answer = scene.choose_answer()
    later = min((other for other in scene.answers if other.epoch > answer.epoch), key=lambda other: other.end)
    scene.answers[row] = answer._replace(start=later.end + 1, end=later.end + 1 + answer.end - answer.start)


def early_answer(scene: Scene) -> None:
    """A server answered a call that ended before one began that the server before it answered."""
    row, answer = scene.choose_answer()
    former = max((other for other in scene.answers if other.epoch < answer.epoch), key=lambda other: other.start)
    length = answer.end - answer.start
    scene.answers[row] = answer._replace(start=former.start - 1 - length, end=former.start - 1)


def lost_commit(scene: Scene) -> None:
    """What was acknowledged is not in the log."""
    _, answer = scene.choose_answer()
    scene.commits = [commit for commit in scene.commits if commit.identity != answer.identity]


def doubled_commit(scene: Scene) -> None:
    """What was acknowledged is in the log again, at its end."""
    _, answer = scene.choose_answer()
    commit = next(commit for commit in scene.commits if commit.identity == answer.identity)
    last = scene.commits[-1]
    scene.commits.append(commit._replace(position=last.position + last.events, epoch=last.epoch))


def answer_before_its_time(scene: Scene) -> None:
    """An answer came from the server before the one that stored its commit."""
    row, answer = scene.choose_answer()
    stored = next(commit for commit in scene.commits if commit.identity == answer.identity)
    before = max(epoch for epoch in scene.server_of if epoch < stored.epoch)
    scene.answers[row] = answer._replace(epoch=before, server=scene.server_of[before])


Fault = Callable[[Scene], None]

FAULTS: Final[dict[Fault, Rule]] = {
    falling_epoch: Rule.FALL,
    second_process: Rule.RIVAL,
    late_answer: Rule.OVERLAP,
    early_answer: Rule.OVERLAP,
    lost_commit: Rule.LOST,
    doubled_commit: Rule.TWICE,
    answer_before_its_time: Rule.FORGERY,
}
