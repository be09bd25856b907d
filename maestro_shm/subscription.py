"""A subscription: the feed from a position on, as events come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Protocol, Self

from maestro_shm import options
from maestro_shm.cut import Cut
from maestro_shm.errors import StoreUnavailableError
from maestro_shm.records import Event
from maestro_shm.selection import Selection
from maestro_shm.vigil import Vigil


class Source(Protocol):
    """A store, as far as a subscription has to do with it."""

    target: str

    def _cut(self) -> Cut:
        """The newest state. Raises `StoreClosedError`."""

    def _wait(self, incarnation: int, position: int, deadline: float, vigil: Vigil) -> None:
        """Return when there may be an event at this position, or another incarnation, or the vigil is over."""


class Subscription(Iterator[Event]):
    """What `Store.subscribe` gives: a blocking iterator of events that ends with `close`.

    It belongs to one thread; `close` may be called by any, also in a signal's handler. It holds nothing open while
    nobody waits.
    """

    def __init__(self, store: Source, wanted: Selection) -> None:
        self.position = wanted.after
        """Up to here every wanted event was given: where to subscribe again, `after` it."""
        self._store = store
        self._wanted: Final = wanted
        self._vigil = Vigil()
        self._incarnation = store._cut().incarnation
        self._begin_again()

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None when it does not come within so many seconds, or after `close`.

        Raises `StoreUnavailableError` if the store was reset, since its positions begin again, or if it is gone.
        """
        deadline = options.deadline(timeout)
        while not self._vigil.is_over:
            if (event := self.take()) is not None:
                return event
            # Who does not want to wait at all wants what there is, however far away.
            if timeout and time.monotonic() >= deadline:
                break
            if not self.read_on() and not self._waits(deadline):
                break
        return None

    def take(self) -> Event | None:
        """The next of the events that were read; None if there is none, or after `close`. It does not read or wait."""
        if self._vigil.is_over:
            return None
        for event in self._ready:
            self.position = event.position or 0
            return event
        return None

    def read_on(self) -> bool:
        """Read some more, for `take`, and say whether there was more; none of it need be wanted. Raises as `get`."""
        try:
            return self._go_on()
        except BaseException:
            self._begin_again()  # where it was interrupted nobody knows
            raise

    def wait(self, vigil: Vigil) -> None:
        """Return when it may be worth to `get` again, or the vigil is over: for who has something else to wait for."""
        self._store._wait(self._incarnation, self._end + 1, float("inf"), vigil)

    def close(self) -> None:
        """End it: whoever waits for an event is woken and gets none."""
        self._vigil.end()

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

    def _begin_again(self) -> None:
        self._ready: Iterator[Event] = iter(())
        self._batches: Iterator[list[Event]] = iter(())
        self._end = self.position

    def _go_on(self) -> bool:
        """Whether there was more to read; some of it may be wanted."""
        if (batch := next(self._batches, None)) is not None:
            self._ready = iter(batch)
            return True
        self.position = self._end
        cut = self._store._cut()
        if cut.incarnation != self._incarnation:
            raise StoreUnavailableError(self._store.target, "it was reset; subscribe again, from its beginning")
        if (last := cut.last_position) <= self._end:
            return False
        self._batches = cut.feed(self._wanted._replace(after=self._end))
        self._end = last
        return True

    def _waits(self, deadline: float) -> bool:
        """Whether it is worth another look, after a wait."""
        if time.monotonic() >= deadline:
            return False
        self._store._wait(self._incarnation, self._end + 1, deadline, self._vigil)
        return True
