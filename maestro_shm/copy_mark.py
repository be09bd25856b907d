"""What marks a store as a copy: an entry of a table in it, so that no other store is ever taken for one.

source   which store it is a copy of, up to which position, and whether that copy has come to its end
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from maestro_shm import codec
from maestro_shm.cut import Cut

TABLE: Final = "maestro_shm/copy"
_KEY: Final = "source"


class Home(Protocol):
    """A store, as far as its mark has to do with it."""

    def transact(self, function: Any, /, *arguments: Any) -> Any:
        """Commit what the function does with a transaction."""


def source_of(cut: Cut) -> str | None:
    """Which store it is a copy of; None if it is no copy."""
    payload = cut.entry(TABLE, _KEY).payload
    return None if payload is None else str(codec.unpack(payload)[0]["store"])


def put(target: Home, source: str, position: int, *, is_complete: bool) -> None:
    """Mark a store as the copy of another up to a position."""
    target.transact(_put, {"store": source, "position": position, "is_complete": is_complete})


def names_of_tables(cut: Cut) -> list[str]:
    """The tables that are copied: all but the one with the mark."""
    return [name for name in cut.table_names() if name != TABLE]


def _put(tx: Any, facts: dict[str, Any]) -> None:
    tx.table(TABLE)[_KEY] = facts
