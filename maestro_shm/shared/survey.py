"""Which of a log's whole frames are the store's, and where it has gaps between them.

The epochs of a store's frames never fall. One that is lower than an earlier one was cut off by a recovery, and lies
behind the log's end, or where something has damaged the way past it. In the boot that wrote them the header's published
offset tells where the log ends; frames behind it were never acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from maestro_shm.options import LARGEST_COMMIT_BYTES
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared.frame import FLOOR, FRAME_HEADER, Frame
from maestro_shm.shared.log import START
from maestro_shm.shared.salvage import Piece, Salvage


class Ends(NamedTuple):
    """What a header tells of where its log ends, if it can be believed."""

    bound: int | None = None
    """Its end, within the boot that wrote it."""
    settled: int = 2**64
    """After another boot: a gap behind this ends the log. A loss of power may leave one, and what lies behind it a
    server would cut off without a word, or has done so."""
    first_epoch: tuple[int, int] = (0, 0)
    """From an offset on, no frame of the store is of an epoch before this."""


class Survey:
    """What is found on one way through a log."""

    def __init__(self, salvage: Salvage, ends: Ends) -> None:
        self.ends: Final = ends
        self.end = START
        """Where the last piece ends that belongs to the store."""
        self.cut_off_end = START
        """Where the last frame ends that an earlier recovery cut off."""
        self.gaps: list[tuple[int, int]] = []
        self.last_position = 0
        self.aggregates = 0
        self.truncated = 0
        self.has_floors = False
        self.epoch = 0
        self.timestamp = 0
        self.largest = 0
        """The bytes of the largest commit, as its size is capped."""
        self._salvage = salvage

    def live(self) -> Iterator[Piece]:
        """The store's frames, in order; to be taken once."""
        for piece in self._salvage.pieces(self.ends.bound):
            if piece.start != self.end >= self.ends.settled:
                return
            if piece.frame is not None and self._is_cut_off(piece.frame):
                self.cut_off_end = piece.end
            elif not piece.records:
                # A void frame, or the mark at a segment's end: where it is not next, it may be cut off as well.
                if piece.start == self.end:
                    self.end = piece.end
                    self.epoch = self.epoch if piece.frame is None else piece.frame.epoch
            else:
                if piece.start != self.end:
                    self.gaps.append((self.end, piece.start))
                self._note(piece)
                yield piece

    def _is_cut_off(self, frame: Frame) -> bool:
        offset, epoch = self.ends.first_epoch
        return frame.epoch < self.epoch or (frame.offset >= offset and frame.epoch < epoch)

    def _note(self, piece: Piece) -> None:
        assert piece.frame is not None  # noqa: S101 (for the type checker)
        self.end = piece.end
        self.epoch = piece.frame.epoch
        last_position, self.aggregates = _figures_after(piece)
        self.last_position = max(self.last_position, last_position)
        floors = _truncated_in(piece)
        self.truncated = max((self.truncated, *floors))
        self.has_floors |= bool(floors)
        self.timestamp = max(self.timestamp, *(record.timestamp for record in piece.records))
        self.largest = max(self.largest, piece.frame.length - FRAME_HEADER.size)


def survey(salvage: Salvage, ends: Ends) -> Survey:
    """What there is of the store in its log."""
    found = Survey(salvage, ends)
    for _ in found.live():
        pass
    return found


def unpublished(salvage: Salvage, words: Sequence[int] | memoryview) -> Iterator[Piece]:
    """The whole frames of the last epoch that lie at the published offset and behind: not acknowledged as yet."""
    end = tail = words[head.PUBLISHED]
    while (piece := salvage.piece_at(end, tail)) and (piece.frame is None or piece.frame.epoch == words[head.EPOCH]):
        if piece.records:
            yield piece
        end, tail = piece.end, piece.tail


def contradiction(words: memoryview, found: Survey, salvage: Salvage) -> str | None:
    """What in the header cannot be true, going by the log that was surveyed; None if all may be as it was written."""
    if not found.largest <= words[head.MAX_COMMIT_BYTES] <= LARGEST_COMMIT_BYTES:
        return "its size cap of a commit is none that the store may have"
    if words[head.EPOCH] >= 1 << 32 or (found.ends.bound is not None and words[head.EPOCH] < found.epoch):
        return "its epoch is none that the log may have"
    if words[head.CLOCK] >> 63:
        return "its clock is none that the store may have"
    if not _may_end_at(words, found, salvage):
        return "its published offset is not where the log ends"
    if found.ends.bound == found.end and not _has_figures(words, found, salvage):
        return "its figures are not those of the log"
    return None


def _may_end_at(words: memoryview, found: Survey, salvage: Salvage) -> bool:
    published = words[head.PUBLISHED]
    if published < START or published & 7 or (found.ends.bound is not None and found.end > published):
        return False
    figures = words[head.LAST_POSITION], words[head.AGGREGATES]
    if found.end < published and figures[0] < found.last_position:
        return False
    # A log that lies in files that are missing had more in it than what is found.
    return max(published, words[head.DURABLE]) <= salvage.end or figures != (found.last_position, found.aggregates)


def _has_figures(words: memoryview, found: Survey, salvage: Salvage) -> bool:
    """Whether the figures are those at the log's end. A writer that was killed may have begun to count its next one."""
    written = list(unpublished(salvage, words))
    possible = [(found.last_position, found.aggregates), *map(_figures_after, written)]
    positions, aggregates = zip(*possible, strict=True)
    return (
        (words[head.NEWEST_FLOOR] > 0 or not found.has_floors)
        and words[head.TRUNCATED]
        in (found.truncated, *(number for piece in written for number in _truncated_in(piece)))
        and words[head.LAST_POSITION] in positions
        and words[head.AGGREGATES] in aggregates
        and words[head.CLOCK] >= found.timestamp
    )


def _figures_after(piece: Piece) -> tuple[int, int]:
    """The last position and the number of aggregates after a commit."""
    assert piece.frame is not None  # noqa: S101 (for the type checker)
    return (piece.next_position or 0) - 1, piece.frame.aggregates


def _truncated_in(piece: Piece) -> list[int]:
    """How many events were truncated after each floor in a commit."""
    return [frames.TRUNCATED.unpack(record.payload)[2] for record in piece.records if record.kind == FLOOR]
