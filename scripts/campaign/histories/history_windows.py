"""Parts of a history that are histories by themselves, short enough to be checked some hundred times.

What lies between two commits in an order that explains a history is one too: whoever reads there sees what was before,
and the commits of the part.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right

from campaign.histories.linearizability import Checker, History


class Windows:
    """All parts of a history that the checker has found right."""

    def __init__(self, history: History, checked: Checker) -> None:
        self._history = history
        self._streams = checked.streams
        points = checked.points
        self._rows = sorted((row for row in range(len(points)) if points[row] >= 0), key=points.__getitem__)
        self._points = [points[row] for row in self._rows]

    def choose(self, choices: random.Random, commits: int) -> History:
        """One of so many commits, anywhere in it."""
        stored = self._history.commits
        count = min(commits, len(stored))
        first = choices.randint(1, len(stored) - count + 1)
        last = first + count - 1
        begin, end = bisect_left(self._points, 2 * first), bisect_right(self._points, 2 * last + 1)
        operations = self._history.operations.rows(self._rows[begin:end])
        part = list(stored[first - 1 : last])
        aggregates = {*operations.aggregate, *(row.aggregate for commit in part for row in commit.rows)}
        return History(operations, part, first, self._streams.before(first, aggregates))
