"""What of a stream would go if it were truncated."""

from __future__ import annotations

from maestro_shm.shared.frame import RECORD_HEADER
from maestro_shm.shared.log import Log

Truncation = tuple[int, int, int, int]
"""The sequence number that a stream begins at, the one that it would begin at, how many events go by it, and how many
bytes they have, but for their ids."""


def truncation(log: Log, newest: int, former: int, before: int) -> Truncation | None:
    """Of a stream by the offset of its newest event (0 for none), if what is below a sequence number is to go.

    None if there is nothing of it.
    """
    first, count, size, offset = former, 0, 0, newest
    while offset:
        sequence, offset, _, _, payload = log.read(offset)
        if sequence < former:
            break
        if sequence < before:
            first = max(first, sequence + 1)
            count += 1
            size += RECORD_HEADER.size + len(payload)
    return (former, first, count, size) if count else None
