"""Turns: of the clients that decide on one stream at the same time each has its turn, in the order in which they asked.

A turn is for some commits to its stream, and a short lease. It is over after the last of them, whatever becomes of it,
when its client gives it back or leaves, when the lease ends, or when too long nothing follows on a commit. Until then
the commits of others to the stream are held back: each once, until its holder's next commit, so that who asks for no
turn cannot take those of the others.
A turn is a courtesy and no lock: the journal decides as ever, and a server that is killed forgets them without harm.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from maestro_shm.errors import shown
from maestro_shm.shared.frame import EVENT, MAX_KEY_BYTES
from maestro_shm.shared.peer import Peer
from maestro_shm.shared.stream_terms import CLIENT_BYTES, LONGEST_LEASE, MOST_COMMITS

_LONGEST_WAIT: Final = 3600.0
_MOST_STREAMS: Final = 1024
"""That have turns at once; beyond them a client is told to do without."""

Answer = tuple[Peer, int, list[Any] | None]
"""To a request for a turn: who gets it, the request's number, and the turn's number with how many others want one; or
None where none came free in time."""


class Asked(NamedTuple):
    """In place of a reply: who asks wants a turn, until a time of `time.monotonic`, for so many commits and seconds.

    After each of the commits the next one comes within `idle` seconds, or the turn is over.
    """

    stream: str
    client: bytes
    commits: int
    lease: float
    idle: float
    deadline: float


class Commit(NamedTuple):
    """A commit, as far as turns have to do with it."""

    client: bytes
    writes: Collection[str]
    reads: Collection[str]
    """The streams to which it has events, and those that it was decided by besides."""


class HeldBack(NamedTuple):
    """A commit that waits until the holder of its stream's turn has made one."""

    peer: Peer
    payload: bytes
    by_mail: bool


@dataclass(slots=True)
class _Turn:
    peer: Peer
    number: int
    """The request's."""
    terms: Asked
    commits: int
    """How many are left."""
    deadline: float
    """When the client wants it no more; once it has it, when it is over unless something happens."""
    ends: float
    """When it is over whatever happens, once the client has it."""
    found: int
    """How many were before it when it was asked for."""


_Queue = dict[int, _Turn]
"""By the turns' numbers, which rise. The first one is held, the others are waited for."""


