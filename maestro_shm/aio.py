"""A store for programs with an event loop: what may take a while is awaited, over the same handle.

Reads are not here: they take microseconds and no round trip, so they are the store's own. (Of a database they are a
round trip; `asyncio.to_thread` takes one that is long.) A commit runs in a thread of the loop's; so does a wait, in one
of its own, since there may be many and they last.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from maestro_shm import options
from maestro_shm.aggregate import Aggregate
from maestro_shm.arrival import check_position, has_arrived
from maestro_shm.backend import Backend
from maestro_shm.projection import Projection
from maestro_shm.records import Command, Event, Snapshot
from maestro_shm.store import Store
from maestro_shm.subscription import Subscription
from maestro_shm.vigil import Vigil

_Result = TypeVar("_Result")


class AsyncStore:
    """A store whose commits and waits are awaited. It is closed by whoever opened the store.

    A commit whose task is cancelled goes on in its thread: it may be stored, as after any interruption. A wait that is
    cancelled ends at once.
    """

    def __init__(self, store: Store) -> None:
        if not isinstance(store, Backend):
            raise TypeError(f"AsyncStore is for what `connect` gives, not {store!r}")
        self.store: Final[Backend] = store

    async def commit_events(self, events: Iterable[Event]) -> list[Event]:
        """See `Store.commit_events`."""
        return await asyncio.to_thread(self.store.commit_events, list(events))

    async def commit_all(self, events: Iterable[Event], projections: Iterable[Projection] = ()) -> list[Event]:
        """See `Store.commit_all`."""
        return await asyncio.to_thread(self.store.commit_all, list(events), list(projections))

    async def commit_snapshot(self, snapshot: Snapshot) -> bool:
        """See `Store.commit_snapshot`."""
        return await asyncio.to_thread(self.store.commit_snapshot, snapshot)

    async def truncate(self, aggregate_id: str, *, before: int) -> None:
        """See `Store.truncate`."""
        await asyncio.to_thread(self.store.truncate, aggregate_id, before=before)

    async def compact(self) -> None:
        """See `Store.compact`."""
        await asyncio.to_thread(self.store.compact)

    async def transact(self, function: Callable[..., _Result], *arguments: Any, **named: Any) -> _Result:
        """See `Store.transact`. The function is a plain one, and runs in another thread."""
        return await asyncio.to_thread(self.store.transact, function, *arguments, **named)

    async def evaluate(self, root: Aggregate, command: Command) -> list[Event]:
        """See `Aggregate.evaluate`. The root is used by nobody else until then.

        After a cancel it is used by nobody at all, since its thread may be at it still: make another one.
        """
        return await asyncio.to_thread(root.evaluate, command)

    async def wait(self, position: int, timeout: float | None = None) -> bool:  # noqa: ASYNC109 (as `Store.wait` has it)
        """See `Store.wait`."""
        deadline = options.deadline(timeout)
        check_position(position)
        return await _waited(lambda vigil: has_arrived(self.store, position, deadline, vigil))

    def subscribe(
        self, after: int = 0, *, types: Collection[str] | None = None, aggregate_prefix: str | None = None
    ) -> AsyncSubscription:
        """See `Store.subscribe`; to be used by `async for`."""
        return AsyncSubscription(self.store.subscribe(after, types=types, aggregate_prefix=aggregate_prefix))


class AsyncSubscription(AsyncIterator[Event]):
    """A subscription that is awaited. A cancelled `anext` takes no event with it."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._closed = asyncio.Event()

    @property
    def position(self) -> int:
        """Up to here every wanted event was given."""
        return self._subscription.position

    def close(self) -> None:
        """End it: whoever waits for an event gets none."""
        self._closed.set()
        self._subscription.close()

    async def __anext__(self) -> Event:
        while not self._closed.is_set():
            if (event := self._subscription.take()) is not None:
                return event
            if self._subscription.read_on():
                await asyncio.sleep(0)  # others have their turn between two batches
            else:
                await self._wait()
        raise StopAsyncIteration

    async def _wait(self) -> None:
        waits = [asyncio.create_task(_waited(self._subscription.wait)), asyncio.create_task(self._closed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if waits[0].done():
                waits[0].result()  # what it raised
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


async def _waited(wait: Callable[[Vigil], _Result]) -> _Result:
    """The result of a wait in a thread of its own, which ends with the task."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()
    vigil = Vigil()

    def run() -> None:
        try:
            result, error = wait(vigil), None
        except BaseException as raised:  # noqa: BLE001 (it is the task's)
            result, error = None, raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result, error)

    def finish(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    # A daemon: whoever leaves without cancelling his tasks must not wait for it.
    threading.Thread(target=run, name="maestro_shm wait", daemon=True).start()
    try:
        return await done
    finally:
        vigil.end()
