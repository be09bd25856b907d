"""A durable subscription, consumed by as many processes as want to: each event by one of them, and none is lost.

The events of an aggregate are all in one partition, and a partition has one consumer at a time, that takes its events
one by one; so they stay in order. How far it is tells a checkpoint in the store, moved by each acknowledgement. A
consumer that dies leaves its partitions to the others; what it had not acknowledged is delivered again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from maestro_shm import options
from maestro_shm.consumer import Consumer, Parked
from maestro_shm.errors import MaestroError, SubscriptionError, shown
from maestro_shm.leases import Leases, LeasesLostError
from maestro_shm.membership import REPLAY, Membership
from maestro_shm.partition import Partition, position_of
from maestro_shm.partition_reader import PartitionReader
from maestro_shm.progress import Home as HomeOfProgress
from maestro_shm.progress import Mark, Move, PartitionLostError, Progress, Settings
from maestro_shm.records import Event
from maestro_shm.subscription import Source
from maestro_shm.vigil import Vigil

_LOOK: Final = 0.25
"""Seconds between two looks at who else is there: so long may the partitions of a dead consumer lie idle."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
"""Seconds before an event that failed is tried again; they double."""
_FAR_BEHIND: Final = 1_000
"""Positions: the checkpoint of a partition without events is moved when it is so far behind, lest all be read again."""
_LONGEST_REASON: Final = 1_000


class Home(Source, HomeOfProgress, Protocol):
    """A store, as far as a durable subscription has to do with it."""

    def read(self, after: int = 0, *, limit: int | None = None) -> Iterator[Event]:
        """The feed."""

    def _leases(self, name: str) -> Leases:
        """Leases of the store, to be closed."""


