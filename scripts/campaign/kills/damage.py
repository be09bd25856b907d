"""What may be wrong with a store's files, done to a good one: what an audit of all of it has to notice."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from books import set_word, word

from campaign.kills import logbook
from maestro_shm.shared import header as head
from maestro_shm.shared import index as tables
from maestro_shm.shared.frame import FRAME_HEADER
from maestro_shm.shared.log import SEGMENT_SIZE, START, Log
from maestro_shm.shared.mapped import MappedFile


def _cut_the_log(directory: Path, choices: random.Random) -> None:
    """Forget the last commits, as a recovery would that stops too early."""
    set_word(directory, head.PUBLISHED, choices.choice(_offsets(directory)[:-1]))


def _flip_a_bit(directory: Path, choices: random.Random) -> None:
    offset = choices.choice(_offsets(directory)) + choices.randrange(FRAME_HEADER.size)
    with _log_file(directory, offset).open("r+b") as file:
        file.seek(offset % SEGMENT_SIZE)
        before = file.read(1)[0]
        file.seek(offset % SEGMENT_SIZE)
        file.write(bytes([before ^ 1 << choices.randrange(8)]))


def _make_a_commit_void(directory: Path, choices: random.Random) -> None:
    """As a recovery would that undoes a published one."""
    log = Log(directory, word(directory, head.INCARNATION), writable=True)
    found = list(log.whole_frames(START))
    tails = [START, *(frame.end for frame, _ in found)]
    published = word(directory, head.PUBLISHED)
    tail, frame = choices.choice(
        [
            (tail, frame)
            for tail, (frame, records) in zip(tails, found, strict=False)
            if records and frame.offset < published
        ]
    )
    log.make_void(frame, tail)
    log.close()


def _repeat_a_commit(directory: Path, choices: random.Random) -> None:
    """Publish what is there once more, at its end; the CRC of another place gives it away."""
    offset, end = choices.choice(_offsets(directory)), word(directory, head.PUBLISHED)
    log = Log(directory, word(directory, head.INCARNATION), writable=False)
    length = next(frame for frame, _ in log.whole_frames(offset)).length
    if end % SEGMENT_SIZE + length <= SEGMENT_SIZE:
        with _log_file(directory, offset).open("rb") as file:
            file.seek(offset % SEGMENT_SIZE)
            frame = file.read(length)
        with _log_file(directory, end).open("r+b") as file:
            file.seek(end % SEGMENT_SIZE)
            file.write(frame)
    set_word(directory, head.PUBLISHED, end + length)


def _forget_a_stream(directory: Path, choices: random.Random) -> None:
    """As an index would that was built anew without it."""
    table, used = _table(directory)
    table.words[choices.choice(used)] = 0
    table.close()


def _mix_two_streams(directory: Path, choices: random.Random) -> None:
    table, used = _table(directory)
    one, other = choices.sample(used, 2)
    table.words[one], table.words[other] = table.words[other], table.words[one]
    table.close()


def _mislead_a_position(directory: Path, choices: random.Random) -> None:
    incarnation, last = word(directory, head.INCARNATION), word(directory, head.LAST_POSITION)
    positions = MappedFile.open(directory / f"positions-{incarnation}-000000", writable=True)
    one, other = choices.sample(range(1, min(last, len(positions.words) - 1) + 1), 2)
    positions.words[one] = positions.words[other]
    positions.close()


def _miscount_events(directory: Path, _: random.Random) -> None:
    set_word(directory, head.LAST_POSITION, word(directory, head.LAST_POSITION) - 1)


def _miscount_aggregates(directory: Path, _: random.Random) -> None:
    set_word(directory, head.AGGREGATES, word(directory, head.AGGREGATES) + 1)


def _offsets(directory: Path) -> list[int]:
    """Where the published commits begin."""
    words = logbook.words_of(directory)
    log = Log(directory, words[head.INCARNATION], writable=False)
    frames = [frame for frame, records in log.whole_frames(START) if records]
    return [frame.offset for frame in frames if frame.offset < words[head.PUBLISHED]]


def _log_file(directory: Path, offset: int) -> Path:
    return directory / f"log-{word(directory, head.INCARNATION)}-{offset // SEGMENT_SIZE:06d}"


def _table(directory: Path) -> tuple[MappedFile, list[int]]:
    """The index, and which of its words lead to a record."""
    words = logbook.words_of(directory)
    path = tables.path(directory, words[head.INCARNATION], words[head.GENERATION])
    table = MappedFile.open(path, writable=True)
    return table, [number for number in range(3, len(table.words), 2) if table.words[number]]


KINDS: Final[tuple[Callable[[Path, random.Random], None], ...]] = (
    *(_cut_the_log, _flip_a_bit, _make_a_commit_void, _repeat_a_commit),
    *(_forget_a_stream, _mix_two_streams, _mislead_a_position, _miscount_events, _miscount_aggregates),
)
