"""A random life of a store, recorded: commits alone and in groups, snapshots, restarts, kills, resets.

What may be there after a loss of power is noted beside, by its time. Nothing is random but by the script's own choices.
"""

from __future__ import annotations

import contextlib
import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from campaign.power.inspection import LossError, identify
from campaign.power.ledger import Commit, Contents, World
from campaign.power.recorder import Recorder
from campaign.power.small import LARGEST_COMMIT
from maestro_shm import validation
from maestro_shm.options import POWER
from maestro_shm.records import Event, Snapshot
from maestro_shm.shared import directory as directories
from maestro_shm.shared.directory import Settings
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.reader import Reader

_FIRST_GUESS: Final = 200
"""Lines of the store's code in a call that was not seen yet."""


@dataclass(frozen=True)
class Taste:
    """What lives are like."""

    sizes: tuple[tuple[int, ...], ...] = ((20,), (0, 20, 60, 120), (700,), (100, 800))
    """Of bodies: of one size, so that what was cut off fits in with what follows, or not; soon filling a segment."""
    actions: tuple[int, ...] = (0, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 10)
    weights: tuple[float, ...] = (14, 3, 2, 0.7)
    """Of commits, kills, restarts and resets."""
    groups: tuple[int, ...] = (1, 1, 1, 2, 3, 8)
    """How many commits are settled at once."""
    second_losses: float = 1 / 400
    """The share of recoveries that a second loss of power follows."""


OF_ALL_KINDS: Final = Taste()
FILLING_SEGMENTS: Final = Taste(sizes=((700,), (100, 800)), actions=(8,), weights=(10, 1, 1, 0))
OFTEN_RESET: Final = Taste(actions=(2, 4), weights=(3, 0, 1, 3))
OFTEN_KILLED: Final = Taste(actions=(2, 4), weights=(1, 3, 0, 0))
ALIKE: Final = Taste(sizes=((600,),), actions=(1,), weights=(1, 0, 0, 0), groups=(1, 3), second_losses=1 / 10)
ALIKE_AND_KILLED: Final = Taste(
    sizes=((600,),), actions=(2, 4), weights=(1, 3, 0, 0), groups=(1, 3), second_losses=1 / 10
)
BEGINNING: Final = Taste(actions=(0, 1), weights=(1, 0, 0, 1), second_losses=1 / 30)


