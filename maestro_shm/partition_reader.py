"""The feed of a subscription, dealt out to the partitions that a consumer has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from maestro_shm.cut import Cut
from maestro_shm.errors import StoreUnavailableError
from maestro_shm.partition import Partition, partition_of, position_of
from maestro_shm.progress import Settings
from maestro_shm.records import MAX_SEQUENCE, Event
from maestro_shm.subscription import Source

_MOST_WAITING: Final = 4_096
"""Events that wait in all partitions, before no more is read."""


class PartitionReader:
    """Of one consumer. Where partitions come to it that are less far, it goes back, and the others pass over that."""

    _batches: Iterator[list[Event]]
    _end: int
    """Where they end."""
    _read_up_to: int
    """So far all was dealt out."""

    def __init__(self, store: Source, settings: Settings) -> None:
        self.partitions: Final[dict[int, Partition]] = {}
        self._store = store
        self._settings = settings
        self._incarnation = store._cut().incarnation
        self._go_to(0)

    @property
    def incarnation(self) -> int:
        """That of the store which it reads."""
        return self._incarnation

    @property
    def awaited_position(self) -> int:
        """The position from which on there may be more to read."""
        return self._end + 1 if self._has_room else MAX_SEQUENCE  # which is never reached

    def add(self, partitions: dict[int, Partition]) -> None:
        """Read for these, too."""
        least = min(partition.read_up_to for partition in partitions.values())
        self._go_to(min(least, self._read_up_to) if self.partitions else least)
        self.partitions.update(partitions)

    def read_more(self) -> bool:
        """Whether there was more in the feed; it need not be for these partitions."""
        if not self._has_room:
            return False
        try:
            return self._read_on()
        except BaseException:
            self._go_to(self._read_up_to)  # where it was interrupted nobody knows
            raise

    def check_incarnation(self) -> None:
        """Raise `StoreUnavailableError` if the store was reset."""
        self._cut()

    def go_back(self, position: int) -> None:
        """Read again from behind this position, where that was passed."""
        self._go_to(min(position, self._read_up_to))

    def _read_on(self) -> bool:
        if (batch := next(self._batches, None)) is not None:
            self._deal_out(batch)
            return True
        self._note_read(self._end)
        cut = self._cut()
        if (last := cut.last_position) <= self._end:
            return False
        self._batches = cut.feed(self._settings.wanted._replace(after=self._end))
        self._end = last
        return True

    def _cut(self) -> Cut:
        cut = self._store._cut()
        if cut.incarnation != self._incarnation:
            raise StoreUnavailableError(self._store.target, "it was reset, and its subscriptions with it")
        return cut

    @property
    def _has_room(self) -> bool:
        waiting = sum(len(partition.waiting) for partition in self.partitions.values())
        return bool(self.partitions) and waiting < _MOST_WAITING

    def _go_to(self, position: int) -> None:
        self._batches = iter(())
        self._end = self._read_up_to = position

    def _deal_out(self, batch: list[Event]) -> None:
        for event in batch:
            partition = self.partitions.get(partition_of(event.aggregate_id, self._settings.partitions))
            if partition is not None:
                partition.add(event)
        if batch:
            self._note_read(position_of(batch[-1]))

    def _note_read(self, position: int) -> None:
        self._read_up_to = position
        for partition in self.partitions.values():
            partition.note_read(position)
