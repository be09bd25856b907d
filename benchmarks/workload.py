"""What is stored and read: the same ids, numbers and bodies for everyone.

Rule: events share no objects. Pickle sends an object that it meets twice only once, which no real stream allows.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

AGGREGATES: Final = [f"account-{number:04d}" for number in range(100)]
EVENT_TYPE: Final = "deposited"
PREFILL: Final = 10
"""Events per aggregate before anything is timed."""
READ: Final = 5
"""Events in the read of the newest ones."""
BATCH: Final = 100
"""Events in a large commit."""

_BODY: Final = {"amount": 12345, "note": "x" * 150, "tags": ["a", "b"], "ok": True}
_BODIES: Final[list[dict[str, Any]]] = [msgpack.unpackb(msgpack.packb(_BODY)) for _ in range(1000)]


def body(number: int) -> dict[str, Any]:
    """The body of an event by its number."""
    return _BODIES[number % len(_BODIES)]
