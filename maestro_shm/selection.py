"""What is asked of the feed: from where on, how many events, of which types and aggregates."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from maestro_shm.errors import InvalidEventError, shown
from maestro_shm.records import MAX_SEQUENCE


class Selection(NamedTuple):
    """The events behind a position that are wanted."""

    after: int
    limit: int | None
    types: frozenset[str] | None
    """None for all."""
    aggregate_prefix: str
    """What the ids of their aggregates begin with."""


def selection(after: int, limit: int | None, types: Collection[str] | None, aggregate_prefix: str | None) -> Selection:
    """The selection that these arguments ask for. Raises `InvalidEventError`."""
    if type(after) is not int or after < 0:
        raise InvalidEventError(f"`after` must be a position, an int from 0 up, not {shown(after)}")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise InvalidEventError(f"`limit` must be None or an int from 0 up, not {shown(limit)}")
    if aggregate_prefix is not None and type(aggregate_prefix) is not str:
        raise InvalidEventError(f"`aggregate_prefix` must be None or a str, not {shown(aggregate_prefix)}")
    return Selection(
        min(after, MAX_SEQUENCE), limit, None if types is None else _checked(types), aggregate_prefix or ""
    )


def _checked(types: Collection[str]) -> frozenset[str]:
    # A str is a collection of strs, too, and never the one that was meant.
    if isinstance(types, str | bytes) or not isinstance(types, Collection):
        raise InvalidEventError(f"`types` must be None or a collection of them, as in ['opened'], not {shown(types)}")
    for kind in types:
        try:
            is_text = type(kind) is str and kind.encode() is not None
        except UnicodeEncodeError:
            is_text = False
        if not is_text:
            raise InvalidEventError(f"the `types` of events are strs of valid Unicode, not {shown(kind)}")
    return frozenset(types)
