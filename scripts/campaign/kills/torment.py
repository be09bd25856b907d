"""One store's files and their history, through many kills of the process that writes them.

After each kill the new part of the log is audited, from time to time all of it, after a recovery.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from books import pretend_reboot

from campaign.kills import logbook
from campaign.kills.audit import Audit, Frame, Sent, Stream, faults_of
from campaign.kills.lone_writer import BATCH, BEGUN, PLANTED, RECOVERED, Child, Faults, Todo, batches, no_faults
from campaign.kills.notebook import Notebook
from campaign.kills.steps import CAP, Step, large_steps, steps
from maestro_shm.errors import StoreError
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import EVENT
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import SEGMENT_BITS, SEGMENT_SIZE, START
from maestro_shm.shared.reader import Reader

_STEPS: Final = 200
"""As many as one child may get through."""


class Counts(NamedTuple):
    """What the kills met."""

    kills: int = 0
    in_recovery: int = 0
    unpublished: int = 0
    """Commits that were written whole and not published yet when the kill came."""
    unanswered: int = 0
    """Commits that were published, and not acknowledged yet."""
    reboots: int = 0
    steps: int = 0
    resets: int = 0
    segments: int = 0
    generations: int = 0

    def plus(self, **more: int) -> Counts:
        return self._replace(**{name: getattr(self, name) + count for name, count in more.items()})

    def and_those_of(self, other: Counts) -> Counts:
        return Counts(*map(int.__add__, self, other))


class Torment:
    """One store and its history, through many kills."""

    def __init__(self, directory: Path, choices: random.Random, *, resets: bool = True) -> None:
        self.directory = directory
        self.faults: list[str] = []
        self.counts = Counts()
        self._choices = choices
        self._supply = steps(choices, resets=resets)
        self._large_steps = large_steps()
        self._todo: deque[Step] = deque()
        self._begin()

    def kill_once(self, notebook: Notebook, faults: Faults = no_faults) -> None:
        """Let a child begin, kill it at some moment, and audit what it leaves."""
        resent = [(step, True) for step in self._open] if self._choices.random() < 0.6 else []
        while len(self._todo) < _STEPS:
            self._todo.append(next(self._supply))
        todo = resent + [(step, False) for step in self._todo]
        child = Child(self.directory, notebook, todo, faults, waits_for_disk=self._waits_for_disk)
        try:
            self._wait_for_the_moment(child, planted=faults is not no_faults)
        finally:
            failure = child.kill()
        if failure:
            self.faults.append(failure)
        self._hear(list(notebook.notes()), todo)
        self._checked(self._audit_new)

    def fill_segment(self) -> None:
        """Bring the log so near to the end of a segment that one of the next large commits goes into another."""
        if self._segment > 1:
            self.clear()  # to audit all of a large one takes long
        journal = self._recover()
        while logbook.words_of(self.directory)[head.PUBLISHED] % SEGMENT_SIZE < SEGMENT_SIZE - 2 * CAP:
            step = next(self._large_steps)
            answer = step.do(journal, resent=False)
            journal.settle()
            self._expect(step.as_told(answer))
        journal.close()
        self._checked(self._audit_new)

    def reboot(self) -> None:
        """Pretend that the machine was started anew, and that all was on its disk."""
        if (self.directory / head.NAME).exists():
            pretend_reboot(self.directory)
            self.counts = self.counts.plus(reboots=1)

    def check_all(self) -> None:
        """Recover once more, and audit the whole store."""
        self._checked(self._audit_all)

    def clear(self) -> None:
        """Begin again with nothing."""
        self.close()
        shutil.rmtree(self.directory)
        self._begin()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _recover(self) -> Journal:
        return Journal.open(self.directory, max_commit_bytes=CAP, waits_for_disk=self._waits_for_disk)

    def _begin(self) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._reader: Reader | None = None
        self._incarnation = 1
        self._waits_for_disk = self._choices.random() < 0.4
        self._forget()

    def _forget(self) -> None:
        """Nothing of what there was may be there from now on."""
        self._audit = Audit()
        self._sent: dict[bytes, Sent] = {}
        self._offset = START
        self._segment, self._generation = 0, 1
        self._open: list[Step] = []

    def _wait_for_the_moment(self, child: Child, *, planted: bool) -> None:
        child.wait_for(BEGUN)
        if planted:
            # So often that the child has noted what it was told at the first of these faults.
            all(child.wait_for(PLANTED) for _ in range(BATCH + 1))
        elif self._choices.random() < 0.2:
            time.sleep(self._choices.uniform(0, 0.002))  # the moment is to be any
            return
        else:
            child.wait_for(RECOVERED)
        time.sleep(10 ** self._choices.uniform(-5, -1.7))  # the same; more often soon than late

    def _hear(self, notes: list[Any], todo: Todo) -> None:
        """Write down what became of the child's steps. Those of the batch behind the last note are open."""
        said = notes[1:]
        self.counts = self.counts.plus(kills=1, in_recovery=not notes, steps=len(said))
        if not notes:
            return  # it did nothing, and what was open stays so
        self._open = []
        for (step, resent), answer in zip(todo, said, strict=False):
            self._take(step, resent=resent)
            if step.is_reset:
                self._count_reset()
            else:
                self._expect(step.as_told(answer))
        for step, resent in self._under_way(len(said), todo):
            self._take(step, resent=resent)
            self._leave_open(step)

    def _under_way(self, done: int, todo: Todo) -> Todo:
        for batch in batches(todo, waits_for_disk=self._waits_for_disk):
            if done < len(batch):
                return batch[done:]
            done -= len(batch)
        return []

    def _take(self, step: Step, *, resent: bool) -> None:
        if not resent:
            assert self._todo.popleft() is step

    def _leave_open(self, step: Step) -> None:
        if not step.is_reset:
            self._open.append(step)
            self._expect(step.as_open())
        elif self._has_been_reset():
            self._count_reset()

    def _has_been_reset(self) -> bool:
        """Whether the reset that was under way took place, or will with the next recovery."""
        words = logbook.words_of(self.directory)
        return words[head.INCARNATION] != self._incarnation or words[head.GENERATION] == head.RETIRED

    def _count_reset(self) -> None:
        self._incarnation += 1
        self.counts = self.counts.plus(resets=1)
        self._forget()

    def _expect(self, sent: Sent) -> None:
        self._sent[sent.entries[0].content] = sent
        self._audit.expect(sent)

    def _checked(self, check: Callable[[], None]) -> None:
        """Damage that a check comes upon is a fault as any other."""
        try:
            check()
        except (StoreError, OSError, ValueError) as error:
            self.faults.append(f"{type(error).__name__}: {error}")
        self.faults += self._audit.faults
        self._audit.faults.clear()

    def _audit_new(self) -> None:
        if not (self.directory / head.NAME).exists():
            self._audit.settle()
            return
        words = logbook.words_of(self.directory)
        if words[head.GENERATION] == head.RETIRED and self._has_been_reset():
            return  # its files are of the former incarnation still
        if words[head.INCARNATION] != self._incarnation:
            self.faults.append(f"incarnation {words[head.INCARNATION]} after {self._incarnation - 1} resets")
        frames, end = logbook.published_frames(self.directory, self._offset)
        if end < self._offset:
            self.faults.append(f"the log ended at {self._offset}, and ends at {end} now")
        self._offset = end
        for frame in frames:
            self._audit.read(frame)
        self._audit.settle()
        self._compare_new({entry.stream for frame in frames for entry in frame})
        self._count_what_was_met(frames, words)

    def _count_what_was_met(self, frames: list[Frame], words: list[int]) -> None:
        end = self._offset
        unpublished = logbook.is_followed(self.directory, end)
        last = frames[-1][0].content if frames else b""
        unanswered = any(step.entries[0].content == last for step in self._open)
        grown = self._segment != end >> SEGMENT_BITS, self._generation != words[head.GENERATION]
        self._segment, self._generation = end >> SEGMENT_BITS, words[head.GENERATION]
        self.counts = self.counts.plus(
            unpublished=unpublished, unanswered=unanswered, segments=grown[0], generations=grown[1]
        )

    def _compare_new(self, streams: set[Stream]) -> None:
        """What a reader sees that was open all the time, of the newest part of what has changed."""
        if self._reader is None:
            self._reader = Reader(self.directory)
        for stream in streams:
            stored = self._audit.streams[stream]
            since = stored[max(0, len(stored) - 20)].sequence if stream[0] == EVENT else 0
            self._audit.compare(stream, logbook.seen_by(self._reader, [stream], since)[stream], since=since)

    def _audit_all(self) -> None:
        journal = self._recover()
        journal.close()
        if self._has_been_reset():
            self.faults.append("it was reset by nobody")
        history = logbook.history_of(self.directory, list(self._sent.values()))
        self.faults += faults_of(history) + logbook.faults_of_figures(self.directory, history.frames)
