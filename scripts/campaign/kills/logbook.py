"""A store's log as its files have it, frame by frame, whoever serves it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from campaign.kills.audit import Entry, Frame, History, Sent, Stream, entry_of_record, streams_seen
from maestro_shm.records import MAX_SEQUENCE
from maestro_shm.shared import header as head
from maestro_shm.shared.log import START, Log
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.positions import Positions
from maestro_shm.shared.reader import Reader


def words_of(directory: Path) -> list[int]:
    """The words of the header at this moment."""
    header = MappedFile.open(directory / head.NAME)
    words = list(header.words)
    header.close()
    return words


def published_frames(directory: Path, start: int = START) -> tuple[list[Frame], int]:
    """The commits that are published, from an offset on, and the offset behind them. Raises `CorruptLogError`."""
    words = words_of(directory)
    log = Log(directory, words[head.INCARNATION], writable=False)
    frames, end = [], start
    for frame, records in log.whole_frames(start):
        if frame.offset >= words[head.PUBLISHED]:
            break
        end = frame.end
        if records:
            frames.append(tuple(map(entry_of_record, records)))
    if end != words[head.PUBLISHED]:
        raise log.damage(end, f"whole commits end here, and {words[head.PUBLISHED]:,} bytes are published")
    return frames, end


def is_followed(directory: Path, offset: int) -> bool:
    """Whether a whole commit lies behind this offset, where the published ones end."""
    log = Log(directory, words_of(directory)[head.INCARNATION], writable=False)
    return any(records for _, records in itertools.islice(log.whole_frames(offset), 1))


def history_of(directory: Path, sent: list[Sent]) -> History:
    """What was sent beside what the files hold, and what a reader who opens only now sees of it."""
    frames, _ = published_frames(directory)
    streams = {entry.stream for frame in frames for entry in frame}
    streams |= {entry.stream for commit in sent for entry in commit.entries}
    reader = Reader(directory)
    try:
        return History(sent, frames, seen_by(reader, streams))
    finally:
        reader.close()


def seen_by(reader: Reader, streams: Iterable[Stream], since: int = 0) -> dict[Stream, list[Entry]]:
    """What a reader sees of these streams, from a sequence on."""
    return streams_seen(streams, lambda name: reader.events(name, since, MAX_SEQUENCE), reader.snapshot)


def faults_of_figures(directory: Path, frames: Sequence[Frame]) -> list[str]:
    """Whether the figures and the positions of a store at rest are those of its log."""
    words = words_of(directory)
    events = [entry for frame in frames for entry in frame if entry.position]
    expected = len(events), len({entry.aggregate_id for entry in events})
    found = words[head.LAST_POSITION], words[head.AGGREGATES]
    faults = [] if found == expected else [f"the figures say {found}, the log has {expected}"]
    log = Log(directory, words[head.INCARNATION], writable=False)
    positions = Positions(directory, words[head.INCARNATION], writable=False)
    for entry in events:
        sequence, _, position, *_ = log.read(positions.offset(entry.position))
        if (sequence, position) != (entry.sequence, entry.position):
            faults.append(f"position {entry.position} leads to the event at {position}")
    log.close()
    positions.close()
    return faults
