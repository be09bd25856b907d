"""What comes to the server, by mail and by sockets, and its sleep where nothing does."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Final

from maestro_shm.shared import processor
from maestro_shm.shared.mailboxes import Mailboxes
from maestro_shm.shared.watch import Watch

_TURNS_OF_MAIL: Final = 32
"""After so many batches of mail sockets have their turn, too."""
_LOOKS_AT_MAIL: Final = 8
"""Of so many looks one is at the sockets: it takes ten times as long."""

_PAUSE: Final = 2e-3
"""Seconds without a request, after which it may be worth it again to leave the processor."""
_ALONE: Final = 4
"""So many requests one after the other from the same client: there is nobody else to share a processor with."""
_MOST_DEPARTURES: Final = 3

_Keys = list[tuple[selectors.SelectorKey, int]]


class Incoming:
    """The mailboxes that have requests, and the sockets that are ready."""

    def __init__(self, mail: Mailboxes, selector: selectors.BaseSelector) -> None:
        self._mail = mail
        self._selector = selector
        self._watch = Watch(self._leave)
        self._turns = 0
        self._looks = 0
        self._found: list[int] = []
        self._newest: list[int] = []
        self._in_a_row = 0
        self._departures = 0

    def next(self, pause: Callable[[], float], *, may_watch: bool) -> tuple[list[int], _Keys]:
        """What has come; if nothing has, what comes within a watch, or a sleep of as many seconds as `pause` says."""
        self._turns += 1
        self._count_in_a_row()
        if numbers := self._mail.arrived():
            found = numbers, self._selector.select(0) if self._turns % _TURNS_OF_MAIL == 0 else []
        else:
            seen = self._watch.until(self._look) if may_watch else None
            found = seen or self._sleep(pause)
        self._found = found[0]
        return found

    def _count_in_a_row(self) -> None:
        """What was found last, which is done when that is answered, since until then somebody waited."""
        if len(self._found) == 1 and self._found == self._newest:
            self._in_a_row += 1
        else:
            self._newest, self._in_a_row = self._found, 0

    def _sleep(self, pause: Callable[[], float]) -> tuple[list[int], _Keys]:
        begun = time.perf_counter()
        self._mail.fall_asleep()
        try:
            sockets = self._selector.select(0 if self._mail.have_arrived() else pause())
        finally:
            self._mail.wake_up()
        if time.perf_counter() - begun > _PAUSE:
            self._departures = 0
        numbers = self._mail.arrived()
        if numbers or sockets:
            self._watch.note_arrival()
        return numbers, sockets

    def _look(self) -> tuple[list[int], _Keys] | None:
        if numbers := self._mail.arrived():
            return numbers, []
        self._looks += 1
        if self._looks % _LOOKS_AT_MAIL == 0 and (sockets := self._selector.select(0)):
            return self._mail.arrived(), sockets
        return None

    def _leave(self) -> bool:
        """Go to another processor, if this one is shared with the only client there is.

        A server that is woken may start on its client's, or wake it up there, and then the two stay: the other
        processor has slept for so long that the system moves nobody to it. Three times after each pause are enough,
        and beside many clients there is no processor for the server alone.
        """
        if self._in_a_row < _ALONE or self._departures == _MOST_DEPARTURES:
            return False
        self._departures += 1
        return processor.leave()
