"""What a server asks of the files: each commit is checked against what is there, and stored whole or refused.

No sockets, no processes. What becomes of a commit that is not refused is in `writer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from maestro_shm.errors import InvalidEventError, TruncationError, shown
from maestro_shm.records import MAX_SEQUENCE
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared.draft import Draft, draft_changes, draft_events, draft_floor, draft_snapshot
from maestro_shm.shared.frame import (
    EVENT,
    FLOOR,
    FRAME_HEADER_BYTES,
    PADDING,
    RECORD_HEADER_BYTES,
    SNAPSHOT,
    pack_crc,
    pack_frame_rest,
    pack_frame_start,
    pack_rest,
)
from maestro_shm.shared.header import CLOCK, DISK_FAILED, EPOCH, LAST_POSITION, PUBLISHED, TRUNCATED
from maestro_shm.shared.outcomes import Answer
from maestro_shm.shared.rows import ChangeRow, ReadRow, Row, key_of, read_key, refusal, stale
from maestro_shm.shared.truncation import truncation
from maestro_shm.shared.writer import Writer


class Journal(Writer):
    """The writing side of a store, as its server uses it. One process at a time has one; the caller sees to that."""

    def commit_events(self, commit_id: bytes, rows: Sequence[Row], resent: object) -> Answer:
        """Store the events of one commit, and return the position of the first and the timestamps of all.

        A commit that is sent again, since its reply was lost, is answered with what became of it the first time.
        Where the journal waits for the disk, the answer holds as soon as it has settled. Raises
        `SequenceConflictError`, `InvalidEventError`, `StoreFullError`, `StoreUnavailableError`.
        """
        words = self._words
        is_plain = rows and not resent and words[EPOCH] == self.epoch and not words[DISK_FAILED] and not self.is_broken
        if not is_plain and (answer := self._former_answer(commit_id, rows, (), resent)):
            return answer
        heads, clock = self._heads, self._clock
        clock.last, _, last_position, tail = self._written
        first_position = last_position + 1
        draft = Draft(tail)
        draft_events(draft, heads, clock, rows, first_position)
        if draft.end > self._log_room or draft.end - tail > self._longest_frame:
            draft = self._draft(lambda draft: draft_events(draft, heads, clock, rows, first_position))
        self._append(draft, commit_id, first_position)
        return first_position, draft.timestamps

    def commit_event(self, commit_id: bytes, key: bytes, sequence: int, payload: bytes) -> tuple[int, int, int] | None:
        """What `commit_events` does with one event without a timestamp: its position, timestamp, and offset.

        None, and nothing, unless all is plain: it is not refused, goes to a stream that has events, and needs no
        further space. Most commits are so, and this is written out since what they cost is how much code they touch;
        see ARCHITECTURE.md. The commit id has its length, and no key is wrong that a stream has already. A message that
        was cut off has no payload.
        """
        words = self._words
        timestamp, aggregates, position, tail = self._written
        if (head := self._remembered.get(key)) is None:
            if sequence <= 1:  # most likely the stream's first
                return None
            head = self._heads.get(EVENT, key)
        word, previous, last = head
        now = self._clock.now()
        timestamp = now if now > timestamp else timestamp + 1
        position += 1
        latest = max(timestamp, self._latest)
        key_length = len(key)
        size = RECORD_HEADER_BYTES + key_length + len(payload)
        offset = tail + FRAME_HEADER_BYTES
        end = offset + ((size + 7) & -8)
        if (
            not last < sequence <= MAX_SEQUENCE
            or not previous
            or not payload
            or words[EPOCH] != self.epoch
            or words[DISK_FAILED]
            or self._waits_for_disk
            or self.is_broken
            or position > self._positions_room
            or end > self._log_room
            or end - tail > self._longest_frame
        ):
            return None
        rest = pack_rest(size, sequence, previous, position, timestamp, FRAME_HEADER_BYTES, key_length, EVENT)
        rest += key + payload
        record = pack_crc(crc32(rest, offset)) + rest + PADDING[size & 7]
        rest = pack_frame_rest(commit_id, position, aggregates, latest, 1, self.epoch) + record
        packed = pack_frame_start(end - tail, crc32(rest, tail)) + rest
        try:
            first, segment = self._log_segment
            segment[tail - first : end - first] = packed
            self._files.index.words[word] = offset
            first, words_of_positions = self._positions_segment
            words_of_positions[position - first] = offset
            self._latest = latest
            self._written = timestamp, aggregates, position, end
            words[CLOCK], words[LAST_POSITION], words[PUBLISHED] = timestamp, position, end
            if key in self._remembered:
                self._remembered[key] = word, offset, sequence
            else:
                self._heads.remember(EVENT, key, (word, offset, sequence))
        except BaseException:
            self.is_broken = True
            raise
        return position, timestamp, offset

    def commit_lone_event(
        self, commit_id: bytes, key: bytes, sequence: int, payload: bytes
    ) -> tuple[int, int, int] | None:
        """The same by `commit_events`, where `commit_event` has done nothing: a stream's first event, say.

        None, and nothing, where a message was cut off or has no key in UTF-8. Raises as `commit_events` does.
        """
        try:
            aggregate_id = key.decode()
        except UnicodeDecodeError:
            return None
        if not payload:
            return None
        position, (timestamp,) = self.commit_events(commit_id, [(aggregate_id, sequence, None, payload)], resent=False)
        return position, timestamp, self._remembered[key][1]

    def commit(
        self,
        commit_id: bytes,
        rows: Sequence[Row],
        changes: Sequence[ChangeRow],
        reads: Sequence[ReadRow],
        resent: object,
    ) -> Answer:
        """Store events and changes of tables, if what they were decided by is still so; otherwise as `commit_events`.

        Raises `StaleReadError`, `TableConflictError` and `InvalidEntryError`, too.
        """
        if answer := self._former_answer(commit_id, rows, changes, resent):
            return answer
        for read in reads:
            kind, _, _, found = read
            if (last := self._heads.get(kind, read_key(read))[2]) != found:
                raise stale(read, last)
        first_position = self._written[2] + 1

        def fill(draft: Draft) -> None:
            draft_events(draft, self._heads, self._clock, rows, first_position)
            draft_changes(draft, self._heads, self._clock, changes)

        draft = self._draft(fill)
        self._append(draft, commit_id, first_position)
        return first_position, draft.timestamps

    def commit_snapshot(
        self, commit_id: bytes, aggregate_id: str, sequence: int, payload: bytes, resent: object
    ) -> bool:
        """Store the snapshot iff it is newer than the stored one, and say whether it was. Raises `StoreFullError`."""
        self._check_is_writer()
        key = key_of(aggregate_id)
        if resent and self._outcomes.has_record(SNAPSHOT, key, sequence, commit_id):
            return True
        self._check_disk()
        before = self._heads.get(SNAPSHOT, key)
        if type(sequence) is int and 0 <= sequence <= before[2]:
            return False
        if (error := refusal(key, before[2], (aggregate_id, sequence, None, payload))) is not None:
            raise error
        draft = self._draft(lambda draft: draft_snapshot(draft, self._clock, key, before, sequence, payload))
        self._append(draft, commit_id, self._written[2] + 1)
        return True

    def truncate(
        self,
        commit_id: bytes,
        aggregate_id: str,
        former: int,
        first_sequence: int,
        count: int,
        size: int,
        resent: object,
    ) -> bool:
        """Let a stream begin at a sequence number, instead of a former one; so many events go, of so many bytes.

        False if it begins elsewhere by now: count again. Where it begins there already, as when this is sent again,
        nothing is done. Raises `TruncationError`, `InvalidEventError`, `StoreFullError`, `StoreUnavailableError`.
        """
        del resent  # it is as well done as not done
        self._check_may_write()
        key = key_of(aggregate_id)
        before = self._heads.get(FLOOR, key)
        if any(type(number) is not int for number in (former, first_sequence, count, size)):
            numbers = shown((former, first_sequence, count, size))
            raise InvalidEventError(f"a truncation is by four numbers, not {numbers}")
        if first_sequence <= before[2]:
            return True
        if former != max(before[2], 0):
            return False
        newest = first_sequence - 1
        is_possible = former <= newest <= self._heads.get(EVENT, key)[2] and 0 < count <= first_sequence - former
        if not is_possible or not 0 < size <= self._written[3]:
            raise InvalidEventError(f"so many events cannot be truncated: {count:,}", aggregate_id, newest)
        if (covered := self._heads.get(SNAPSHOT, key)[2]) < newest:
            raise TruncationError(aggregate_id, newest, None if covered < 0 else covered)
        so_far = frames.TRUNCATED.unpack(self._files.log.read(before[1])[4])[1] if before[1] else 0
        figures = count, so_far + count, self._words[TRUNCATED] + count, size
        draft = self._draft(lambda draft: draft_floor(draft, self._clock, key, before, first_sequence, figures))
        head.raise_format(self._files.header)
        self._append(draft, commit_id, self._written[2] + 1)
        return True

    def truncate_anew(self, commit_id: bytes, aggregate_id: str, first_sequence: int, of_stream: int) -> None:
        """Truncate in this log what was in another one, by so many events of the stream: for who copies it.

        Without a snapshot that covers them only if not all of them are there, so that the stream cannot be whole.
        """
        key = key_of(aggregate_id)
        before, newest = self._heads.get(FLOOR, key), self._heads.get(EVENT, key)
        found = truncation(self._files.log, newest[1], 0, first_sequence)
        _, going, count, size = found or (0, 0, 0, 0)
        covered = self._heads.get(SNAPSHOT, key)[2]
        if count == of_stream and covered < going - 1:
            raise TruncationError(aggregate_id, going - 1, None if covered < 0 else covered)
        figures = count, of_stream, self._words[TRUNCATED] + count, size
        draft = self._draft(lambda draft: draft_floor(draft, self._clock, key, before, first_sequence, figures))
        head.raise_format(self._files.header)
        self._append(draft, commit_id, self._written[2] + 1)

    def _former_answer(
        self, commit_id: bytes, rows: Sequence[Row], changes: Sequence[ChangeRow], resent: object
    ) -> Answer | None:
        """What became of a commit that was sent before; None if it is to be carried out. Raises if none can be."""
        self._check_is_writer()
        if not rows and not changes:
            raise InvalidEventError("a commit needs at least one event or change")
        if resent and (answer := self._outcomes.of_commit(commit_id, rows, changes)):
            return answer
        self._check_disk()
        return None
