"""The entries of two tables, side by side."""

from __future__ import annotations

from collections.abc import Iterator

Pair = tuple[str, bytes]
"""A key and its packed value."""


def side_by_side(one: Iterator[Pair], other: Iterator[Pair]) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Each key that either has, in order, with both values; None where there is none. Both come in that order."""
    left, right = next(one, None), next(other, None)
    while left is not None or right is not None:
        key = min(pair[0] for pair in (left, right) if pair is not None)
        here = left if left is not None and left[0] == key else None
        there = right if right is not None and right[0] == key else None
        yield key, here and here[1], there and there[1]
        if here is not None:
            left = next(one, None)
        if there is not None:
            right = next(other, None)
