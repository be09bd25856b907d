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

    def __init__(self, found: Mark) -> None:
        self.mark = found._replace(is_open=True)
        """As it is stored."""
        self.waiting: deque[Event] = deque()
        self.not_before = 0.0
        """When the first one may be tried again, by `time.monotonic`."""
        self.counts_ahead = found.is_open
        """Its last consumer died, maybe of the first event: so an attempt is counted before it is made."""
        self._is_held_up = False
        self._read_up_to = found.checkpoint
        """All its events up to here are done, or wait."""

    @property
    def done_up_to(self) -> int:
        """Up to this position nothing is left to do."""
        return position_of(self.waiting[0]) - 1 if self.waiting else self._read_up_to

    @property
    def read_up_to(self) -> int:
        """Up to this position everything was read."""
        return self._read_up_to

    def add(self, event: Event) -> None:
        """Let an event wait, unless it is known already."""
        last = position_of(self.waiting[-1]) if self.waiting else 0
        if not self._is_held_up and position_of(event) > max(self._read_up_to, last):
            self.waiting.append(event)
            self.note_read(position_of(event))

    def note_read(self, position: int) -> None:
        """There is nothing more up to this position."""
        if not self._is_held_up:
            self._read_up_to = max(self._read_up_to, position)

    def hold_up(self, until: float) -> None:
        """The first event is to be tried again at this time; what is behind it is forgotten, and read again then."""
        first = self.waiting[0]
        self.not_before = until
        self._is_held_up = True
        self._read_up_to = position_of(first)
        self.waiting = deque([first])

    def finish(self, mark: Mark) -> bool:
        """The first event is done, or given up, and the mark behind it; whether it held up others."""
        held_up = self._is_held_up
        self.mark = mark
        self.counts_ahead = self._is_held_up = False
        self.waiting.popleft()
        return held_up

    def closed(self, *, is_at_work: bool) -> Mark:
        """The mark to leave behind. An attempt that was counted and is not to end is taken back."""
        attempts = self.mark.attempts - (is_at_work and self.counts_ahead)
        return Mark(self.done_up_to, max(0, attempts), is_open=self.counts_ahead)


def position_of(event: Event) -> int:
    """The position of an event that is stored."""
    return event.position or 0
