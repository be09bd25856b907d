"""A partition of a subscription, as the consumer that has it sees it."""

from __future__ import annotations

from collections import deque
from zlib import crc32

from maestro_shm.progress import Mark
from maestro_shm.records import Event


def partition_of(aggregate_id: str, partitions: int) -> int:
    """Which one the events of an aggregate are in. Never to be changed: checkpoints go by it."""
    return crc32(aggregate_id.encode()) % partitions


class Partition:
    """Events wait here in their order, and the first one is at work at most."""

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.waiting: deque[Event] = deque()
        self.not_before = 0.0
        """When the first one may be tried again, by `time.monotonic`."""
        self.counts_ahead = mark.is_open
        """Its last consumer died, maybe of the first event: so an attempt is counted before it is made."""
        self._read_up_to = mark.checkpoint
        """All its events up to here are done, or wait."""

    @property
    def done_up_to(self) -> int:
        """Up to this position nothing is left to do."""
        return position_of(self.waiting[0]) - 1 if self.waiting else self._read_up_to

    def add(self, event: Event) -> None:
        """Let an event wait, unless it is known already."""
        if position_of(event) > self._read_up_to:
            self.waiting.append(event)
            self.note_read(position_of(event))

    def note_read(self, position: int) -> None:
        """There is nothing more up to this position."""
        self._read_up_to = max(self._read_up_to, position)

    def finish(self, mark: Mark) -> None:
        """The first event is done, or given up, and the mark behind it."""
        self.mark = mark
        self.counts_ahead = False
        self.waiting.popleft()

    def closed(self) -> Mark:
        """The mark to leave behind."""
        return self.mark._replace(checkpoint=self.done_up_to, is_open=False)


def position_of(event: Event) -> int:
    """The position of an event that is stored."""
    return event.position or 0
