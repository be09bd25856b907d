"""An iterator that is one step ahead: the next is made while the last one is dealt with."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Part = TypeVar("_Part")


def ahead(parts: Iterator[_Part]) -> Iterator[_Part]:
    """The same parts, none of which is None, made in another thread. What is raised there comes through."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, parts, None)
        while (part := following.result()) is not None:
            following = pool.submit(next, parts, None)
            yield part
