"""Who leaves a processor, and when a server does."""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maestro_shm.shared import incoming, processor, watch
from maestro_shm.shared.incoming import Incoming
from maestro_shm.shared.mailboxes import Mailbox, Mailboxes

ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

pytestmark = pytest.mark.skipif(not ALLOWED, reason="this system does not tell which processors a thread may use")


def in_a_thread(action: Callable[[], None]) -> None:
    """Since a processor is a thread's own, and this one is to keep all that it may use."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 (it is raised below)
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@pytest.mark.skipif(len(ALLOWED) < 2, reason="it takes a second processor to leave one")
def test_who_leaves_goes_on_at_another_processor_and_may_use_all_of_them_again() -> None:
    def leaves() -> bool:
        before = processor._current()
        assert processor.leave()
        assert os.sched_getaffinity(0) == ALLOWED
        return processor._current() != before

    def act() -> None:
        # Another process may push us back at once; not each time.
        assert any(leaves() for _ in range(1000))

    in_a_thread(act)


def test_who_may_use_one_processor_only_stays() -> None:
    def act() -> None:
        only = {min(ALLOWED)}
        os.sched_setaffinity(0, only)
        assert not processor.leave()
        assert os.sched_getaffinity(0) == only

    in_a_thread(act)


def test_who_cannot_find_out_where_he_is_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processor, "_STAT", str(tmp_path / "no-such-file"))
    assert not processor.leave()
    assert os.sched_getaffinity(0) == ALLOWED


class Shared:
    """A server on the same processor as its clients, which post when it gives way; the departures are counted."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._mail = Mailboxes(directory, 1)
        self.clients = [self._client(directory) for _ in range(2)]
        self.selector = selectors.DefaultSelector()
        self._incoming = Incoming(self._mail, self.selector)
        self.departures = 0
        self._now = 0.0
        self._put_off = 0
        self._next: Mailbox | None = None
        monkeypatch.setattr(watch, "_now", self._look_at_clock)
        monkeypatch.setattr(watch, "_give_way", self._give_way)
        monkeypatch.setattr(watch, "times_put_off", lambda: self._put_off)
        monkeypatch.setattr(processor, "leave", self._leave)

    def exchange(self, *clients: Mailbox) -> None:
        """A request of each, one after the other; each is answered before the next."""
        for client in clients:
            self._next = client
            while self._next is not None:
                numbers, _ = self._incoming.next(lambda: 0.0, may_watch=True)
            for number in numbers:
                self._mail.reply(number, b"done")

    def sleep(self) -> None:
        """Until nothing has come for a while."""
        while self._incoming.next(lambda: 2 * incoming._PAUSE, may_watch=False) != ([], []):
            pass

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self._mail.close()
        self.selector.close()

    def _client(self, directory: Path) -> Mailbox:
        number = self._mail.give()
        assert number is not None
        return Mailbox(directory, self._mail.address(number))

    def _look_at_clock(self) -> float:
        self._now += 1e-6
        return self._now

    def _give_way(self) -> None:
        self._now += 20e-6
        self._put_off += 1
        if self._next is not None:
            self._next.post(b"request")
            self._next = None

    def _leave(self) -> bool:
        self.departures += 1
        return True


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    shared = Shared(tmp_path, monkeypatch)
    yield shared
    shared.close()


def test_a_server_leaves_the_processor_of_the_only_client_that_asks(shared: Shared) -> None:
    shared.exchange(*10 * shared.clients[:1])
    assert shared.departures


def test_a_server_does_not_leave_a_processor_that_it_shares_with_many(shared: Shared) -> None:
    shared.exchange(*10 * shared.clients)
    assert not shared.departures


def test_a_server_leaves_three_times_and_again_after_a_pause(shared: Shared) -> None:
    shared.exchange(*100 * shared.clients[:1])
    assert shared.departures == 3
    shared.sleep()
    shared.exchange(*100 * shared.clients[:1])
    assert shared.departures == 6
