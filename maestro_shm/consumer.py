"""A consumer of a durable subscription: the contract, and nothing of how it is kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from maestro_shm.records import Event


class Parked(NamedTuple):
    """An event that was given up, and why."""

    position: int
    reason: str
    attempts: int


class Consumer(Iterator[Event]):
    """What `Store.subscription` gives: an iterator of events, each to be acknowledged before the next is asked for.

    It belongs to one thread of one process; `stop` may be called by any thread, and in a signal's handler. It takes
    part from the first event that it is asked for until `close`, or until its process dies.
    """

    name: str

    @abstractmethod
    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None when there is none for this consumer within so many seconds, or after `stop`.

        Raises `SubscriptionError` if the last one was neither acknowledged nor failed, and `StoreUnavailableError` if
        the store was reset or is gone.
        """

    @abstractmethod
    def ack(self, event: Event) -> None:
        """The event is done: it is not delivered again, to anybody. Raises `SubscriptionError` if it is not at work."""

    @abstractmethod
    def apply(self, event: Event, function: Callable[[Any, Event], object]) -> None:
        """Acknowledge the event in one transaction with what `function(tx, event)` does: so that is done exactly once.

        What it raises comes through, and the event is still at work.
        """

    @abstractmethod
    def fail(self, event: Event, reason: object = "") -> None:
        """The event could not be done: it is tried again after a while, and parked after `most_attempts`.

        Until then the later events of its partition wait; when it is parked, they go on.
        """

    @abstractmethod
    def run(self, handler: Callable[[Event], object]) -> None:
        """Hand each event to the handler until `stop`: acknowledged when it returns, failed when it raises."""

    @abstractmethod
    def stop(self) -> None:
        """Let the iteration end: at once where it waits, else when the event at work is done."""

    @abstractmethod
    def close(self) -> None:
        """Take part no longer: others take the partitions. An event that is at work is delivered again."""

    @abstractmethod
    def parked(self) -> list[Parked]:
        """What was given up, in the order of the feed."""

    @abstractmethod
    def replay(self, handler: Callable[[Event], object]) -> int:
        """Hand the parked events to the handler, in order, and forget each when it returns; how many there were.

        What the handler raises comes through, and the event stays parked. The events of their aggregates that came
        later may have been done since. Raises `SubscriptionError` if somebody replays them already.
        """

    @abstractmethod
    def delete(self) -> None:
        """Forget the subscription. Raises `SubscriptionError` while it has consumers."""

    def __next__(self) -> Event:
        if (event := self.get()) is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
