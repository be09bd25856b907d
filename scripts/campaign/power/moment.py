"""A moment at which the power goes, and the states that the disk may then be in.

Each sector has its content as of its last flush, or any later one; each change of a name that was not flushed has
happened or has not; a file whose size was not flushed may be as long as at any time since. A word of 8 bytes is never
torn, a sector may be: it may hold some words from before one store and some from after it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from campaign.power.disk import SECTOR, Change, History, Inode
from maestro_shm.shared import log

_WORD: Final = 8
_WORDS: Final = SECTOR // _WORD


class State(NamedTuple):
    """What a disk holds of a store's directory: its files by name, or None where the directory itself is not there."""

    files: tuple[tuple[str, bytes], ...] | None

    def build(self, directory: Path) -> None:
        """Make it so; nothing is there yet."""
        if self.files is None:
            return
        os.mkdir(directory, 0o700)  # noqa: PTH102 (a path's own methods take twice as long)
        for name, content in self.files:
            descriptor = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.write(descriptor, content)
            os.close(descriptor)

    def has_more(self, incarnation: int, end: int) -> bool:
        """Whether the log goes on with something behind this offset, where it was cut off."""
        number, start = divmod(end, log.SEGMENT_SIZE)
        content = dict(self.files or ()).get(f"log-{incarnation}-{number:06d}", b"")
        return bool(content[start:].strip(b"\0"))


class _Pending(NamedTuple):
    """A sector of which the disk may have several versions; the oldest is what it has for sure."""

    inode: int
    sector: int
    versions: list[bytes]


Choice = Callable[[_Pending], bytes]


