"""Stores with a fault in how they see damage. The damage check counts only if it tells them from a sound one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal
from unittest import mock

from campaign.files.copies import Damage, flipped_bit, zeros_from
from campaign.files.specimen import END, Extent, Place, Specimen
from maestro_shm.shared import frame as frames
from maestro_shm.shared import log as logs
from maestro_shm.shared import recovery
from maestro_shm.shared.frame import EVENT, Frame, Record
from maestro_shm.shared.log import Log

_whole_frames: Final = Log.whole_frames
_rebuild: Final = recovery._rebuild
_Found = Iterator[tuple[Frame, list[Record]]]
_REPLACEABLE: Final = 200
"""A frame of this length can be replaced exactly by another that holds one event."""


@dataclass(frozen=True)
class Plant:
    """A fault, the damages that it makes dangerous, and how they are tried."""

    name: str
    planted: Callable[[], AbstractContextManager[object]]
    damage: Callable[[random.Random], Damage]
    trial: Literal["recover", "recover twice", "scan", "read", "serve"]
    rebooted: bool = True
    durable: int = 0


def of_truncations(made: Specimen) -> Sequence[Plant]:
    """What may go wrong with a log whose end is missing."""

    def cut(choices: random.Random) -> Damage:
        """Within a record's content, which is not all zeros from there on."""
        place = choices.choice(_live(made)[-1].records)
        return zeros_from(made.image, choices.randrange(place.start, place.end - 8))

    return (
        Plant("a torn frame is taken", _no_crc_in_recovery, cut, "recover"),
        Plant("the last whole frame is lost", _one_frame_less, cut, "recover"),
        Plant("the watermark is not minded", _no_watermark, cut, "recover", durable=END),
    )


def of_recovery(made: Specimen) -> Sequence[Plant]:
    """What may go wrong with flipped bits as the log is scanned."""
    live = _live(made)

    def flip_content(choices: random.Random) -> Damage:
        return _flip(made, choices, _content(choices.choice(choices.choice(live).records)))

    def flip_early(choices: random.Random) -> Damage:
        """So that whole frames follow."""
        extent = choices.choice(live[:-1])
        return _flip(made, choices, range(extent.start, extent.end))

    def flip_replaceable(choices: random.Random) -> Damage:
        extent = choices.choice([extent for extent in live[:-1] if extent.end - extent.start >= _REPLACEABLE])
        return _flip(made, choices, range(extent.start, extent.end))

    return (
        Plant("no CRC is minded in recovery", _no_crc_in_recovery, flip_content, "recover"),
        Plant("no CRC is minded at all", _no_crc, flip_content, "recover"),
        Plant("no CRC is minded in a scan", _no_crc_in_recovery, flip_content, "scan"),
        Plant("damaged frames are skipped", _skipping, flip_early, "recover"),
        Plant("the watermark is not minded", _no_watermark, flip_early, "recover", durable=END),
        Plant("what was cut off comes back", _no_epochs, flip_replaceable, "recover twice"),
    )


def of_reading(made: Specimen) -> Sequence[Plant]:
    """What may go wrong with flipped bits as somebody comes upon them."""
    live = _live(made)

    def flip_event(choices: random.Random) -> Damage:
        events = [place for extent in live for place in extent.records if place.kind == EVENT]
        place = choices.choice(events)
        # Not the key: a wrong one is seen by the index too.
        return _flip(made, choices, range(_content(place).start + len(place.key), place.end))

    def flip_commit_id(choices: random.Random) -> Damage:
        extent = choices.choice([extent for extent in live if extent.records[0].kind == EVENT])
        return _flip(made, choices, range(extent.start + 8, extent.start + 24))

    def flip_position(choices: random.Random) -> Damage:
        extent = choices.choice([extent for extent in live if extent.records[0].kind == EVENT])
        return _flip(made, choices, range(extent.start + 24, extent.start + 32))

    return (
        Plant("a reader minds no CRC", _no_crc_in_reads, flip_event, "read", rebooted=False),
        Plant("a server minds no frame's CRC", _no_crc_in_recovery, flip_commit_id, "serve", rebooted=False),
        Plant("a server minds no frame's CRC", _no_crc_in_recovery, flip_position, "serve", rebooted=False),
    )


def _live(made: Specimen) -> list[Extent]:
    return [extent for extent in made.extents if extent.commit is not None]


def _content(place: Place) -> range:
    """Key and payload."""
    return range(place.start + frames.RECORD_HEADER.size, place.end)


def _flip(made: Specimen, choices: random.Random, offsets: range) -> Damage:
    return flipped_bit(made.image, choices.choice(offsets) * 8 + choices.randrange(8))


class _Agreeable(int):
    """A checksum that equals every other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def _any_crc(data: bytes, start: int = 0) -> int:  # noqa: ARG001 (as zlib has it)
    return _Agreeable()


def _no_crc_in_recovery() -> AbstractContextManager[object]:
    return mock.patch.object(frames, "crc32", _any_crc)


def _no_crc_in_reads() -> AbstractContextManager[object]:
    return mock.patch.object(logs, "crc32", _any_crc)


@contextlib.contextmanager
def _no_crc() -> Iterator[None]:
    with _no_crc_in_recovery(), _no_crc_in_reads():
        yield


def _skipping() -> AbstractContextManager[object]:
    def whole_frames(log: Log, offset: int) -> _Found:
        while offset < END:
            for frame, records in _whole_frames(log, offset):
                yield frame, records
                offset = frame.end
            offset += 8

    return mock.patch.object(Log, "whole_frames", whole_frames)


def _one_frame_less() -> AbstractContextManager[object]:
    def whole_frames(log: Log, offset: int) -> _Found:
        yield from list(_whole_frames(log, offset))[:-1]

    return mock.patch.object(Log, "whole_frames", whole_frames)


def _no_epochs() -> AbstractContextManager[object]:
    def whole_frames(log: Log, offset: int) -> _Found:
        for frame, records in _whole_frames(log, offset):
            yield frame._replace(epoch=1), records

    return mock.patch.object(Log, "whole_frames", whole_frames)


def _no_watermark() -> AbstractContextManager[object]:
    def rebuild(*arguments: Any, least: int) -> Any:
        return _rebuild(*arguments, least=least * 0)

    return mock.patch.object(recovery, "_rebuild", rebuild)