class Script:
    """One life. `worlds` tells for each time in what worlds the store may be after a loss of power."""

    def __init__(
        self, recorder: Recorder, choices: random.Random, durability: str, taste: Taste, commits: list[Commit] | None
    ) -> None:
        self.recorder = recorder
        self.directory = recorder.directory
        self.durability = durability
        self._random = choices
        self._sent = list(commits or [])
        self._durable = self._acknowledged = len(self._sent)
        self._journal: Journal | None = None
        self._left: list[Journal] = []
        self._steps: dict[str, int] = {}
        self._worlds: list[tuple[World, ...]] = []
        self._times: list[int] = []
        self._taste = taste
        self._sizes = choices.choice(taste.sizes)
        self._keys = [f"a{number:02}" for number in range(choices.choice((2, 5, 12)))]
        self._note()
        self.start: Final = self._times[0]

    def live(self, actions: int) -> None:
        """Open the store, and do so many random things with it."""
        self._open_after_kills(0.3)
        for _ in range(actions):
            self._random.choices(_ACTIONS, self._taste.weights)[0](self)

    def worlds(self, now: int) -> tuple[World, ...]:
        """In what worlds the store may be if the power goes at this time."""
        return self._worlds[bisect_right(self._times, now) - 1]

    def close(self) -> None:
        """Let go of the store; the recorder has let the killed go before."""
        for journal in self._left:
            journal.close()
        if self._journal is not None:
            self._journal.close()

    # What may happen.

    def _commit_group(self) -> None:
        self._run("commit", lambda: self._send_group(self._random.choice(self._taste.groups), doomed=False))
        self._acknowledge()

    def _kill_in_commit(self) -> None:
        count = self._random.choice((1, 2, 4))
        if self._kill("commit", lambda: self._send_group(count, doomed=True), count):
            unanswered = self._sent[self._acknowledged :]
            self._open_after_kills(0.2)
            if self._random.random() < 0.5:
                self._run("commit", lambda: self._resend(unanswered))
        self._acknowledge()

    def _restart(self) -> None:
        journal = self._opened()
        if self._random.random() < 0.5:
            self._run("secure", journal.secure)
            self._acknowledge(durable=True)
        journal.close()
        self._journal = None
        self._open_after_kills(0.3)

    def _reset(self) -> None:
        self._note(World([], 0))
        if self._random.random() < 0.5:
            self._run("reset", self._opened().reset)
            self._begin_anew()
        elif self._kill("reset", self._opened().reset, 1):
            self._open_after_kills(0.2, World([], 0))
        else:
            self._begin_anew()

    # How.

    def _begin_anew(self) -> None:
        self._sent, self._durable, self._acknowledged = [], 0, 0
        self._note()

    def _open_after_kills(self, share: float, *others: World) -> None:
        """Open the store, perhaps after trials that are killed."""
        if self._journal is not None:
            self._left.append(self._journal)
            self._journal = None
        while self._random.random() < share and self._kill("open", self._open, 1):
            pass
        self._journal = self._run("open", self._open)
        with contextlib.closing(Reader(self.directory)) as reader:
            world, count = identify(reader, self._opened(), [World(self._sent, self._acknowledged), *others])
        if world in others:
            self._durable = self._acknowledged = 0
        self._sent = world.commits[:count]
        self._note()

    def _open(self) -> Journal:
        return open_store(self.directory, self.durability)

    def _send_group(self, count: int, *, doomed: bool) -> None:
        for _ in range(count):
            self._send(self._make(doomed=doomed), stamp=not doomed)
        self._opened().settle()

    def _resend(self, unanswered: list[Commit]) -> None:
        """What was not answered is sent again, as a client does; what was done all the same is not done twice."""
        known = {commit.commit_id for commit in self._sent}
        for commit in unanswered:
            if commit.commit_id in known:
                check_answer(commit, send(self._opened(), commit, resent=True))
            else:
                self._send(commit.moved_to(self._next_position()), stamp=False, resent=True)
        self._opened().settle()

    def _send(self, commit: Commit, *, stamp: bool, resent: bool = False) -> None:
        self._sent.append(commit)
        self._note()
        found = send(self._opened(), commit, resent=resent)
        if found is not None and stamp:
            commit.stamp(found[1])
        check_answer(commit, found)

    def _acknowledge(self, *, durable: bool = False) -> None:
        self._acknowledged = len(self._sent)
        if durable or self.durability == POWER:
            self._durable = len(self._sent)
        self._note()

    def _note(self, *others: World) -> None:
        self._times.append(self.recorder.tick())
        self._worlds.append((World(self._sent, self._durable), *others))

    def _next_position(self) -> int:
        return sum(len(commit.events) for commit in self._sent) + 1

    def _make(self, *, doomed: bool) -> Commit:
        """The next commit; one whose answer may never come has its timestamps from the start."""
        commit_id = self._random.randbytes(16)
        known = World(self._sent, 0).contents(len(self._sent))
        if self._random.random() < 0.15:
            return Commit(commit_id, [], self._make_snapshot(known))
        first = self._next_position()
        heads: dict[str, int] = {}
        events = []
        is_alike = len(self._sizes) == 1
        count = 1 if is_alike or max(self._sizes) > 200 else self._random.choice((1, 1, 2, 4))
        for position in range(first, first + count):
            is_new = not is_alike and self._random.random() < 0.2
            key = f"new-{self._random.getrandbits(20)}" if is_new else self._random.choice(self._keys)
            sequence = heads.get(key, known.last_sequence(key)) + self._random.choice((1, 1, 3))
            heads[key] = sequence
            given = self._random.getrandbits(50) if doomed or self._random.random() < 0.1 else None
            events.append(Event(key, sequence, "type", self._body(), given, position))
        return Commit(commit_id, events)

    def _make_snapshot(self, known: Contents) -> Snapshot:
        key = self._random.choice(self._keys)
        before = known.snapshots.get(key)
        return Snapshot(key, before.sequence + 1 if before else 0, self._body())

    def _body(self) -> bytes:
        return self._random.randbytes(self._random.choice(self._sizes))

    def _opened(self) -> Journal:
        assert self._journal is not None
        return self._journal

    def _run(self, what: str, work: Callable[[], Any]) -> Any:
        done = self.recorder.run(work)
        self._steps[what] = self.recorder.steps
        return done

    def _kill(self, what: str, work: Callable[[], Any], times: int) -> bool:
        steps = self._steps.get(what, _FIRST_GUESS) * times
        return self.recorder.run_and_kill(self._random.randint(1, steps), work)


_ACTIONS: Final = (Script._commit_group, Script._kill_in_commit, Script._restart, Script._reset)


def open_store(directory: Path, durability: str) -> Journal:
    """Do all that a client and a server do to open a store."""
    wanted = Settings(max_commit_bytes=LARGEST_COMMIT, idle_timeout=30.0, durability=durability)
    directories.make(directory, wanted)
    directories.read_key(directory)
    settings = directories.read_settings(directory)
    return Journal.open(
        directory, max_commit_bytes=settings.max_commit_bytes, waits_for_disk=settings.durability == POWER
    )


def send(journal: Journal, commit: Commit, *, resent: bool = False) -> tuple[int, list[int]] | None:
    """Send a commit; what comes back is what it was answered with, if it has events."""
    if commit.snapshot is not None:
        snapshot = commit.snapshot
        payload = validation.pack_snapshot(snapshot, LARGEST_COMMIT)
        if not journal.commit_snapshot(commit.commit_id, snapshot.aggregate_id, snapshot.sequence, payload, resent):
            raise LossError(f"{snapshot} was not stored")
        return None
    return journal.commit_events(commit.commit_id, validation.pack_events(commit.events, LARGEST_COMMIT), resent)


def check_answer(commit: Commit, answer: tuple[int, list[int]] | None) -> None:
    """Raise `LossError` if the store says that the commit is elsewhere, or was at another time."""
    if answer is None:
        return
    expected = commit.events[0].position, [event.timestamp for event in commit.events]
    if answer != expected:
        raise LossError(f"a commit was answered with {answer}, not with {expected}")
