"""Read a damaged copy within the same boot, where nobody scans: whoever comes upon the damage has to see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from books import CAP

import maestro_shm as ms
from campaign.files.copies import FILE_MARK, VOID_FRAME, Copy, Damage
from campaign.files.damage_recovery import SHORT, UndetectedError, require
from campaign.files.specimen import END, KEYS, Commit, Extent, Place, Specimen
from maestro_shm import codec, validation
from maestro_shm.errors import CorruptLogError
from maestro_shm.shared.frame import EVENT, FRAME_HEADER, SNAPSHOT
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.reader import Reader

SEEN, READ_RIGHT = "seen", "nothing to see"


class Stricken:
    """What a damage hits: whose reads have to fail."""

    def __init__(self, specimen: Specimen, damage: Damage) -> None:
        self.specimen = specimen
        self.damage = damage
        self.extent = specimen.extent_at(damage.first) if damage.first < END else None
        stricken = specimen.extents if damage.stop == END else [self.extent] if self.extent else []
        self.records: list[Place] = [
            place
            for extent in stricken
            if damage.hits(specimen.image, extent.start, extent.end)
            for place in extent.records
            if damage.hits(specimen.image, place.start, place.end)
        ]
        self._starts = {place.start for place in self.records}

    def what(self) -> str:
        """What was hit where no read has to fail."""
        if self.extent is None:
            return FILE_MARK
        if self.extent.commit is None:
            return VOID_FRAME
        if self.records:
            return "a snapshot that has a newer one"
        in_header = self.damage.first < self.extent.start + FRAME_HEADER.size
        return "the header of a frame" if in_header else "padding"

    def keys(self) -> set[str]:
        return {place.key for place in self.records}

    def has_any_of(self, kind: int, key: str) -> bool:
        return any((place.kind, place.key) == (kind, key) for place in self.records)

    def has_newest_of(self, kind: int, key: str) -> bool:
        newest = self.specimen.newest.get((kind, key))
        return newest is not None and newest.start in self._starts


def check_reads(copy: Copy, stricken: Stricken, keys: Iterable[str]) -> str:
    """Read these streams in all ways, by a reader that opens now; say whether any read failed as it has to."""
    contents = copy.specimen.contents[-1]
    failed = False
    with closing(Reader(copy.directory)) as reader:
        for key in keys:
            stream = contents.streams[key]
            newest = stream[-1].sequence if stream else None
            newest_hit = stricken.has_newest_of(EVENT, key)
            failed |= _check(lambda: reader.last_sequence(key), newest, must_fail=newest_hit)  # noqa: B023 (called at once)
            any_hit = stricken.has_any_of(EVENT, key)
            failed |= _check(lambda: reader.events(key, 0, ms.MAX_SEQUENCE), stream, must_fail=any_hit)  # noqa: B023
            snapshot_hit = stricken.has_newest_of(SNAPSHOT, key)
            failed |= _check(lambda: reader.snapshot(key), contents.snapshots.get(key), must_fail=snapshot_hit)  # noqa: B023
    return SEEN if failed else READ_RIGHT


def check_journal(copy: Copy, stricken: Stricken) -> None:
    """A new server takes the store as it is, and answers rightly or fails, to a commit sent again and to new ones."""
    contents = copy.specimen.contents[-1]
    with closing(Journal.open(copy.directory, max_commit_bytes=CAP)) as journal:
        if stricken.extent is not None and stricken.extent.commit is not None:
            _check_resent(journal, stricken.extent, stricken.extent.commit)
        position = len(contents.offsets)
        for key in {*stricken.keys(), KEYS[0]}:
            stream = contents.streams[key]
            event = ms.Event(key, stream[-1].sequence + 1 if stream else 1, "after", None)
            must_fail = stricken.has_newest_of(EVENT, key)
            position += not _check(lambda: _commit(journal, event), position + 1, must_fail=must_fail)  # noqa: B023


def _check_resent(journal: Journal, extent: Extent, commit: Commit) -> None:
    """A commit that a client sends again, since its reply was lost, while any byte of its frame may be damaged."""
    try:
        if commit.snapshot is not None:
            key, sequence = commit.snapshot.aggregate_id, commit.snapshot.sequence
            payload = codec.pack_body(commit.snapshot.body)
            newest = journal._heads.get(SNAPSHOT, key.encode())[2] == sequence
            answer = journal.commit_snapshot(commit.commit_id, key, sequence, payload, resent=True)
            require(answer or not newest, f"a snapshot that was sent again, at {extent.start}, was not known")
        else:
            position, timestamps = journal.commit_events(commit.commit_id, commit.rows, resent=True)
            right = commit.events[0].position, [event.timestamp for event in commit.events]
            require((position, timestamps) == right, f"a commit that was sent again was answered with {position}")
    except CorruptLogError:
        pass


def _commit(journal: Journal, event: ms.Event) -> int:
    return journal.commit_events(bytes(16), validation.pack_events([event], CAP), resent=False)[0]


def _check(call: Callable[[], Any], right: Any, *, must_fail: bool) -> bool:
    """Whether the call failed; it has to if and only if it comes upon damage."""
    try:
        found = call()
    except CorruptLogError:
        require(must_fail, "what does not come upon the damage failed")
        return True
    if must_fail:
        raise UndetectedError(f"damage was read as {found!r}"[:SHORT])
    require(found == right, "a read gave a wrong value")
    return False
