"""Attempts of a shared store: where rivals are met again and again, each has its turn."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from maestro_shm.retries import Attempts
from maestro_shm.shared.proxy import StoreProxy
from maestro_shm.shared.rivalry import Rivalry, Turn, slice_for


class TurnAttempts(Attempts):
    """As `Attempts`, but on a hot stream an attempt waits for its turn, before it reads anything."""

    def __init__(self, timeout: float, proxy: StoreProxy, stream: str | None) -> None:
        super().__init__(timeout)
        self._proxy = proxy
        self._stream = stream
        self._rivalry: Rivalry | None = None
        self._turn: Turn | None = None
        self._begun = 0.0

    def __enter__(self) -> Self:
        if self._stream is not None and (rivalry := self._proxy.rivalries().get(self._stream)) is not None:
            self._rivalry = rivalry
            self._turn = rivalry.kept()
            rivalry.note_return()
            if self._turn is not None and not self._turn.has_time:
                self._give_back()
            if self._turn is None and rivalry.is_hot:
                self._take_turn(rivalry, self._stream)
            self._begun = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        rivalry = self._rivalry
        if rivalry is None:
            return
        if self._turn is not None and self.is_done and self._stream is not None and self._turn.has_time:
            rivalry.keep(self._turn)
        else:
            self._give_back()
        rivalry.leave()

    def succeed(self) -> None:
        super().succeed()
        rivalry = self._rivalry
        if rivalry is None:
            return
        if self._turn is not None:
            self._note_commit(rivalry, self._turn)
        elif self.count == 1:
            rivalry.note_peace()
            if rivalry.heat <= 0 and self._stream is not None:
                self._proxy.rivalries().forget(self._stream)

    def pause(self, stream: str | None = None) -> bool:
        if self._rivalry is not None and self._turn is not None:
            self._note_commit(self._rivalry, self._turn)
            self._give_back()
        if stream is None:
            stream = self._stream
        if stream is None:
            return super().pause()
        rivalry = self._rivalry = self._proxy.rivalries().begin(stream)
        rivalry.note_conflict()
        if rivalry.is_hot and self.seconds_left() > 0:
            self._take_turn(rivalry, stream)
            if self._turn is not None:
                self._begun = time.monotonic()
                self.count += 1
                return True
        return super().pause()

    def _note_commit(self, rivalry: Rivalry, turn: Turn) -> None:
        if self._stream is not None:  # else it need not have had to do with the stream
            turn.commits -= 1
        rivalry.note_evaluation(time.monotonic() - self._begun)

    def _take_turn(self, rivalry: Rivalry, stream: str) -> None:
        commits = 1 if self._stream is None else rivalry.commits_wanted()
        lease = rivalry.lease_for(commits)
        given = self._proxy.turn(stream, commits, lease, rivalry.idle, max(0.0, self.seconds_left()))
        if given is not None:
            number, rivals = given
            rivalry.note_rivals(rivals)
            now = time.monotonic()
            self._turn = Turn(stream, number, commits, now + slice_for(rivals), now + lease)

    def _give_back(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None and not turn.is_over:
            self._proxy.give_back(turn.stream, turn.number)
