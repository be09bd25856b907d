"""Frames of one log, written into the next set of files: with their commit ids, positions and timestamps, elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared import index as tables
from maestro_shm.shared.draft import Draft
from maestro_shm.shared.frame import ENTRY, EVENT, FLOOR, SNAPSHOT, Frame, Record
from maestro_shm.shared.heads import Heads
from maestro_shm.shared.index import Claim
from maestro_shm.shared.recovery import WriterFiles


class Copyist:
    """Of files that nobody reads yet."""

    def __init__(self, files: WriterFiles) -> None:
        self.files: Final = files
        self._heads = Heads(files.index, files.log)

    @property
    def end(self) -> int:
        """Where the log ends."""
        return self.files.header.words[head.PUBLISHED]

    def append(self, frame: Frame, records: Sequence[Record]) -> None:
        """Write what is left of a frame behind the others. Raises `StoreFullError`."""
        files, words = self.files, self.files.header.words
        tail, last = words[head.PUBLISHED], words[head.LAST_POSITION]
        draft = self._draft(tail, records)
        events = [record for record in records if record.kind == EVENT]
        files.log.reserve(draft.end)
        files.positions.reserve(events[-1].position if events else last)
        claims = self._claim(draft)
        facts = frame.commit_id, frame.first_position, frame.aggregates, frame.latest, len(records), frame.epoch
        packed = frames.pack_frame(tail, draft.end - draft.offset, *facts, b"".join(draft.packed))
        files.log.write(tail, draft.offset, packed)
        tables.store(claims, [offset for heads in draft.heads.values() for _, offset, _ in heads.values()])
        placed = [(event.position, offset) for event, offset in zip(events, draft.offsets, strict=True)]
        files.positions.put_apart(last, frame.first_position, placed)
        self._heads.note(draft.heads)
        words[head.DEAD] += draft.dead
        self._note(frame, records, draft.end, events[-1].position if events else last)

    def _note(self, frame: Frame, records: Sequence[Record], end: int, last_position: int) -> None:
        words = self.files.header.words
        words[head.CLOCK] = max((words[head.CLOCK], *(record.timestamp for record in records)))
        words[head.AGGREGATES] = frame.aggregates
        words[head.LAST_POSITION] = last_position
        words[head.PUBLISHED] = end
        for record in records:
            if record.kind == FLOOR:
                words[head.NEWEST_FLOOR] = self._heads.get(FLOOR, record.key)[1]
                words[head.TRUNCATED] = frames.TRUNCATED.unpack(record.payload)[2]

    def _draft(self, tail: int, records: Sequence[Record]) -> Draft:
        draft = self._filled(tail, records)
        place = self.files.log.place(tail, draft.end - tail)
        return draft if place == tail else self._filled(place, records)

    def _filled(self, offset: int, records: Sequence[Record]) -> Draft:
        draft = Draft(offset)
        for _, kind, key, sequence, _, position, timestamp, payload in records:
            before = draft.heads_of(kind).get(key) or self._heads.get(kind, key)
            start = draft.end
            if kind == EVENT:
                draft.offsets.append(start)
            draft.add(kind, key, before, sequence, position, timestamp, payload)
            if before[1] and kind in (SNAPSHOT, ENTRY):  # among the newest commits, which stay whole
                draft.dead += draft.end - start
        return draft

    def _claim(self, draft: Draft) -> list[Claim]:
        """Words for the heads of a draft; what was known of words is void where the index grows."""
        files = self.files
        generation = files.header.words[head.GENERATION]
        files.index.reserve(draft.new_keys)
        if is_other := files.header.words[head.GENERATION] != generation:
            self._heads.forget()
        keys = draft.keys()
        if not is_other and not files.index.is_growing:  # the words that are known hold
            keys = [(kind, key) for kind, key in keys if not draft.heads[kind][key][0]]
        (_, claimed), *following = files.index.claim(keys)
        draft.place(keys, claimed)
        words = [word for heads in draft.heads.values() for word, _, _ in heads.values()]
        return [(files.index.words, words), *following]
