"""What comes to the server, by mail and by sockets, and its sleep where nothing does."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Final

from maestro_shm.shared.mailboxes import Mailboxes
from maestro_shm.shared.watch import Watch

_TURNS_OF_MAIL: Final = 32
"""After so many batches of mail sockets have their turn, too."""
_LOOKS_AT_MAIL: Final = 8
"""Of so many looks one is at the sockets: it takes ten times as long."""

_Keys = list[tuple[selectors.SelectorKey, int]]


class Incoming:
    """The mailboxes that have requests, and the sockets that are ready."""

    def __init__(self, mail: Mailboxes, selector: selectors.BaseSelector) -> None:
        self._mail = mail
        self._selector = selector
        self._watch = Watch()
        self._turns = 0
        self._looks = 0

    def next(self, pause: Callable[[], float], *, may_watch: bool) -> tuple[list[int], _Keys]:
        """What has come; if nothing has, what comes within a watch, or a sleep of as many seconds as `pause` says."""
        self._turns += 1
        if numbers := self._mail.arrived():
            return numbers, self._selector.select(0) if self._turns % _TURNS_OF_MAIL == 0 else []
        if may_watch and (found := self._watch.until(self._look)):
            return found
        self._mail.fall_asleep()
        try:
            sockets = self._selector.select(0 if self._mail.have_arrived() else pause())
        finally:
            self._mail.wake_up()
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