class DurableSubscription(Consumer):
    """See `Consumer`."""

    def __init__(self, store: Home, name: str) -> None:
        """A consumer that looks whether there is such a subscription when it is first used."""
        self.name = name
        self._store = store
        self._progress = Progress(store, name)
        self._known: tuple[Settings, PartitionReader] | None = None
        self._vigil = Vigil()
        self._membership: Membership | None = None
        self._at_work: tuple[int, Event] | None = None
        self._next_look = 0.0
        self._process = os.getpid()

    def begin(self, wanted: Settings | None) -> None:
        """Make the subscription with the wanted settings, or find that it has them. Raises `SubscriptionError`."""
        settings = self._progress.settings(wanted)
        self._known = settings, PartitionReader(self._store, settings)

    def get(self, timeout: float | None = None) -> Event | None:
        self._check_process()
        deadline = options.deadline(timeout)
        if self._at_work is not None:
            position = self._at_work[1].position
            raise SubscriptionError(self.name, f"the event at position {position} is neither acknowledged nor failed")
        while not self._vigil.is_over:
            self._reader.check_incarnation()
            if time.monotonic() >= self._next_look:
                self._share_out()
            if (number := self._next_ready()) is not None:
                if (event := self._begin_unless_lost(number)) is not None:
                    return event
            elif self._reader.read_more():
                if timeout and time.monotonic() >= deadline:
                    break
            elif not self._waits(deadline):
                break
        return None

    def ack(self, event: Event) -> None:
        number, partition = self._found_at_work(event)
        done = Move(partition.mark, _behind(event))
        self._progress.move({number: done})
        self._finish(partition, done.after)

    def apply(self, event: Event, function: Callable[[Any, Event], object]) -> None:
        number, partition = self._found_at_work(event)
        done = Move(partition.mark, _behind(event))

        def run(tx: Any) -> None:
            # It is done already where an earlier call was stored, and its outcome not told.
            if self._progress.mark_within(tx, number) != done.after:
                function(tx, event)
            self._progress.move_within(tx, {number: done})

        self._store.transact(run)
        self._finish(partition, done.after)

    def fail(self, event: Event, reason: object = "") -> None:
        number, partition = self._found_at_work(event)
        attempts = partition.mark.attempts + (not partition.counts_ahead)
        if attempts >= self._settings.most_attempts:
            self._park(number, partition, reason if isinstance(reason, str) else shown(reason))
            return
        self._move({number: partition.mark._replace(attempts=attempts)})
        partition.hold_up(time.monotonic() + min(_FIRST_PAUSE * 2.0 ** (attempts - 1), _LONGEST_PAUSE))
        self._at_work = None

    def run(self, handler: Callable[[Event], object]) -> None:
        while (event := self._at_work[1] if self._at_work else self.get()) is not None:
            try:
                handler(event)
            except Exception as error:  # noqa: BLE001 (whatever the handler raises is its answer)
                self.fail(event, error)
            else:
                self.ack(event)

    def stop(self) -> None:
        self._vigil.end()

    def close(self) -> None:
        self.stop()
        membership, self._membership = self._membership, None
        if membership is None or self._process != os.getpid():
            return
        try:
            self._progress.move(self._closing(self._reader.partitions))
        except MaestroError:
            pass  # it looks as after our death then, which costs the next consumer a commit
        finally:
            self._reader.partitions.clear()
            self._at_work = None
            membership.close()

    def parked(self) -> list[Parked]:
        return self._progress.parked()

    def replay(self, handler: Callable[[Event], object]) -> int:
        leases = self._store._leases(f"subscription/{self.name}")
        try:
            if not leases.take(REPLAY):
                raise SubscriptionError(self.name, "somebody else replays the parked events already")
            parked = self._progress.parked()
            for position, _, _ in parked:
                for event in self._store.read(position - 1, limit=1):
                    if event.position == position:  # or it was truncated since
                        handler(event)
                self._progress.unpark(position)
            return len(parked)
        finally:
            leases.close()

    def delete(self) -> None:
        self.close()
        leases = self._store._leases(f"subscription/{self.name}")
        try:
            if leases.taken_by_others(0, REPLAY + 1):
                raise SubscriptionError(self.name, "it has consumers; close them before it is deleted")
            self._progress.delete()
        finally:
            leases.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return DurableSubscription, (self._store, self.name)

    @property
    def _settings(self) -> Settings:
        return self._known_parts()[0]

    @property
    def _reader(self) -> PartitionReader:
        return self._known_parts()[1]

    def _known_parts(self) -> tuple[Settings, PartitionReader]:
        if self._known is None:
            self.begin(None)
        assert self._known is not None  # noqa: S101 (for the type checker)
        return self._known

    # Partitions

    def _share_out(self) -> None:
        """Give back what is more than our share, and take what is missing and free."""
        self._next_look = time.monotonic() + _LOOK
        try:
            self._share_out_with(self._membership or self._join())
        except (LeasesLostError, PartitionLostError):
            self._leave()

    def _join(self) -> Membership:
        self._membership = Membership(self._store._leases(f"subscription/{self.name}"), self._settings.partitions)
        return self._membership

    def _leave(self) -> None:
        """As after our death: others have our partitions, and may be at work on them."""
        membership, self._membership = self._membership, None
        self._reader.partitions.clear()
        if membership is not None:
            membership.close()

    def _share_out_with(self, membership: Membership) -> None:
        try:
            self._give_back(membership)
            self._take(membership)
        except LeasesLostError:
            raise
        except BaseException:
            for number in membership.held - self._reader.partitions.keys():
                membership.give_back(number)  # we do not know how far we came with it
            raise
        self._move_far_behind()

    def _give_back(self, membership: Membership) -> None:
        partitions = self._reader.partitions
        if excess := membership.excess():
            self._progress.move(self._closing(number for number in excess if number in partitions))
        for number in excess:
            partitions.pop(number, None)
            membership.give_back(number)

    def _take(self, membership: Membership) -> None:
        if taken := membership.take():
            marks = self._progress.take(taken)
            self._reader.add({number: Partition(mark) for number, mark in marks.items()})

    def _closing(self, numbers: Iterable[int]) -> dict[int, Move]:
        partitions = self._reader.partitions
        at_work = None if self._at_work is None else self._at_work[0]
        return {
            number: Move(partitions[number].mark, partitions[number].closed(is_at_work=number == at_work))
            for number in numbers
        }

    def _move_far_behind(self) -> None:
        self._move(
            {
                number: partition.mark._replace(checkpoint=partition.done_up_to)
                for number, partition in self._reader.partitions.items()
                if partition.done_up_to - partition.mark.checkpoint > _FAR_BEHIND
            }
        )

    def _move(self, marks: Mapping[int, Mark]) -> None:
        partitions = self._reader.partitions
        if marks:
            self._progress.move({number: Move(partitions[number].mark, mark) for number, mark in marks.items()})
        for number, mark in marks.items():
            partitions[number].mark = mark

    # Work

    def _next_ready(self) -> int | None:
        """The partition whose first event is the oldest that may be tried now."""
        now = time.monotonic()
        ready = [
            (position_of(partition.waiting[0]), number)
            for number, partition in self._reader.partitions.items()
            if partition.waiting and partition.not_before <= now
        ]
        return min(ready)[1] if ready else None

    def _begin_unless_lost(self, number: int) -> Event | None:
        try:
            return self._begin(number)
        except PartitionLostError:
            self._leave()
            return None

    def _begin(self, number: int) -> Event | None:
        """The first event of a partition, which is at work now; None if it was given up."""
        partition = self._reader.partitions[number]
        if partition.counts_ahead:
            if partition.mark.attempts >= self._settings.most_attempts:
                self._park(number, partition, "its consumers died")
                return None
            self._move({number: partition.mark._replace(attempts=partition.mark.attempts + 1)})
        event = partition.waiting[0]
        self._at_work = number, event
        return event

    def _waits(self, deadline: float) -> bool:
        """Whether it is worth another look, after a wait."""
        if time.monotonic() >= deadline:
            return False
        paused = (partition.not_before for partition in self._reader.partitions.values() if partition.waiting)
        until = min(deadline, self._next_look, *paused)
        self._store._wait(self._reader.incarnation, self._reader.awaited_position, until, self._vigil)
        return True

    def _found_at_work(self, event: Event) -> tuple[int, Partition]:
        self._check_process()
        if self._at_work is None or self._at_work[1] != event:
            position = shown(getattr(event, "position", None))
            reason = f"the event at position {position} is not at work here: never delivered, or dealt with already"
            raise SubscriptionError(self.name, reason)
        number = self._at_work[0]
        return number, self._reader.partitions[number]

    def _finish(self, partition: Partition, mark: Mark) -> None:
        if partition.finish(mark):
            self._reader.go_back(partition.read_up_to)
        self._at_work = None

    def _park(self, number: int, partition: Partition, reason: str) -> None:
        event = partition.waiting[0]
        attempts = partition.mark.attempts + (not partition.counts_ahead)
        text = reason[:_LONGEST_REASON].encode(errors="backslashreplace").decode()
        done = Move(partition.mark, _behind(event))
        self._progress.park(number, done, Parked(position_of(event), text, attempts))
        self._finish(partition, done.after)

    def _check_process(self) -> None:
        if self._process != os.getpid():
            reason = f"this consumer belongs to process {self._process}; make one in this process"
            raise SubscriptionError(self.name, reason)


def _behind(event: Event) -> Mark:
    return Mark(position_of(event), attempts=0, is_open=True)
