"""Copies of a specimen's files that are damaged and mended again, one damage after the other."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from campaign.files.specimen import END, INDEX, LOG, Extent, Specimen
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import FRAME_HEADER
from maestro_shm.shared.log import SEGMENT_SIZE, START

MEMORY: Final = Path("/dev/shm")
_ANOTHER_BOOT: Final = 12345
_WORD: Final = struct.Struct("=Q")
_BEHIND: Final = bytes(8 << 10)
"""What lies behind the end; a commit after a recovery may write there."""
LIVE_FRAME, VOID_FRAME, FILE_MARK, NOTHING = "a live frame", "a void frame", "the file's mark", "nothing"
_PARTS_OF_A_VOID_FRAME: Final = (range(8), range(FRAME_HEADER.size - 4, FRAME_HEADER.size))
_ZEROS: Final = memoryview(bytes(END))
"""One for all damages, each of which has a part of it."""


@dataclass(frozen=True)
class Damage:
    """Other bytes from `start` on, or, where there are none, the end of the file there.

    `first` is the first byte that is another one than it was, or gone; `END` where the damage changes nothing.
    """

    start: int
    content: bytes | memoryview | None
    first: int

    @property
    def stop(self) -> int:
        return END if self.content is None else self.start + len(self.content)

    def hits(self, image: bytes, start: int, end: int) -> bool:
        """Whether any byte in this range is another one than it was, or gone."""
        low, high = max(start, self.start), min(end, self.stop)
        if low >= high:
            return False
        return self.content is None or self.content[low - self.start : high - self.start] != image[low:high]


def flipped_bit(image: bytes, bit: int) -> Damage:
    offset = bit // 8
    return Damage(offset, bytes([image[offset] ^ 1 << bit % 8]), offset)


def zeros_from(image: bytes, offset: int) -> Damage:
    """The rest of the log never reached the disk."""
    return Damage(offset, _ZEROS[offset:], END - len(image[offset:].lstrip(b"\0")))


def end_of_file_at(offset: int) -> Damage:
    return Damage(offset, None, offset)


def kind_of(specimen: Specimen, damage: Damage) -> str:
    """What the damage hits; beside a live frame, that is something that may not matter."""
    if damage.first == END:
        return NOTHING
    extent = specimen.extent_at(damage.first)
    if extent is None:
        return FILE_MARK
    return LIVE_FRAME if extent.commit is not None else VOID_FRAME


def allowed_ends(specimen: Specimen, damage: Damage) -> dict[int, int]:
    """Where a scan may find the log's end, and how many commits it has then found.

    A damaged live frame ends the log. The file's mark is for people: no scan reads it. Of a void frame only the first
    word and the epoch mean something: it ends the log where they are damaged.
    """
    offset = damage.first
    extent = specimen.extent_at(offset) if offset < END else None
    everything = {END: len(specimen.contents) - 1}
    if extent is None:
        return everything if damage.stop - damage.start == 1 or offset == END else {START: 0}
    before = {extent.start: extent.before}
    if extent.commit is not None or _is_in_mark(extent, damage):
        return before
    return {extent.end: extent.before} if damage.stop > extent.end else everything


def _is_in_mark(extent: Extent, damage: Damage) -> bool:
    touched = range(damage.first - extent.start, damage.stop - extent.start)
    return any(touched.start < part.stop and part.start < touched.stop for part in _PARTS_OF_A_VOID_FRAME)


class Copy:
    """A copy of the store as its server left it, for one who damages, recovers and mends it many times over."""

    def __init__(self, specimen: Specimen, directory: Path, *, rebooted: bool, durable: int) -> None:
        self.specimen = specimen
        self.directory = directory
        self.durable = durable
        self._header = bytearray(specimen.files[head.NAME])
        _WORD.pack_into(self._header, head.DURABLE * _WORD.size, durable)
        if rebooted:
            _WORD.pack_into(self._header, head.BOOT_LOW * _WORD.size, _ANOTHER_BOOT)
        self._descriptors: list[int] = []
        for name, content in specimen.files.items():
            (directory / name).write_bytes(content)
        self._header_file, self._log_file, self._index_file = map(self._open, (head.NAME, LOG, INDEX))
        os.truncate(self._log_file, SEGMENT_SIZE)
        os.pwrite(self._header_file, self._header, 0)

    def _open(self, name: str) -> int:
        self._descriptors.append(os.open(self.directory / name, os.O_RDWR | os.O_CLOEXEC))
        return self._descriptors[-1]

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    @contextmanager
    def damaged(self, damage: Damage) -> Iterator[None]:
        """Damage the log, and mend log and header afterwards; a recovery may have written to both."""
        extent = self.specimen.extent_at(damage.start)
        if damage.content is None:
            os.truncate(self._log_file, damage.start)
        else:
            os.pwrite(self._log_file, damage.content, damage.start)
        try:
            yield
        finally:
            if damage.content is None:
                os.truncate(self._log_file, SEGMENT_SIZE)
            self._mend_log(extent.start if extent else 0)
            os.pwrite(self._header_file, self._header, 0)

    def mend_index(self) -> None:
        """Bring the index back to what it was; what a commit left in the positions lies behind their end."""
        os.pwrite(self._index_file, self.specimen.files[INDEX], 0)

    def _mend_log(self, start: int) -> None:
        os.pwrite(self._log_file, self.specimen.image[start:] + _BEHIND, start)

    def is_untouched(self, damage: Damage) -> bool:
        """Whether header and log are still what they were, but for the damage."""
        if os.pread(self._header_file, len(self._header), 0) != self._header:
            return False
        expected = self.specimen.image[: damage.start] + (damage.content or b"")
        if damage.content is not None:
            expected += self.specimen.image[damage.stop :]
        return os.pread(self._log_file, END, 0) == expected


@contextmanager
def copied(specimen: Specimen, *, rebooted: bool, durable: int = 0) -> Iterator[Copy]:
    """A copy in memory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="maestro-damage-", dir=MEMORY if MEMORY.is_dir() else None) as path:
        copy = Copy(specimen, Path(path), rebooted=rebooted, durable=durable)
        try:
            yield copy
        finally:
            copy.close()
