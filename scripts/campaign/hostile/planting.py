"""Planting a fault: exchanging one piece of the store for another, in a process that is to have the fault."""

from __future__ import annotations

from typing import Any


def exchange(owner: Any, name: str, by: Any) -> None:
    """Exchange what a module or class has under a name. It must have it: else nothing would be planted."""
    assert hasattr(owner, name), f"{owner!r} has no {name!r} any more; a planted fault must be planted elsewhere"
    setattr(owner, name, by)
