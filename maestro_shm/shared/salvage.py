"""What is whole in a log of which any part may be missing or damaged.

By system calls, not by mapping: a touch of what is no longer there would kill the process. Behind a damaged place the
next whole frame is looked for at each multiple of 8; its CRC begins from where it lies, so that bytes of a frame that
somebody stored as data, or that were moved, do not pass for one.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from maestro_shm.options import LARGEST_COMMIT_BYTES
from maestro_shm.shared import frame as frames
from maestro_shm.shared.frame import FRAME_HEADER, KINDS, RECORD_HEADER, Frame, Record
from maestro_shm.shared.log import FILE_MARK, SEGMENT_BITS, SEGMENT_SIZE, START, frame_at, is_skip, next_segment
from maestro_shm.shared.mapped import PAGE

_MASK: Final = SEGMENT_SIZE - 1
_CHUNK: Final = 1 << 20
_NOTHING: Final = bytes(_CHUNK)
_LENGTHS: Final = struct.Struct("<I4x")
_LEAST: Final = FRAME_HEADER.size + RECORD_HEADER.size
_MOST: Final = FRAME_HEADER.size + LARGEST_COMMIT_BYTES
_START: Final = struct.Struct(FRAME_HEADER.format + RECORD_HEADER.format[1:])
"""What a frame with its first record begins with."""


class Piece(NamedTuple):
    """Bytes of the log that are as they were written: a frame, or the mark that leads to the next segment (`None`)."""

    start: int
    end: int
    frame: Frame | None
    records: list[Record]
    """None in a mark and in a void frame."""

    @property
    def tail(self) -> int:
        """Where the log ends with it: a mark adds nothing."""
        return self.start if self.frame is None else self.end

    @property
    def next_position(self) -> int | None:
        """The position of the first event behind this commit; None in a mark and in a void frame."""
        if self.frame is None or not self.records:
            return None
        # Some of its events may be gone.
        return max((self.frame.first_position, *(record.position + 1 for record in self.records)))


class Salvage:
    """The log of one incarnation, to be closed. It is only read."""

    def __init__(self, directory: Path, incarnation: int) -> None:
        self.incarnation: Final = incarnation
        self._directory = directory
        name = re.compile(rf"log-{incarnation}-(\d+)")
        numbers = [int(match[1]) for path in directory.iterdir() if (match := name.fullmatch(path.name))]
        self.end: Final = (max(numbers, default=-1) + 1) << SEGMENT_BITS
        """Where the last segment that is there would end."""
        self._number = -1
        self._descriptor: int | None = None

    def path(self, number: int) -> Path:
        """The path of a segment."""
        return self._directory / f"log-{self.incarnation}-{number:06d}"

    def size(self, number: int) -> int | None:
        """The size of a segment's file, or None if there is none."""
        try:
            return self.path(number).stat().st_size
        except FileNotFoundError:
            return None

    def has_file_mark(self) -> bool:
        """Whether the log begins as it was begun."""
        descriptor = self._open(0)
        return descriptor is not None and _read(descriptor, 0, START) == FILE_MARK

    def pieces(self, end: int | None = None) -> Iterator[Piece]:
        """All that is whole, in order, and begins before `end`; between two lies what is damaged or no part of it."""
        end = self.end if end is None else min(end, self.end)
        offset, position = START, 1
        tail: int | None = START
        while offset < end:
            piece = self.piece_at(offset, tail)
            if piece is None or (piece.frame is None and not self._goes_on(piece, position)):
                offset = self._search(offset + 8, end)
                tail = offset if offset & _MASK else None  # where the log ends in the segment before is lost
                continue
            yield piece
            offset, tail, position = piece.end, piece.tail, piece.next_position or position

    def piece_at(self, offset: int, tail: int | None) -> Piece | None:
        """What is whole at this offset, if anything is; `tail` is where the frame before it ends, if that is known."""
        descriptor = self._open(offset >> SEGMENT_BITS)
        if descriptor is None:
            return None
        try:
            if (found := frame_at(descriptor, offset, tail)) is not None:
                return Piece(offset, found[0].end, *found)
            return Piece(offset, next_segment(offset), None, []) if _is_mark(descriptor, offset) else None
        except OSError:  # the disk cannot read it
            return None

    def written_end(self, offset: int) -> int:
        """Where, from an offset on, nothing but zeros follows."""
        end = offset
        while offset < self.end:
            for start, data in self._chunks(offset, next_segment(offset)):
                if written := data.rstrip(b"\0"):
                    end = start + len(written)
            offset = next_segment(offset)
        return end

    def close(self) -> None:
        """Close what is open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._number, self._descriptor = -1, None

    def _goes_on(self, mark: Piece, position: int) -> bool:
        """Whether the log goes on where this mark leads with this position, as far as anything is there.

        If not, the mark is none, but damage that looks like it.
        """
        offset, tail = mark.end, mark.tail
        while (piece := self.piece_at(offset, tail)) and piece.frame and not piece.records:
            offset = tail = piece.end
        if piece is None or piece.frame is None:
            is_behind_another = self.piece_at(offset, None) is not None
            return offset < self.end and not is_behind_another
        return piece.frame.first_position >= position  # above it where what was between is truncated

    def _open(self, number: int) -> int | None:
        if number != self._number:
            self.close()
            try:
                self._descriptor = os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                self._descriptor = None
            self._number = number
        return self._descriptor

    def _search(self, offset: int, end: int) -> int:
        """Where the next frame begins, from this offset on, or else the next segment, or `end`."""
        end = min(end, next_segment(offset - 8))
        for start, data in self._chunks(offset, end):
            for candidate in _candidates(data, start):
                if self._may_begin_at(candidate) and (piece := self.piece_at(candidate, candidate)) and piece.frame:
                    return candidate
        return end

    def _chunks(self, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The bytes of one segment between two offsets, without its holes, which are most of a segment not yet full."""
        descriptor = self._open(offset >> SEGMENT_BITS) if offset < end else None
        while descriptor is not None and offset < end:
            offset = max(offset, offset - (offset & _MASK) + _data_from(descriptor, offset & _MASK))
            if offset < end:
                yield offset, _read(descriptor, offset & _MASK, min(_CHUNK, end - offset))
            offset += _CHUNK

    def _may_begin_at(self, offset: int) -> bool:
        """Whether the bytes there look like a frame's: a look that saves reading all of it, which may be megabytes."""
        descriptor = self._open(offset >> SEGMENT_BITS)
        start = b"" if descriptor is None else _read(descriptor, offset & _MASK, _START.size)
        if len(start) < _START.size:
            return False
        length, _, _, _, _, _, records, _, _, size, _, _, _, _, distance, key_length, kind = _START.unpack(start)
        return bool(length & 1) or (
            0 < records <= length // RECORD_HEADER.size
            and distance == FRAME_HEADER.size
            and kind in KINDS
            and RECORD_HEADER.size + key_length <= size <= length - FRAME_HEADER.size
        )


