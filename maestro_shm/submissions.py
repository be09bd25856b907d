"""Commits that nobody waits for: a thread carries them out, in the order in which they were submitted.

What waits together is carried out together. The thread lives while there is work, and a moment longer; the interpreter
waits for it at its end, so that nothing that was submitted is lost by a program that ends.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, NamedTuple

from maestro_shm.errors import StoreError
from maestro_shm.options import RECORD_OVERHEAD
from maestro_shm.records import Event
from maestro_shm.validation import PackedEvent

MOST_TOGETHER: Final = 64
"""Commits that are carried out together: a server is busy with them for half a millisecond."""
MOST_WAITING_BYTES: Final = 1 << 26
"""Who submits more waits until there is room."""
_LONGEST_CHARACTER: Final = 4
"""Bytes, in UTF-8."""
_LINGER: Final = 0.05
"""Seconds that the thread waits for more: to start one takes some 0.1 ms."""

Outcome = list[Event] | StoreError
CarryOut = Callable[[Sequence[list[PackedEvent]]], Sequence[Outcome]]
"""What becomes of some commits, each by itself, in their order."""


class _Submission(NamedTuple):
    events: list[PackedEvent]
    size: int
    carry_out: CarryOut
    future: Future[list[Event]]


class Submissions:
    """Those of one handle. Threads may share it; a forked child begins with none."""

    def __init__(self, most_bytes: int) -> None:
        """At most so many bytes are carried out together, or one commit."""
        self._most_bytes = most_bytes
        self._process = 0
        self._thread: threading.Thread | None = None
        self._begin()

    def submit(self, events: list[PackedEvent], carry_out: CarryOut) -> Future[list[Event]]:
        """Let the events be committed. The future is cancelled only as long as that has not begun.

        It keeps what `carry_out` belongs to alive. Waits while very much waits already.
        """
        if self._process != os.getpid():
            self._begin()
        size = sum(_LONGEST_CHARACTER * len(aggregate_id) + len(payload) for aggregate_id, _, _, payload in events)
        submission = _Submission(events, size + len(events) * RECORD_OVERHEAD, carry_out, Future())
        with self._changed:
            while self._bytes > MOST_WAITING_BYTES and threading.current_thread() is not self._thread:
                self._changed.wait()
            if self._thread is None:
                self._start()
            self._queue.append(submission)
            self._bytes += submission.size
            self._changed.notify_all()
        return submission.future

    def finish(self) -> None:
        """Wait until all that was submitted has been carried out, but for what the caller itself is about to do."""
        thread = self._thread
        if thread is not None and self._process == os.getpid() and thread is not threading.current_thread():
            with self._changed:
                self._is_ending = True
                self._changed.notify_all()
            thread.join()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[_Submission] = deque()
        self._bytes = 0
        self._thread = None
        self._is_ending = False
        self._process = os.getpid()

    def _start(self) -> None:
        thread = self._thread = threading.Thread(target=self._run, name="maestro_shm submissions")
        try:
            thread.start()
        except BaseException:
            self._thread = None  # it may run all the same, where a signal's handler raised: it ends then
            raise

    def _run(self) -> None:
        while batch := self._next():
            _settle(batch)
            with self._changed:
                self._bytes -= sum(submission.size for submission in batch)
                self._changed.notify_all()

    def _next(self) -> list[_Submission]:
        """The next ones that are carried out together; none when it is time to end."""
        with self._changed:
            if threading.current_thread() is not self._thread:
                return []
            if not self._queue and not self._is_ending:
                self._changed.wait_for(lambda: self._queue or self._is_ending, _LINGER)
            batch: list[_Submission] = []
            size = 0
            while self._queue and len(batch) < MOST_TOGETHER:
                size += self._queue[0].size
                if batch and size > self._most_bytes:
                    break
                batch.append(self._queue.popleft())
            if not batch:
                self._thread = None
            return batch


def _settle(batch: list[_Submission]) -> None:
    """Carry out what was not cancelled, and tell."""
    wanted = [submission for submission in batch if submission.future.set_running_or_notify_cancel()]
    if not wanted:
        return
    outcomes: Sequence[Outcome | BaseException]
    try:
        outcomes = wanted[0].carry_out([submission.events for submission in wanted])
    except BaseException as error:  # noqa: BLE001 (it is for who asks the futures)
        outcomes = [error] * len(wanted)
    for submission, outcome in zip(wanted, outcomes, strict=True):
        try:
            if isinstance(outcome, BaseException):
                submission.future.set_exception(outcome)
            else:
                submission.future.set_result(outcome)
        except BaseException:  # noqa: BLE001 (a callback may raise SystemExit, which a future lets through)
            threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()]))
