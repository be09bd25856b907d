"""What is damaged in a store that nobody serves, and what its repair can go by. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.options import LARGEST_COMMIT_BYTES
from maestro_shm.shared import crosscheck, recovery
from maestro_shm.shared import header as head
from maestro_shm.shared.damage import Damage
from maestro_shm.shared.log import SEGMENT_SIZE, START
from maestro_shm.shared.mapped import PAGE
from maestro_shm.shared.salvage import Salvage
from maestro_shm.shared.survey import Ends, Survey, contradiction, survey, unpublished

_HIGHEST_EPOCH: Final = 1 << 31
"""A header that cannot be believed may tell of any; half of what a frame can hold is more than there will ever be."""
_FOREIGN_MAGIC: Final = int.from_bytes(head.MAGIC.to_bytes(8, "little"), "big")


@dataclass
class Diagnosis:
    """What is damaged, and the numbers that a repair has to go on from."""

    incarnation: int
    ends: Ends
    damages: list[Damage]
    epoch: int
    clock: int
    max_commit_bytes: int
    """The size cap of a commit, as far as the header can be believed; no less than the largest commit."""
    waits_for_disk: bool
    last_position: int | None
    """The position of the last event that was stored, if it is among what is lost."""
    end_is_known: bool
    """Whether there is a header that tells where the log ended."""


def diagnose(directory: Path) -> Diagnosis | None:
    """What is damaged in a store; None if it holds nothing. Raises `StoreUnavailableError` if it cannot be told."""
    words = _read_header(directory)
    if words is not None and words[head.GENERATION] == head.RETIRED:
        return None  # it was reset or destroyed
    incarnation = _incarnation(directory, words)
    if incarnation is None:
        return None  # no server has begun it yet
    with closing(Salvage(directory, incarnation)) as salvage:
        if words is None:
            fault = "it is no header" if (directory / head.NAME).exists() else "it is missing"
            return _by_frames(directory, salvage, fault)
        if words[head.INCARNATION] != incarnation:
            fault = f"it tells of files that are not there, log-{words[head.INCARNATION]}-*"
        else:
            found = survey(salvage, _ends(words))
            contradicted = contradiction(words, found, salvage)
            if contradicted is None:
                return _by_header(directory, salvage, found, words)
            fault = contradicted
        return _by_frames(directory, salvage, fault, words)


def _read_header(directory: Path) -> memoryview | None:
    """The header's words; None if it is missing or damaged."""
    words = head.read(directory / head.NAME)
    if words is None or words[head.MAGIC_WORD] not in (head.MAGIC, _FOREIGN_MAGIC):
        return None
    if words[head.MAGIC_WORD] == head.MAGIC and head.is_known(words):
        return words
    why = "its header tells of another format, or of another kind of machine; if that is what is damaged, remove it:"
    raise StoreUnavailableError(str(directory), f"{why} rm {directory / head.NAME}")


def _incarnation(directory: Path, words: memoryview | None) -> int | None:
    """The incarnation whose log is the store's; None if there is neither header nor log."""
    newest = recovery.newest_log(directory)
    if newest is None and (directory / head.NAME).exists():
        raise StoreUnavailableError(str(directory), "no file of its log is left, so nothing can be saved; destroy it")
    if words is not None and Salvage(directory, words[head.INCARNATION]).end:
        return words[head.INCARNATION]
    if len(numbers := recovery.logs(directory)) > 1:
        which = " and ".join(f"log-{number}-*" for number in sorted(numbers))
        raise StoreUnavailableError(
            str(directory), f"no header tells which of {which} is its log; move away those that are not"
        )
    return newest


def _ends(words: memoryview) -> Ends:
    """As the header tells."""
    first_epoch = words[head.DURABLE], words[head.FIRST_EPOCH]
    if recovery.is_of_this_boot(words):
        return Ends(bound=words[head.PUBLISHED], first_epoch=first_epoch)
    return Ends(settled=max(words[head.PUBLISHED], words[head.DURABLE]), first_epoch=first_epoch)


