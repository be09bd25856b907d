"""From the files that a former server left to files that a new one can go on with.

Within one boot of the machine the memory outlives every process, so the published offset is law: what lies behind it
was never acknowledged and is undone, which takes no longer in a large store. After another boot the disk may hold any
part of what was written: the log is scanned by its CRCs, and index and positions are built anew from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maestro_shm.errors import CorruptLogError
from maestro_shm.shared import header as head
from maestro_shm.shared import index as tables
from maestro_shm.shared.frame import EVENT, Frame
from maestro_shm.shared.header import RETIRED
from maestro_shm.shared.index import GrowingIndex, Index
from maestro_shm.shared.log import START, Log
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.positions import Positions

UNFINISHED: Final = head.NAME + ".new"
_DATA: Final = ("log", "positions", "index")


@dataclass
class WriterFiles:
    """The mapped files of one incarnation, for the one who writes them."""

    header: MappedFile
    log: Log
    positions: Positions
    index: GrowingIndex

    def close(self) -> None:
        """Unmap everything."""
        self.index.close()
        self.positions.close()
        self.log.close()
        self.header.close()


def create(directory: Path, *, incarnation: int, epoch: int, clock: int, max_commit_bytes: int) -> WriterFiles:
    """The files of a new incarnation, empty, under the unfinished name. Raises `StoreFullError`; leaves nothing."""
    sweep(directory, keep=incarnation - 1)
    header = head.create(directory / UNFINISHED)
    try:
        words = header.words
        words[head.FORMAT] = head.FORMAT_VERSION
        words[head.INCARNATION] = incarnation
        words[head.EPOCH] = epoch
        words[head.BOOT_HIGH], words[head.BOOT_LOW] = head.boot_id()
        words[head.MAX_COMMIT_BYTES] = max_commit_bytes
        words[head.CLOCK] = clock
        words[head.GENERATION] = 1
        words[head.PUBLISHED] = START
        files = _begin_files(directory, header)
        words[head.MAGIC_WORD] = head.MAGIC
    except BaseException:
        header.close()
        sweep(directory, keep=incarnation - 1)
        raise
    return files


def publish(directory: Path) -> None:
    """Give the unfinished files the name by which they are found."""
    (directory / UNFINISHED).replace(directory / head.NAME)


def recover(directory: Path) -> WriterFiles:
    """Open the files for writing. Raises `FileNotFoundError` where there are none, and `CorruptLogError`."""
    _finish_reset(directory)
    header = head.open_header(directory, writable=True)
    try:
        sweep(directory, keep=header.words[head.INCARNATION])
        if (header.words[head.BOOT_HIGH], header.words[head.BOOT_LOW]) == head.boot_id() != (0, 0):
            return _undo_unpublished(directory, header)
        return _rebuild(directory, header)
    except BaseException:
        header.close()
        raise


def sweep(directory: Path, *, keep: int) -> None:
    """Remove the files of every incarnation but one, and the unfinished header. Who has them mapped keeps them."""
    for path in directory.iterdir():
        kind, _, rest = path.name.partition("-")
        if path.name == UNFINISHED or (kind in _DATA and rest.partition("-")[0] != str(keep)):
            path.unlink()


def _begin_files(directory: Path, header: MappedFile) -> WriterFiles:
    incarnation, generation = header.words[head.INCARNATION], header.words[head.GENERATION]
    log = Log(directory, incarnation, writable=True)
    positions = Positions(directory, incarnation, writable=True)
    try:
        log.create()
        positions.reserve(0)
        table = Index.create(tables.path(directory, incarnation, generation), log)
    except BaseException:
        positions.close()
        log.close()
        raise
    return WriterFiles(header, log, positions, GrowingIndex(directory, header, log, table))


def _finish_reset(directory: Path) -> None:
    """A server may die between the end of one incarnation and the beginning of the next, which is complete by then."""
    try:
        header = head.open_header(directory)
    except FileNotFoundError:
        return
    retired = header.words[head.GENERATION] == RETIRED
    header.close()
    if retired:
        publish(directory)


def _discard_tables(directory: Path, *, keep: Path | None) -> None:
    """Remove the generations of the index that were not published, or all."""
    for path in directory.glob("index-*"):
        if path != keep:
            path.unlink()


def _undo_unpublished(directory: Path, header: MappedFile) -> WriterFiles:
    words = header.words
    incarnation, published = words[head.INCARNATION], words[head.PUBLISHED]
    log = Log(directory, incarnation, writable=True)
    positions = Positions(directory, incarnation, writable=True)
    try:
        log.resume(published)
        table_path = tables.path(directory, incarnation, words[head.GENERATION])
        _discard_tables(directory, keep=table_path)
        table = Index.open(table_path, log, writable=True)
        _undo(log, table, published)
        positions.resume(words[head.LAST_POSITION])
        _step_back(words, log, positions, published)
    except BaseException:
        positions.close()
        log.close()
        raise
    return WriterFiles(header, log, positions, GrowingIndex(directory, header, log, table))


def _undo(log: Log, table: Index, published: int) -> None:
    """Point the index back to what is published. It was only changed for frames that are whole."""
    for frame in reversed(list(log.whole_frames(published))):
        for record in reversed(list(log.records(frame))):
            word = table.find(record.kind, record.key)
            if word is not None and table.words[word] == record.offset:
                table.words[word] = record.previous
        log.erase(frame.offset)


def _step_back(words: memoryview, log: Log, positions: Positions, published: int) -> None:
    """Set the figures back to what they were after the last published commit of events."""
    last = words[head.LAST_POSITION]
    while last and positions.offset(last) >= published:
        last -= 1
    words[head.LAST_POSITION] = last
    words[head.AGGREGATES] = log.frame_of(positions.offset(last)).aggregates if last else 0


def _rebuild(directory: Path, header: MappedFile) -> WriterFiles:
    words = header.words
    incarnation = words[head.INCARNATION]
    log = Log(directory, incarnation, writable=True)
    log.resume(START)
    _discard_tables(directory, keep=None)
    for path in directory.glob("positions-*"):
        path.unlink()
    positions = Positions(directory, incarnation, writable=True)
    words[head.GENERATION] = 1
    table = Index.create(tables.path(directory, incarnation, 1), log)
    files = WriterFiles(header, log, positions, GrowingIndex(directory, header, log, table))
    try:
        _replay(files)
    except BaseException:
        files.index.close()
        positions.close()
        log.close()
        raise
    words[head.BOOT_HIGH], words[head.BOOT_LOW] = head.boot_id()
    return files


def _replay(files: WriterFiles) -> None:
    words = files.header.words
    end, epoch, last_position, aggregates = START, 0, 0, 0
    files.positions.reserve(0)
    for frame in files.log.whole_frames(START):
        if frame.epoch < epoch:
            break  # left over from before an earlier recovery, which cut the log in front of it
        last_position += _replay_frame(files, frame)
        end, epoch, aggregates = frame.end, frame.epoch, frame.aggregates
    if end < words[head.DURABLE]:
        raise CorruptLogError(
            str(files.header.path), end, f"the log ends here, but {words[head.DURABLE]} bytes had reached the disk"
        )
    files.log.resume(end)
    # The header's page may have reached the disk before the log's.
    words[head.EPOCH] = max(words[head.EPOCH], epoch)
    words[head.LAST_POSITION], words[head.AGGREGATES], words[head.PUBLISHED] = last_position, aggregates, end


def _replay_frame(files: WriterFiles, frame: Frame) -> int:
    records = list(files.log.records(frame))
    files.index.reserve(len(records))
    events = [record for record in records if record.kind == EVENT]
    if events:
        files.positions.reserve(events[-1].position)
    for record in records:
        files.index.put(record.kind, record.key, record.offset, None)
        files.header.words[head.CLOCK] = max(files.header.words[head.CLOCK], record.timestamp)
    if events:
        files.positions.put(events[0].position, [event.offset for event in events])
    return len(events)
