"""The store of programs with an event loop: the same contract, awaited; what is cancelled ends and loses nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ledger import Account, TakenError, UniqueNames, deposit, transfer
from processes import output_of, wait_until
from store_contract import exactly

import maestro_shm as ms
from maestro_shm.memory import MemoryStore

SOON = 30.0


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work(), SOON)

    return asyncio.run(bounded(), debug=True)


def make(store: ms.Store, sequence: int) -> ms.Event:
    (event,) = store.commit_events([ms.Event("a", sequence, "made", sequence)])
    return event


def waiting_threads() -> int:
    return sum(thread.name == "maestro_shm wait" for thread in threading.enumerate())


def test_who_has_no_event_loop_imports_none() -> None:
    said = output_of(
        """
        import sys
        import maestro_shm as ms

        with ms.connect() as store:
            store.commit_events([ms.Event("a", 1, "made", None)])
            store.submit([ms.Event("a", 2, "made", None)]).result()
        print("asyncio" in sys.modules)
        from maestro_shm import *
        print("asyncio" in sys.modules, AsyncStore.__name__, AsyncSubscription is ms.AsyncSubscription)
        """
    )
    assert said == "False\nTrue AsyncStore True"


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'maestro_shm' has no attribute 'AsyncTable'"):
        ms.AsyncTable  # type: ignore[attr-defined] # noqa: B018 (to ask for it is the test)


def test_commits_are_awaited_and_do_what_the_stores_do(store: ms.Store) -> None:
    async def work() -> None:
        own = ms.AsyncStore(store)
        (event,) = await own.commit_events(iter([ms.Event("a", 1, "made", {"x": 1})]))
        assert exactly(store.get_events("a")) == exactly([event])
        with pytest.raises(ms.SequenceConflictError):
            await own.commit_events([ms.Event("a", 1, "made", None)])
        assert await own.commit_snapshot(ms.Snapshot("a", 1, None))
        await own.commit_all([ms.Event("b", 1, "named", "ann")], [UniqueNames()])
        with pytest.raises(TakenError):
            await own.commit_all([ms.Event("c", 1, "named", "ann")], [UniqueNames()])
        await own.evaluate(Account(store, "alice"), deposit(10))
        assert await own.transact(transfer, "alice", "bob", 4) == 6

    run(work)
    assert Account(store, "bob").fetch() == 4


def test_many_commits_at_once_are_all_done(store: ms.Store) -> None:
    async def work() -> None:
        own = ms.AsyncStore(store)
        await asyncio.gather(*(own.evaluate(Account(store, "alice"), deposit(1)) for _ in range(40)))

    run(work)
    assert Account(store, "alice").fetch() == 40


def test_a_wait_is_awaited_while_the_loop_goes_on(store: ms.Store) -> None:
    async def work() -> None:
        own = ms.AsyncStore(store)
        assert await own.wait(0)
        assert not await own.wait(1, timeout=0.05)
        waits = [asyncio.create_task(own.wait(position)) for position in (1, 2, 2, 3)]
        await asyncio.sleep(0.05)
        assert not any(wait.done() for wait in waits)
        for sequence in (1, 2, 3):
            await own.commit_events([ms.Event("a", sequence, "made", None)])
        assert await asyncio.gather(*waits) == [True] * 4

    run(work)


def test_more_wait_than_the_loop_has_threads(store: ms.Store) -> None:
    async def work() -> None:
        own = ms.AsyncStore(store)
        waits = [asyncio.create_task(own.wait(1)) for _ in range(60)]
        await asyncio.sleep(0.05)
        await own.commit_events([ms.Event("a", 1, "made", None)])
        assert await asyncio.gather(*waits) == [True] * 60

    run(work)


def test_a_cancelled_wait_ends_its_thread(store: ms.Store) -> None:
    async def work() -> None:
        own = ms.AsyncStore(store)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(own.wait(1), 0.05)

    run(work)
    wait_until(lambda: waiting_threads() == 0, "its thread has ended")


def test_a_subscription_gives_what_there_is_and_then_what_comes(store: ms.Store) -> None:
    async def work() -> list[int | None]:
        own = ms.AsyncStore(store)
        found = []
        async with own.subscribe(types=["made"]) as subscription:
            async for event in subscription:
                found.append(event.position)
                if len(found) >= 2:
                    if len(found) == 4:
                        break
                    await own.commit_events([ms.Event("b", len(found), "other", None)])
                    asyncio.get_running_loop().call_later(0.05, make, store, 1 + len(found))
            assert subscription.position == found[-1]
        return found

    make(store, 1)
    make(store, 2)
    assert run(work) == [1, 2, 4, 6]


def test_a_cancelled_anext_takes_no_event_with_it(store: ms.Store) -> None:
    async def work() -> list[int | None]:
        found = []
        subscription = ms.AsyncStore(store).subscribe()
        for sequence in range(1, 20):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(subscription), 0.01)
            make(store, sequence)
            found.append((await anext(subscription)).position)
        subscription.close()
        return found

    assert run(work) == list(range(1, 20))
    wait_until(lambda: waiting_threads() == 0, "its threads have ended")


def test_a_closed_subscription_ends_for_who_waits(store: ms.Store) -> None:
    async def work() -> list[ms.Event]:
        subscription = ms.AsyncStore(store).subscribe()
        asyncio.get_running_loop().call_later(0.05, subscription.close)
        return [event async for event in subscription]

    assert run(work) == []
    wait_until(lambda: waiting_threads() == 0, "its thread has ended")


def test_errors_come_to_who_awaits(make_store: Callable[..., ms.Store]) -> None:
    store = make_store()

    async def work() -> None:
        own = ms.AsyncStore(store)
        subscription = own.subscribe()
        asyncio.get_running_loop().call_later(0.05, store.close)
        with pytest.raises(ms.StoreClosedError):
            await anext(subscription)
        with pytest.raises(ms.StoreClosedError):
            await own.wait(1)
        with pytest.raises(ms.StoreClosedError):
            await own.commit_events([ms.Event("a", 1, "made", None)])
        with pytest.raises(ms.InvalidEventError):
            await own.wait(-1)
        with pytest.raises(ValueError, match="timeout"):
            await own.wait(1, timeout=-1)

    run(work)


def test_only_a_store_that_was_connected_can_be_awaited(store: ms.Store) -> None:
    with pytest.raises(TypeError, match="connect"):
        ms.AsyncStore(store.at(position=0))


def test_a_program_that_leaves_its_waits_behind_ends_all_the_same(store: ms.Store) -> None:
    async def work() -> None:
        wait = asyncio.create_task(ms.AsyncStore(store).wait(1))
        await asyncio.sleep(0.02)
        assert not wait.done()

    run(work)  # which cancels what is left
    wait_until(lambda: waiting_threads() == 0, "its thread has ended")


def test_a_cancel_that_comes_with_a_wake_up_is_not_lost(store: ms.Store) -> None:
    async def work() -> None:
        for steps in range(12):
            subscription = ms.AsyncStore(store).subscribe(store.last_position, types=["wanted"])
            task = asyncio.create_task(anext(subscription))
            await asyncio.sleep(0.01)
            store.commit_events([ms.Event(f"a-{steps}", 1, "unwanted", None)])
            await asyncio.sleep(0.001)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            subscription.close()

    run(work)


def test_others_have_their_turn_while_a_long_feed_is_read(store: ms.Store) -> None:
    for start in range(1, 6_000, 1_000):
        store.commit_events([ms.Event("a", number, "made", None) for number in range(start, start + 1_000)])

    async def work() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.create_task(count())
        async with ms.AsyncStore(store).subscribe() as subscription:
            for _ in range(6_000):
                await anext(subscription)
        counter.cancel()
        return turns

    assert run(work) > (0 if isinstance(store, MemoryStore) else 5)