def _by_frames(directory: Path, salvage: Salvage, fault: str, words: memoryview | None = None) -> Diagnosis:
    """Where the header cannot be believed, if there is any."""
    found = survey(salvage, Ends())
    behind = max(found.end, found.cut_off_end)
    if (end := salvage.written_end(behind)) > behind:
        found.gaps.append((behind, end))
    damages = [Damage(str(directory / head.NAME), 0, PAGE, fault, may_lose=False), *_damages(salvage, found, found.end)]
    epoch, cap, waits_for_disk = found.epoch, found.largest, False
    if words is not None:
        epoch = words[head.EPOCH] if found.epoch < words[head.EPOCH] < _HIGHEST_EPOCH else found.epoch
        cap = max(cap, words[head.MAX_COMMIT_BYTES]) if words[head.MAX_COMMIT_BYTES] <= LARGEST_COMMIT_BYTES else cap
        waits_for_disk = bool(words[head.WAITS_FOR_DISK])
    facts = epoch, found.timestamp, cap, waits_for_disk, None
    return Diagnosis(salvage.incarnation, found.ends, damages, *facts, end_is_known=False)


def _by_header(directory: Path, salvage: Salvage, found: Survey, words: memoryview) -> Diagnosis:
    bound = found.ends.bound
    end = max(words[head.PUBLISHED], words[head.DURABLE]) if bound is None else bound
    last_position = None
    if found.end < end:
        found.gaps.append((found.end, end))
        last_position = words[head.LAST_POSITION]
    damages = list(_damages(salvage, found, max(end, found.end)))
    if not damages and bound is not None:
        live = Survey(salvage, found.ends).live()
        misfit = crosscheck.misfit(directory, words, live, unpublished(salvage, words))
        damages = [] if misfit is None else [misfit]
    if not damages and bound is not None and words[head.DISK_FAILED]:  # which another boot would forgive
        damages = [
            Damage(str(directory / head.NAME), 0, PAGE, "the disk did not take all of the store", may_lose=False)
        ]
    cap, waits_for_disk = words[head.MAX_COMMIT_BYTES], bool(words[head.WAITS_FOR_DISK])
    facts = words[head.EPOCH], words[head.CLOCK], cap, waits_for_disk, last_position
    return Diagnosis(salvage.incarnation, found.ends, damages, *facts, end_is_known=True)


def _damages(salvage: Salvage, found: Survey, end: int) -> Iterator[Damage]:
    """What is damaged in a log that ought to reach to `end`."""
    if salvage.size(0) is not None and not salvage.has_file_mark():
        yield Damage(str(salvage.path(0)), 0, START, "the mark of a log is not there", may_lose=False)
    touched = set[int]()
    for gap in found.gaps:
        for damage, number in _by_segments(salvage, *gap):
            touched.add(number)
            yield damage
    for number in range(min(_segments(end), _segments(salvage.end))):
        size = salvage.size(number)
        if number not in touched and size is not None and size != SEGMENT_SIZE:
            reason = f"the file has {size:,} bytes instead of {SEGMENT_SIZE:,}"
            start, last = sorted((size, SEGMENT_SIZE))
            yield Damage(str(salvage.path(number)), start, last, reason, may_lose=False)


def _by_segments(salvage: Salvage, start: int, end: int) -> Iterator[tuple[Damage, int]]:
    """A gap in the log, as places in its files."""
    while start < end:
        number, first = divmod(start, SEGMENT_SIZE)
        size = salvage.size(number)
        if start >= salvage.end:
            last, reason = first + end - start, "the log ends with the file before, and had gone on"
        else:
            last = min(first + end - start, SEGMENT_SIZE)
            reason = _why(size, first)
        yield Damage(str(salvage.path(number)), first, last, reason, may_lose=True), number
        start += last - first


def _why(size: int | None, first: int) -> str:
    if size is None:
        return "this segment of the log is missing"
    return "the file ends before" if size <= first else "no whole commit is found there"


def _segments(end: int) -> int:
    return -(-end // SEGMENT_SIZE)