def _is_mark(descriptor: int, offset: int) -> bool:
    """Whether there is a mark, and not a page of nothing but ones."""
    return is_skip(descriptor, offset) and not is_skip(descriptor, offset + len(frames.SKIP_MARK))


def _candidates(data: bytes, offset: int) -> Iterator[int]:
    """Where in these bytes of the log a frame may begin, as far as its length tells."""
    if data == _NOTHING[: len(data)]:
        return
    for number, (length,) in enumerate(_LENGTHS.iter_unpack(data[: len(data) & ~7])):
        if _LEAST <= length <= _MOST + 1 and not length & 6:
            yield offset + number * 8


def _data_from(descriptor: int, start: int) -> int:
    """Where in a file the first data lies from here on, which may be here; behind its end if there is but a hole."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA)
    except (AttributeError, OSError) as error:
        return SEGMENT_SIZE if getattr(error, "errno", None) == errno.ENXIO else start


def _read(descriptor: int, start: int, size: int) -> bytes:
    """These bytes, as far as the file goes, with zeros for pages that the disk cannot read."""
    try:
        return os.pread(descriptor, size, start)
    except OSError:
        bounds = [start, *range((start & -PAGE) + PAGE, start + size, PAGE), start + size]
        if len(bounds) == 2:  # within one page
            return bytes(size)
        return b"".join(_read(descriptor, at, end - at) for at, end in pairwise(bounds))