class StreamTurns:
    """Of all streams that clients compete for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.streams: dict[str, _Queue] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[Peer, str] = {}
        self._held_back: dict[str, list[HeldBack]] = {}
        self._held_back_peers: set[Peer] = set()
        self._answers: list[Answer] = []
        self._released: list[HeldBack] = []
        self._earliest = math.inf
        """No deadline is before it."""

    def __len__(self) -> int:
        return len(self.streams) + len(self._answers) + len(self._released)

    def ask(self, peer: Peer, number: int, asked: Asked) -> bool:
        """Whether the client waits for its turn now, or has it: not if it waits for one already."""
        if peer in self._waiting:
            return False
        if asked.stream not in self.streams and len(self.streams) >= _MOST_STREAMS:
            self._answers.append((peer, number, None))
            return True
        queue = self.streams.setdefault(asked.stream, {})
        turn = _Turn(peer, number, asked, asked.commits, asked.deadline, math.inf, len(queue))
        queue[next(self._numbers)] = turn
        self._waiting[peer] = asked.stream
        self._earliest = min(self._earliest, turn.deadline)
        if len(queue) == 1:
            self._grant_first(asked.stream)
        return True

    def give_back(self, stream: str, number: int) -> None:
        """Let the next one have it, if it is still this turn."""
        queue = self.streams.get(stream)
        if queue and next(iter(queue)) == number:
            self._end(stream)

    def waits_for(self, commit: Commit) -> str | None:
        """The stream whose turn another client has, if there is any, and this one has the turn of none."""
        against = None
        for stream in commit.writes:
            if queue := self.streams.get(stream):
                if _first(queue).terms.client == commit.client:
                    return None
                against = stream
        return against

    def hold_back(self, stream: str, held_back: HeldBack) -> bool:
        """Whether it could be: not if another commit of the same client is."""
        if held_back.peer in self._held_back_peers:
            return False
        self._held_back_peers.add(held_back.peer)
        self._held_back.setdefault(stream, []).append(held_back)
        return True

    def note(self, commit: Commit) -> None:
        """It has been made, or has met a conflict."""
        for stream in {*commit.writes, *commit.reads}:
            queue = self.streams.get(stream)
            if not queue or (turn := _first(queue)).terms.client != commit.client:
                continue
            turn.commits -= 1
            if turn.commits > 0:
                turn.deadline = min(turn.ends, self._clock() + turn.terms.idle)
                self._earliest = min(self._earliest, turn.deadline)
                self._release(stream)
            else:
                self._end(stream)

    def forget(self, peer: Peer) -> None:
        """It has left."""
        self._waiting.pop(peer, None)
        if peer in self._held_back_peers:
            self._held_back_peers.discard(peer)
            self._held_back = {
                stream: left
                for stream, commits in self._held_back.items()
                if (left := [commit for commit in commits if commit.peer is not peer])
            }
        for stream, queue in list(self.streams.items()):
            # The last first: who has a turn and waits for another one must not be given that.
            for number in reversed([number for number, turn in queue.items() if turn.peer is peer]):
                self._remove(stream, number)

    def expire(self, now: float) -> None:
        """End the turns whose lease is over, and the waits of those who do not want to wait any longer."""
        if now < self._earliest:
            return
        for stream, queue in list(self.streams.items()):
            for number in [number for number, turn in queue.items() if turn.deadline <= now]:
                if queue[number].deadline <= now:  # it may have become the first just now
                    self._give_up(stream, number)
        self._earliest = min(
            (turn.deadline for queue in self.streams.values() for turn in queue.values()), default=math.inf
        )

    def released(self) -> list[HeldBack]:
        """The commits that are to be carried out now."""
        released, self._released = self._released, []
        for commit in released:
            self._held_back_peers.discard(commit.peer)
        return released

    def answers(self) -> list[Answer]:
        """What is to be said to those who asked, once whatever was released is carried out."""
        answers, self._answers = self._answers, []
        return answers

    def seconds(self, now: float, most: float) -> float:
        """For how long at most there is nothing to do."""
        return 0.0 if self._answers or self._released else max(0.0, min(most, self._earliest - now))

    def _give_up(self, stream: str, number: int) -> None:
        turn = self.streams[stream][number]
        if self._waiting.get(turn.peer) == stream and next(iter(self.streams[stream])) != number:
            del self._waiting[turn.peer]
            self._answers.append((turn.peer, turn.number, None))
        self._remove(stream, number)

    def _remove(self, stream: str, number: int) -> None:
        queue = self.streams[stream]
        if next(iter(queue)) == number:
            self._end(stream)
        else:
            del queue[number]

    def _end(self, stream: str) -> None:
        queue = self.streams[stream]
        del queue[next(iter(queue))]
        self._release(stream)
        if queue:
            self._grant_first(stream)
        else:
            del self.streams[stream]

    def _grant_first(self, stream: str) -> None:
        queue = self.streams[stream]
        number, turn = next(iter(queue.items()))
        turn.deadline = turn.ends = self._clock() + turn.terms.lease
        self._earliest = min(self._earliest, turn.deadline)
        self._waiting.pop(turn.peer, None)
        self._answers.append((turn.peer, turn.number, [number, max(turn.found, len(queue) - 1)]))

    def _release(self, stream: str) -> None:
        self._released += self._held_back.pop(stream, [])


def asked(stream: object, client: object, commits: object, *milliseconds: object) -> Asked:
    """What a client asks for: for how long at most, for how long without a commit, and until when it is wanted.

    Raises `TypeError` and `ValueError` for what cannot be that.
    """
    if type(stream) is not str or type(client) is not bytes:
        raise TypeError(f"a turn is for a stream and a client, not {shown(stream)} and {shown(client)}")
    seconds = [number / 1000 for number in milliseconds if type(number) is int]
    if type(commits) is not int or len(seconds) != len(milliseconds):
        raise TypeError(f"a turn is for numbers, not {shown((commits, *milliseconds))}")
    if len(stream) > MAX_KEY_BYTES or len(client) != CLIENT_BYTES:
        raise ValueError(f"no stream or client: {shown(stream)}, {shown(client)}")
    lease, idle, patience = seconds
    return Asked(
        stream,
        client,
        max(1, min(commits, MOST_COMMITS)),
        max(0.0, min(lease, LONGEST_LEASE)),
        max(0.0, idle),
        time.monotonic() + min(patience, _LONGEST_WAIT),
    )


def commit_of(method: str, arguments: tuple[Any, ...]) -> Commit | None:
    """What a call of the journal is to turns; None if it is no commit, or one that the journal will refuse."""
    try:
        if method == "commit_events":
            commit_id, rows, _ = arguments
            return Commit(commit_id[:CLIENT_BYTES], {row[0] for row in rows}, ())
        if method == "commit_each":
            commits, _ = arguments
            return Commit(commits[0][0][:CLIENT_BYTES], {row[0] for _, rows, _ in commits for row in rows}, ())
        if method == "commit":
            commit_id, rows, _, reads, _ = arguments
            read = {name for kind, name, _, _ in reads if kind == EVENT}
            return Commit(commit_id[:CLIENT_BYTES], {row[0] for row in rows}, read)
    except (TypeError, ValueError, LookupError):
        pass
    return None


def _first(queue: _Queue) -> _Turn:
    return next(iter(queue.values()))
