"""Recover a damaged copy after another boot by the real code, and compare what comes out with the books."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from books import CAP, pretend_reboot

import maestro_shm as ms
from campaign.files.copies import Copy, Damage, allowed_ends
from campaign.files.specimen import END, KEYS, Contents, Specimen, filling_event, replace_facts
from maestro_shm import validation
from maestro_shm.errors import CorruptLogError
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import FRAME_HEADER
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import Log
from maestro_shm.shared.reader import Reader

STOPPED, WHOLE, REFUSED = "stopped before it", "everything there", "refused"
SHORT: Final = 160


class WrongError(Exception):
    """Something is not as it must be."""


class UndetectedError(WrongError):
    """Damage was taken for what had been written there."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise WrongError(what)


def check_recovery(copy: Copy, damage: Damage, *, again: bool) -> str:
    """Recover and say what came out. Raises `WrongError`, or whatever the store should not have raised.

    With `again` the machine starts once more after the commit that follows: nothing that lay behind it may come back.
    """
    ends = allowed_ends(copy.specimen, damage)
    try:
        journal = Journal.open(copy.directory, max_commit_bytes=CAP)
    except CorruptLogError:
        require(damage.content is None or min(ends) < copy.durable, "a store was refused without need")
        require(copy.is_untouched(damage), "a store was changed as it was refused")
        return REFUSED
    with closing(journal):
        end = journal._words[head.PUBLISHED]
        require(damage.content is not None, "a log without its end was taken")
        if end > max(ends):
            raise UndetectedError(f"the damage did not end the log at {max(ends)}, {end} did")
        require(end in ends, f"the log's end was found at {end}, not at {sorted(ends)}")
        require(end >= copy.durable, f"the log ends at {end}, before what the disk had at {copy.durable}")
        contents = copy.specimen.contents[ends[end]]
        check_contents(journal, contents)
        after = _commit(journal, copy.specimen, contents)
    if again:
        pretend_reboot(copy.directory)
        with closing(Journal.open(copy.directory, max_commit_bytes=CAP)) as journal:
            check_contents(journal, after)
    return WHOLE if end == END else STOPPED


def check_scan(log: Log, specimen: Specimen, damage: Damage) -> None:
    """Let the scan begin at the damaged frame, which is a live one: it must not find any."""
    extent = specimen.extent_at(damage.first)
    assert extent is not None
    assert extent.commit is not None
    if next(log.whole_frames(extent.start), None) is not None:
        raise UndetectedError(f"a damaged frame was taken for a whole one, at {extent.start}")


def check_contents(journal: Journal, contents: Contents) -> None:
    """Figures, every stream from its beginning to its end, all snapshots, and where each position leads."""
    reader = Reader(journal.directory)
    with closing(reader):
        stats = reader.stats()
        figures = stats["events"], stats["last_position"], stats["aggregates"]
        events = len(contents.offsets)
        require(figures == (events, events, contents.aggregates), f"figures {figures}")
        for key, stream in contents.streams.items():
            require(reader.events(key, 0, ms.MAX_SEQUENCE) == stream, f"stream {key} is another one")
            last = stream[-1].sequence if stream else None
            require(reader.last_sequence(key) == last, f"stream {key} ends elsewhere")
        for key in KEYS:
            require(reader.snapshot(key) == contents.snapshots.get(key), f"the snapshot of {key} is another one")
    positions = journal._files.positions
    require(
        [positions.offset(position) for position in range(1, events + 1)] == contents.offsets,
        "positions lead elsewhere",
    )


def _commit(journal: Journal, specimen: Specimen, contents: Contents) -> Contents:
    """Commit what takes just the place of the frame that was cut off, and say what must then be there."""
    start = journal._words[head.PUBLISHED]
    cut_off = specimen.extent_at(start) if start < END else None
    key = KEYS[len(contents.offsets) % len(KEYS)]
    stream = contents.streams[key]
    event = filling_event(key, stream[-1].sequence + 1 if stream else 1, cut_off.end - start if cut_off else 0)
    position, (timestamp,) = journal.commit_events(bytes(16), validation.pack_events([event], CAP), resent=False)
    require(position == len(contents.offsets) + 1, f"the next commit got position {position}")
    newest = max((stored[-1].timestamp or 0 for stored in contents.streams.values() if stored), default=0)
    require(timestamp > newest, f"the clock went back to {timestamp}")
    streams = contents.streams | {key: [*stream, replace_facts(event, timestamp, position)]}
    after = Contents(streams, contents.snapshots, [*contents.offsets, start + FRAME_HEADER.size])
    with closing(Reader(journal.directory)) as reader:
        require(reader.events(key, 0, ms.MAX_SEQUENCE) == streams[key], "the next commit cannot be read")
    return after


def told(error: BaseException) -> str:
    """An error as the figures show it."""
    return f"{type(error).__name__}: {error}"[:SHORT]
