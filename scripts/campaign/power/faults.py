"""Faults that a store could have. Lives are recorded with one of them; most are not there when it is recovered.

Most are flushes that are forgotten: to leave one out of the record is to have the code leave it out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from campaign.planting import exchange
from campaign.power.recorder import FlushCall, Forget
from campaign.power.script import ALIKE, ALIKE_AND_KILLED, BEGINNING, FILLING_SEGMENTS, OFTEN_KILLED, OFTEN_RESET, Taste
from maestro_shm.options import POWER, PROCESS
from maestro_shm.shared import header as head
from maestro_shm.shared import recovery
from maestro_shm.shared.header import DURABLE
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.log import START


@dataclass(frozen=True)
class Fault:
    """What is wrong, in a store of which mode."""

    name: str
    durability: str = POWER
    forgets: Forget | None = None
    settle: Callable[[Any], None] | None = None
    """In place of the journal's own."""
    replay: Callable[..., None] | None = None
    """In place of recovery's own, also after the power has gone."""
    taste: Taste | None = None
    """What lives bring it to light soon; None for all kinds."""
    is_rare: bool = False
    """Whether it takes tens of thousands of states even so, and minutes: more than a quick run has."""

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Let journals have it for a while, but for what the recorder is to forget."""
        before = Journal.settle
        exchange(Journal, "settle", self.settle or before)
        try:
            yield
        finally:
            exchange(Journal, "settle", before)

    @contextlib.contextmanager
    def planted_in_recovery(self) -> Iterator[None]:
        """Let recoveries have it, in lives and after them."""
        before = recovery._replay
        exchange(recovery, "_replay", self.replay or before)
        try:
            yield
        finally:
            exchange(recovery, "_replay", before)


NO_FAULT: Final = Fault("none")


def _publish_first(journal: Any) -> None:
    if journal.is_unsettled:
        end = journal._written[3]
        journal._publish()
        journal._files.log.flush(journal._words[DURABLE], end)
        journal._words[DURABLE] = end


def _note_durable_first(journal: Any) -> None:
    if journal.is_unsettled:
        start, end = journal._words[DURABLE], journal._written[3]
        journal._words[DURABLE] = end
        journal._files.log.flush(start, end)
        journal._publish()


def _replay_past_old_void_marks(draft: list[int], log: Any, positions: Any, index: Any) -> None:
    end, epoch = START, 0
    draft[head.LAST_POSITION] = draft[head.AGGREGATES] = 0
    positions.reserve(0)
    for frame, records in log.whole_frames(START):
        if records:
            if frame.epoch < epoch:
                break
            recovery._replay_frame(draft, positions, index, frame, records)
            epoch = frame.epoch
        end = frame.end
    log.resume(end)
    draft[head.EPOCH] = max(draft[head.EPOCH], epoch)
    draft[head.PUBLISHED] = end


def _while(function: str, name: str) -> Forget:
    return lambda call: function in call.functions and call.name.startswith(name)


def _of_earlier_segments(call: FlushCall) -> bool:
    return "Writer.settle" in call.functions and not call.is_last


def _of_a_new_segments_name(call: FlushCall) -> bool:
    return call.name == "." and "Writer._reserve" in call.functions


def _of_names_at_creation(call: FlushCall) -> bool:
    return call.name == "." and not call.functions & {"Writer._reserve", "Writer.reset"}


def _of_the_unfinished_headers_name(call: FlushCall) -> bool:
    return call.name == "." and "create" in call.functions and not call.functions & {"_begin_files", "sweep"}


ALL: Final = (
    Fault("settling flushes nothing", forgets=_while("Writer.settle", "log")),
    Fault("settling flushes the last segment only", forgets=_of_earlier_segments, taste=FILLING_SEGMENTS),
    Fault("commits are published before the flush", settle=_publish_first),
    Fault("the durable offset is noted before the flush", settle=_note_durable_first),
    Fault("a new segment's name is not flushed", forgets=_of_a_new_segments_name, taste=FILLING_SEGMENTS),
    Fault("a new segment's size is not flushed", PROCESS, _while("MappedFile.create", "log"), taste=FILLING_SEGMENTS),
    Fault("names are not flushed at creation", forgets=_of_names_at_creation),
    Fault("the directory's own name is not flushed", forgets=lambda call: call.name == ".."),
    Fault("the header is renamed before it is flushed", forgets=_while("publish", "header")),
    Fault("the new header's name is not flushed at a reset", forgets=_while("Writer.reset", "."), taste=OFTEN_RESET),
    Fault("a log comes before its unfinished header's name", forgets=_of_the_unfinished_headers_name, taste=BEGINNING),
    Fault("key and settings are not flushed", forgets=_while("make", "")),
    Fault("a void mark is not flushed", forgets=_while("Log.flush_void", "log"), taste=OFTEN_KILLED),
    Fault("an old void mark is stepped over", replay=_replay_past_old_void_marks, taste=ALIKE_AND_KILLED, is_rare=True),
    Fault("an epoch is used before it is flushed", forgets=_while("Writer.__init__", "header"), taste=ALIKE),
)
