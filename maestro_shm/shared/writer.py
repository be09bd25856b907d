"""The single writer of a store's files: append, index, publish. It asks no question about what it is given to write.

A commit is prepared in full before the first byte that counts is touched: its frame is packed, space is reserved, its
words in the index are found. Then: the frame into the log, its records into index and positions, and one store of the
published offset. A reader that took the published offset before sees nothing of it, a reader that takes it after sees
all. Nothing of that ought to fail; if it does all the same the writer is broken, and the next one's recovery undoes
what there is.

A writer that waits for the disk writes all that and publishes nothing until it is told to settle: then one flush does
for all the commits since the last. So nobody has ever seen what a power loss can take.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from maestro_shm.clock import HybridClock
from maestro_shm.errors import CorruptLogError, InvalidEventError, StoreFullError, StoreUnavailableError, shown
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared import index as tables
from maestro_shm.shared import recovery
from maestro_shm.shared.draft import Draft
from maestro_shm.shared.frame import COMMIT_ID_BYTES, EVENT
from maestro_shm.shared.header import (
    AGGREGATES,
    CLIENTS,
    CLOCK,
    DEAD,
    DISK_FAILED,
    DURABLE,
    EPOCH,
    GENERATION,
    INCARNATION,
    LAST_POSITION,
    MAX_COMMIT_BYTES,
    NEWEST_FLOOR,
    PUBLISHED,
    RETIRED,
    SERVER_PID,
    SHORTER,
    TRUNCATED,
    WAITS_FOR_DISK,
)
from maestro_shm.shared.heads import Heads
from maestro_shm.shared.index import Claim
from maestro_shm.shared.living import WHOLE_BYTES
from maestro_shm.shared.log import START, Segment
from maestro_shm.shared.mapped import DiskError
from maestro_shm.shared.outcomes import Outcomes
from maestro_shm.shared.room import room_of
from maestro_shm.shared.segments import LARGEST_STEP
from maestro_shm.shared.succession import Succession

_LARGE: Final = 64 << 20
"""Bytes from which on a log is compacted by itself,"""
_LEAST_LARGE: Final = 2 * WHOLE_BYTES
"""or from here on where that is a quarter of its file system, as in the shared memory of a container."""
_AMPLE: Final = 4
"""There is room enough for a log where so many times its size are free,"""
_AMPLE_FOR_ALL: Final = 1 << 30
"""or so many bytes."""
_LEAST_GAIN: Final = 1 << 20
_MARGIN: Final = 2 * LARGEST_STEP
"""What a log may grow by at once, and as much again for what is committed while it is compacted."""
_Figures = tuple[int, int, int, int]
"""After a commit: the clock, the number of streams, the last position, and the offset where the log ends."""


class Writer:
    """The writing side of a store's files. One process at a time has one; the caller sees to that."""

    _written: _Figures
    """What is in the files, published or not."""
    _latest: int
    """The highest timestamp of an event."""
    _longest_frame: int
    _large: int
    _log_room: int
    """Up to this offset, within the segment, a commit without new keys needs nothing to be reserved; 0 while the index
    grows, which it does at each commit."""
    _positions_room: int
    """The same for positions."""
    _log_segment: Segment
    _positions_segment: tuple[int, memoryview]
    """Where that room is, if there is any."""

    def __init__(self, directory: Path, files: recovery.WriterFiles) -> None:
        self.directory = directory
        self.is_unsettled = False
        """There are commits that are neither on the disk nor published."""
        self._disk_error: DiskError | None = None
        self._succession: Succession | None = None
        self.leaves_room = False
        """Whether it is left to a compaction: only somebody who sees to that may say so."""
        self.is_being_compacted = False
        """A process is about it."""
        self.lacks_room = False
        """A commit was refused that a compaction could make room for, and none has begun since."""
        self.is_broken = False
        """A commit or reset failed half-way. The server has to leave, so that the next one's recovery undoes it."""
        self._use(files)
        words = self._words
        words[EPOCH] += 1
        # Recovery tells frames that were cut off by their older epoch, so no two servers may ever have the same one:
        # the disk has to know it before any frame carries it.
        with head.bearing_disk_failure(words):
            files.header.flush()
        words[SERVER_PID] = os.getpid()
        words[CLIENTS] = 0
        self.epoch: Final = words[EPOCH]
        self._clock = HybridClock(words[CLOCK])

    @classmethod
    def open(cls, directory: Path, *, max_commit_bytes: int, waits_for_disk: bool = False) -> Self:
        """Recover the store in the directory, or begin one with this size cap and way to commit.

        Raises `StoreFullError`, `CorruptLogError` and `DiskError`.
        """
        if recovery.is_begun(directory):
            files = recovery.recover(directory)
            files.header.words[WAITS_FOR_DISK] |= waits_for_disk  # either of header and settings may be damaged
        else:
            files = recovery.create(
                directory,
                incarnation=1,
                epoch=0,
                clock=0,
                max_commit_bytes=max_commit_bytes,
                waits_for_disk=waits_for_disk,
            )
            recovery.publish(directory)
        return cls(directory, files)

    @property
    def max_commit_bytes(self) -> int:
        """The size cap of a commit."""
        return self._words[MAX_COMMIT_BYTES]

    @property
    def waits_for_disk(self) -> bool:
        """Whether what is committed is to be settled."""
        return self._waits_for_disk

    @property
    def incarnation(self) -> int:
        """Which one it is of the store's, as those count who use it; a reset begins the next."""
        return head.era(self._words)

    @property
    def number(self) -> int:
        """That of its files, which a compaction replaces, too."""
        return self._words[INCARNATION]

    @property
    def last_position(self) -> int:
        """That of the last event that is published."""
        return self._words[LAST_POSITION]

    @property
    def published(self) -> int:
        """The offset where the log ends for readers."""
        return self._words[PUBLISHED]

    @property
    def mark(self) -> int:
        """A number that rises with each commit that is published; where it would be without compactions."""
        return self._words[SHORTER] + self._words[PUBLISHED]

    def wind_clock(self, timestamp: int) -> None:
        """Give the next timestamp above this one: for who copies a log."""
        _, aggregates, last_position, end = self._written
        self._written = timestamp, aggregates, last_position, end

    def settle(self) -> None:
        """Wait until the disk has the commits since the last time, and publish them. Raises `DiskError`.

        It is not tried again then, the error is the same each time, until `give_up`; no further commit is accepted.
        """
        if not self.is_unsettled:
            return
        if self._disk_error is None:
            self._check_is_writer()
            self._flush()
        if self._disk_error is not None:
            raise self._disk_error
        self._publish()

    def give_up(self) -> None:
        """Leave the commits unpublished that the disk did not take, once those who wait have been told."""
        self.is_unsettled = False
        self._disk_error = None

    def reset(self) -> None:
        """Forget everything. Readers go over to the new incarnation by themselves. Raises `StoreFullError`."""
        self._check_may_write()
        self.settle()
        self.give_up_going_over()
        former = self._files
        with head.noting_disk_failure(self._words):
            fresh = recovery.create_next(self.directory, self._words)
        for word in (SERVER_PID, CLIENTS):
            fresh.header.words[word] = self._words[word]
        try:
            head.retire(former.header)
            with head.noting_disk_failure(self._words):
                recovery.publish(self.directory)
            self._use(fresh)
        except BaseException:
            self.is_broken = True
            raise
        former.close()
        recovery.sweep(self.directory, keep=self._words[INCARNATION])

    @property
    def is_mostly_dead(self) -> bool:
        """Whether so much of a large log is needed by nobody that a compaction is worth its time."""
        return self._written[3] >= self._large and self._words[DEAD] * 2 > self._written[3]

    @property
    def _has_much_dead(self) -> bool:
        """Whether a compaction gives anything back: the newest bytes stay as they are."""
        return self._words[DEAD] > WHOLE_BYTES + _LEAST_GAIN

    @property
    def is_short_of_room(self) -> bool:
        """Whether the file system is nearly full, for a store of this size."""
        return room_of(self.directory).available < min(_AMPLE * self._written[3], _AMPLE_FOR_ALL)

    def goes_over(self) -> bool:
        """Whether the next set of files is nearly there."""
        return self._succession is not None

    def adopt(self, number: int, epoch: int, source_end: int, resent: object) -> None:
        """Begin to go over to the next set of files, into which the log was copied up to an offset.

        One that is sent again while that is under way has been heard. Raises `StoreUnavailableError` if they were made
        of other files than the present ones.
        """
        self._check_may_write()
        is_next = (number, epoch) == (self._words[INCARNATION] + 1, self.epoch)
        if resent and is_next and self._succession is not None:
            return
        if not is_next or self._succession is not None:
            raise StoreUnavailableError(str(self.directory), "it was reset or compacted since its files were copied")
        if type(source_end) is not int or not START <= source_end <= self._words[PUBLISHED]:
            raise InvalidEventError(f"the log was not copied up to {shown(source_end)}")
        try:
            self._succession = Succession(self.directory, self._words, self._files.log, source_end)
        except BaseException as error:
            recovery.sweep(self.directory, keep=self._words[INCARNATION])
            if isinstance(error, FileNotFoundError):
                raise StoreUnavailableError(str(self.directory), f"what was copied is not there: {error}") from None
            raise

    def go_over(self) -> recovery.WriterFiles | None:
        """Do a little of that. The store goes on with the present files if it fails; raises why.

        When it is done the former files come back, to be closed by the caller: that takes long for large ones.
        """
        if self._succession is None or self.is_unsettled:
            return None
        try:
            self._check_may_write()
            return self._go_over_to(self._succession) if self._succession.advance() else None
        except BaseException:
            if not self.is_broken:  # else it is too late
                self.give_up_going_over()
            raise

    def give_up_going_over(self) -> None:
        """Stay with the present files."""
        succession, self._succession = self._succession, None
        if succession is not None:
            succession.close()
            recovery.sweep(self.directory, keep=self._words[INCARNATION])

    def former_files(self) -> list[Path]:
        """What is left of sets of files that were replaced; to be removed by the caller, which takes long, too."""
        return [path for path, _, number in recovery.data_files(self.directory) if number < self._words[INCARNATION]]

    def _go_over_to(self, succession: Succession) -> recovery.WriterFiles:
        former = self._files
        with head.noting_disk_failure(self._words):
            succession.complete()
        try:
            with head.noting_disk_failure(succession.files.header.words):
                recovery.succeed(self.directory, former.header)
            self._succession = None
            self._use(succession.files)
        except BaseException:
            self.is_broken = former.header.words[GENERATION] == RETIRED
            raise
        return former

    def retire(self) -> None:
        """Tell every reader that the store is no more, and the disk, before its files go."""
        head.retire(self._files.header)

    def secure(self) -> None:
        """Let the disk have everything, and note so: what is damaged later is no loss of power. Raises `DiskError`."""
        if not self.is_broken and not self._words[DISK_FAILED]:
            published = self._words[PUBLISHED]
            with head.noting_disk_failure(self._words):
                self._files.log.flush(self._durable(), published)
                self._words[DURABLE] = published
                self._files.header.flush()

    def count_clients(self, clients: int) -> None:
        """Publish how many clients are connected."""
        self._words[CLIENTS] = clients

    def close(self) -> None:
        """Let go of the files."""
        if self._succession is not None:
            self._succession.close()
        self._files.close()

    def _use(self, files: recovery.WriterFiles) -> None:
        self._files = files
        words = self._words = files.header.words
        self._waits_for_disk = bool(words[WAITS_FOR_DISK])
        self._heads = Heads(files.index, files.log)
        self._remembered = self._heads.remembered(EVENT)
        self._outcomes = Outcomes(files.log, self._heads, words)
        self._written = words[CLOCK], words[AGGREGATES], words[LAST_POSITION], words[PUBLISHED]
        self._latest = self._latest_in_log()
        self._log_room = self._positions_room = 0
        self.lacks_room = False
        self._longest_frame = self.max_commit_bytes + frames.FRAME_HEADER.size
        self._large = min(_LARGE, max(_LEAST_LARGE, room_of(self.directory).size // 4))

    def _latest_in_log(self) -> int:
        """The highest timestamp of an event; of the clock where damage hides it, which is never below."""
        if not (last := self._words[LAST_POSITION]):
            return 0
        try:
            return self._files.log.frame_of(self._files.positions.offset(last)).latest
        except CorruptLogError:
            return self._words[CLOCK]

    def _check_may_write(self) -> None:
        self._check_is_writer()
        self._check_disk()

    def _check_is_writer(self) -> None:
        if self.is_broken:
            raise StoreUnavailableError(str(self.directory), "its server failed in the midst of a commit, and leaves")
        if self._words[EPOCH] != self.epoch:
            raise StoreUnavailableError(str(self.directory), "another server has taken over; this one must not write")

    def _check_disk(self) -> None:
        if self._words[DISK_FAILED]:
            raise StoreUnavailableError(
                str(self.directory),
                "its disk did not take what was written, so nothing more is stored; reads go on. Look after the disk, "
                f"then restart the machine, or save what there is: python -m maestro_shm repair {self.directory}",
            )

    def _draft(self, fill: Callable[[Draft], None]) -> Draft:
        """A draft at the tail, filled; or in the next segment where it does not fit."""
        self._clock.last, _, _, tail = self._written  # a draft that is given up leaves no trace
        draft = Draft(tail)
        fill(draft)
        length = draft.end - tail
        if length > self._longest_frame:
            size, cap = length - frames.FRAME_HEADER.size, self.max_commit_bytes
            raise InvalidEventError(f"the commit has {size:,} bytes, over the cap of {cap:,}")
        if (place := self._files.log.place(tail, length)) != tail:
            self._clock.last = self._written[0]
            draft = Draft(place)
            fill(draft)
        return draft

    def _append(self, draft: Draft, commit_id: bytes, first_position: int) -> None:
        if type(commit_id) is not bytes or len(commit_id) != COMMIT_ID_BYTES:
            raise InvalidEventError(f"a commit id must be {COMMIT_ID_BYTES} bytes, not {shown(commit_id)}")
        _, aggregates, _, tail = self._written
        place, end, records = draft.offset, draft.end, draft.packed
        last_position = first_position + len(draft.offsets) - 1
        aggregates += draft.new_streams
        latest = max(self._latest, *draft.timestamps) if draft.timestamps else self._latest
        facts = commit_id, first_position, aggregates, latest, len(records), self.epoch
        packed = frames.pack_frame(tail, end - place, *facts, b"".join(records))
        has_room = not draft.new_keys and end <= self._log_room and last_position <= self._positions_room
        following = () if has_room else self._reserve(draft, last_position)
        files = self._files
        index_words = files.index.words
        try:
            files.log.write(tail, place, packed)
            for heads in draft.heads.values():
                for word, offset, _ in heads.values():
                    index_words[word] = offset
            if following:
                tables.store(following, [head[1] for heads in draft.heads.values() for head in heads.values()])
            files.positions.put(first_position, draft.offsets)
            if draft.floor:
                self._words[TRUNCATED], self._words[NEWEST_FLOOR] = draft.truncated, draft.floor
            if draft.dead:
                self._words[DEAD] += draft.dead
            self._latest = latest
            self._written = self._clock.last, aggregates, last_position, end
            if self._waits_for_disk:
                self.is_unsettled = True
            else:
                self._publish()
            self._heads.note(draft.heads)
        except BaseException:
            self.is_broken = True
            raise

    def _flush(self) -> None:
        end = self._written[3]
        try:
            if self._words[DISK_FAILED]:  # by another file that was to grow meanwhile
                raise DiskError(str(self.directory), "its disk did not take what was written")
            with head.noting_disk_failure(self._words):
                self._files.log.flush(self._durable(), end)
            self._words[DURABLE] = end
        except DiskError as error:
            reason = f"{error.reason}; whether the commit is kept shows after a restart"
            self._disk_error = DiskError(error.target, reason)

    def _durable(self) -> int:
        """Up to where the log need not be flushed; whatever a damaged header says, no more than is published."""
        return min(self._words[DURABLE], self._words[PUBLISHED])

    def _publish(self) -> None:
        words = self._words
        # In this order, which is that of the assignment: the last store is the commit.
        words[CLOCK], words[AGGREGATES], words[LAST_POSITION], words[PUBLISHED] = self._written
        self.is_unsettled = False

    def _leave_room_to_compact(self) -> None:
        """Refuse to grow rather than to take the room that a compaction needs: nothing else would give any back.

        Not where that is much, since it would take long, nor where it is not there any more, unless it is in use.
        """
        live = self._written[3] - self._words[DEAD]
        for_it = live + WHOLE_BYTES + self._files.index.words.nbytes + 8 * self._written[2]
        available = room_of(self.directory).available
        can_be_compacted = for_it <= _LARGE and (self.is_being_compacted or available >= for_it)
        if can_be_compacted and available < for_it + _MARGIN:
            raise StoreFullError(str(self.directory), for_it + _MARGIN, available)

    def _reserve(self, draft: Draft, last_position: int) -> Sequence[Claim]:
        """Do whatever can fail, for want of room or for damage.

        Afterwards the draft's heads have their words in the index; what comes back are those in its next generation.
        """
        generation = self._words[GENERATION]
        files = self._files
        self._log_room = self._positions_room = 0
        try:
            if self.leaves_room and self._has_much_dead and files.log.grows_by(draft.end):
                self._leave_room_to_compact()
            log_room = files.log.reserve(draft.end)
            positions_room = files.positions.reserve(last_position)
            files.index.reserve(draft.new_keys)
        except DiskError:
            self._words[DISK_FAILED] = 1
            raise
        except StoreFullError:
            self.lacks_room = self._has_much_dead
            raise
        finally:
            words_hold = self._words[GENERATION] == generation
            if not words_hold:
                self._heads.forget()
        following: Sequence[Claim] = ()
        if files.index.is_growing or draft.new_keys or not words_hold:
            keys = draft.keys()
            (_, claimed), *following = files.index.claim(keys)
            draft.place(keys, claimed)
        if not files.index.is_growing:  # last, since the room may be in another segment than the log's end is still
            self._log_segment = files.log.segment(log_room - 1)
            self._positions_segment = files.positions.segment(positions_room)
            self._log_room, self._positions_room = log_room, positions_room
        return following