class Moment:
    """The states that are possible at one time of a history."""

    def __init__(self, history: History, now: int, choices: random.Random) -> None:
        self._random = choices
        self._names, self._changes = history.names.split(now)
        above, self._changes_above = history.above.split(now)
        self._is_there = bool(above)
        known = set(self._names.values()) | {number for change in self._changes for _, number in change.led}
        self._sizes: dict[int, list[int]] = {}
        self._images: dict[int, bytes] = {}
        self._pending: list[_Pending] = []
        for number, inode in history.inodes.items():  # in the order in which they came, whatever their numbers are
            if number in known:
                self._look_at(inode, now)
        self._kinds = _kinds_of(self._names, self._changes)

    @property
    def is_open(self) -> bool:
        """Whether there is anything that the disk may have or not."""
        return bool(self._pending or self._changes or self._changes_above)

    def state(self) -> State:
        """One of the states, chosen at random, strange ones before all."""
        choices = self._random
        if not self._keeps_directory():
            return State(None)
        names = self._choose_names()
        choose = choices.choice(_WAYS)(self)
        sectors: dict[int, dict[int, bytes]] = {}
        for pending in self._pending:
            sectors.setdefault(pending.inode, {})[pending.sector] = choose(pending)
        if self._pending and choices.random() < 0.2:
            self._tear(sectors)
        whole = choices.random() < 0.6
        return State(
            tuple((name, self._content(number, sectors, whole=whole)) for name, number in sorted(names.items()))
        )

    def _look_at(self, inode: Inode, now: int) -> None:
        self._sizes[inode.number] = sizes = inode.size.between(inode.size_flushed(now), now)
        image = bytearray(max(sizes))
        for sector, known in inode.sectors.items():
            versions = known.between(inode.flushed(sector, now), now)
            start = sector * SECTOR
            room = len(image) - start
            if room > 0:
                image[start : start + SECTOR] = versions[0][:room]
            if len(versions) > 1:
                self._pending.append(_Pending(inode.number, sector, versions))
        self._images[inode.number] = bytes(image)

    def _keeps_directory(self) -> bool:
        return self._is_there or any(self._random.random() < 0.8 for _ in self._changes_above)

    def _choose_names(self) -> dict[str, int]:
        names = dict(self._names)
        share = self._random.choice((0.0, 0.5, 0.9, 1.0, 1.0))
        for change in self._changes:
            if self._random.random() < share:
                change.apply(names)
        return names

    def _content(self, number: int, sectors: dict[int, dict[int, bytes]], *, whole: bool) -> bytes:
        content = self._images[number]
        if changed := sectors.get(number):
            image = bytearray(content)
            for sector, version in changed.items():
                start = sector * SECTOR
                image[start : start + SECTOR] = version[: max(len(image) - start, 0)]
            content = bytes(image)
        sizes = self._sizes[number]
        size = sizes[-1] if whole or len(sizes) == 1 else self._random.choice(sizes)
        return content if size == len(content) else content[:size]

    def _tear(self, sectors: dict[int, dict[int, bytes]]) -> None:
        """Let some sectors hold words from before one store and words from after it."""
        for pending in self._random.sample(self._pending, self._random.randint(1, min(3, len(self._pending)))):
            last = self._random.randrange(1, len(pending.versions))
            torn = _mix(pending.versions[last - 1], pending.versions[last], self._random)
            sectors[pending.inode][pending.sector] = torn

    # The ways in which a disk may have kept what it was not told to keep.

    def nothing(self) -> Choice:
        return lambda pending: pending.versions[0]

    def everything(self) -> Choice:
        return lambda pending: pending.versions[-1]

    def only_one(self) -> Choice:
        chosen = self._chosen()
        return lambda pending: pending.versions[-1 if pending is chosen else 0]

    def all_but_one(self) -> Choice:
        chosen = self._chosen()
        return lambda pending: pending.versions[0 if pending is chosen else -1]

    def only_log(self) -> Choice:
        return lambda pending: pending.versions[-1 if self._kinds[pending.inode] == "log" else 0]

    def all_but_log(self) -> Choice:
        return lambda pending: pending.versions[0 if self._kinds[pending.inode] == "log" else -1]

    def log_at_random(self) -> Choice:
        index = self._random.choice((0, -1))
        any_one = self.any_version()
        return lambda pending: any_one(pending) if self._kinds[pending.inode] == "log" else pending.versions[index]

    def log_with_a_gap(self) -> Choice:
        """All of the log but one sector, and the other files new or old: what lies behind a gap is not to be had."""
        logs = [pending for pending in self._pending if self._kinds[pending.inode] == "log"]
        gap = self._random.choice(logs) if logs else None
        index = self._random.choice((0, -1))
        return lambda pending: pending.versions[
            0 if pending is gap else -1 if self._kinds[pending.inode] == "log" else index
        ]

    def new_or_old(self) -> Choice:
        share = self._random.choice((0.1, 0.5, 0.9))
        return lambda pending: pending.versions[-1 if self._random.random() < share else 0]

    def any_version(self) -> Choice:
        return lambda pending: self._random.choice(pending.versions)

    def back_to_front(self) -> Choice:
        """The newest sectors only: what was written last has come first."""
        if not self._pending:
            return self.nothing()
        cut = self._random.randrange(len(self._pending))
        kept = {id(pending) for pending in sorted(self._pending, key=lambda one: (one.inode, one.sector))[cut:]}
        return lambda pending: pending.versions[-1 if id(pending) in kept else 0]

    def _chosen(self) -> _Pending | None:
        return self._random.choice(self._pending) if self._pending else None


_WAYS: Final[Sequence[Callable[[Moment], Choice]]] = (
    Moment.nothing,
    Moment.everything,
    Moment.only_one,
    Moment.all_but_one,
    Moment.only_log,
    Moment.all_but_log,
    Moment.log_at_random,
    Moment.log_at_random,
    Moment.log_with_a_gap,
    Moment.log_with_a_gap,
    Moment.new_or_old,
    Moment.any_version,
    Moment.any_version,
    Moment.back_to_front,
)


def _kinds_of(names: dict[str, int], changes: Sequence[Change]) -> dict[int, str]:
    led = [*names.items(), *(pair for change in changes for pair in change.led)]
    return {number: name.partition("-")[0] for name, number in led}


def _mix(before: bytes, after: bytes, choices: random.Random) -> bytes:
    """The first words of one and the last of the other, or each word of either."""
    if choices.random() < 0.5:
        cut = choices.randrange(_WORDS + 1) * _WORD
        return after[:cut] + before[cut:]
    mask = choices.getrandbits(_WORDS)
    words = range(_WORDS)
    return b"".join((after if mask >> n & 1 else before)[n * _WORD : (n + 1) * _WORD] for n in words)
