"""From the files that a former server left to files that a new one can go on with.

Within one boot of the machine the memory outlives every process, so the published offset is law: what lies behind it
was never acknowledged and is undone, which takes no longer in a large store. After another boot the disk may hold any
part of what was written: the log is scanned by its CRCs, and index and positions are built anew from it. So they are if
somebody has removed them.

What a scan goes by is flushed to the disk before it is needed, in every mode: a store's beginning, a new segment of its
log, a mark on an undone frame, an epoch.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from maestro_shm.errors import CorruptLogError
from maestro_shm.shared import frame as frames
from maestro_shm.shared import header as head
from maestro_shm.shared import index as tables
from maestro_shm.shared.frame import EVENT, FLOOR, Frame, Record
from maestro_shm.shared.header import RETIRED
from maestro_shm.shared.index import GrowingIndex, Index
from maestro_shm.shared.log import START, Log
from maestro_shm.shared.mapped import MappedFile, flush_directory, flush_file, room_for
from maestro_shm.shared.positions import Positions

UNFINISHED: Final = head.NAME + ".new"
REPLACED: Final = "damaged-"
"""What the name of the directory begins with to which a repair moves the files that it replaces."""
REPLACED_HEADER: Final = head.NAME + ".replaced"
SUCCESSOR: Final = "compaction"
"""The directory in which the next set of files is made, while the present one is used."""
_DATA: Final = re.compile(r"(log|positions|index)-(\d+)-\d+")


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


def is_begun(directory: Path) -> bool:
    """Whether there is a store to recover, whatever else may be missing.

    Raises `CorruptLogError` if there is a log without a header: a new store would be written over it.
    """
    is_there = (directory / head.NAME).exists()
    if not is_there and newest_log(directory) is not None:
        raise CorruptLogError(str(directory / head.NAME), 0, "it is missing, though there is a log")
    return is_there


def newest_log(directory: Path) -> int | None:
    """The newest incarnation of which there is a log, but for the one that is being made."""
    return max(logs(directory), default=None)


def logs(directory: Path) -> set[int]:
    """The incarnations of which there are logs, but for the one that is being made."""
    unfinished = head.read(directory / UNFINISHED)
    passed = None if unfinished is None else unfinished[head.INCARNATION]
    return {number for _, kind, number in data_files(directory) if kind == "log" and number != passed}


def create(
    directory: Path,
    *,
    incarnation: int,
    epoch: int,
    clock: int,
    max_commit_bytes: int,
    waits_for_disk: bool,
    index_capacity: int = tables.SMALLEST,
) -> WriterFiles:
    """The files of a new incarnation, empty, under the unfinished name. Raises `StoreFullError`; leaves nothing."""
    sweep(directory, keep=incarnation - 1)
    try:
        header = head.create(directory / UNFINISHED)
        words = header.words
        words[head.FORMAT] = head.FIRST_FORMAT
        words[head.INCARNATION] = incarnation
        words[head.EPOCH] = epoch
        words[head.BOOT_HIGH], words[head.BOOT_LOW] = head.boot_id()
        words[head.MAX_COMMIT_BYTES] = max_commit_bytes
        words[head.WAITS_FOR_DISK] = waits_for_disk
        words[head.CLOCK] = clock
        words[head.GENERATION] = 1
        words[head.PUBLISHED] = START
        # Before there is a log: without this one's name that would look like one that has lost its header.
        header.flush()
        flush_directory(directory)
        files = _begin_files(directory, header, index_capacity)
        words[head.MAGIC_WORD] = head.MAGIC
    except BaseException:
        sweep(directory, keep=incarnation - 1)
        raise
    return files


def create_next(directory: Path, former: memoryview) -> WriterFiles:
    """The files of the incarnation after the one with this header, as `create` makes them."""
    files = _create_after(former, directory, tables.SMALLEST)
    files.header.words[head.COMPACTIONS] = former[head.COMPACTIONS]
    if is_of_this_boot(former):
        files.header.words[head.DISK_FAILED] = former[head.DISK_FAILED]
    return files


def create_successor(directory: Path, former: memoryview, index_capacity: int) -> WriterFiles:
    """The next set of files for the same store, empty, in a directory of their own, where nobody else looks."""
    successor = directory / SUCCESSOR
    with room_for(successor, 0):
        successor.mkdir(mode=0o700, exist_ok=True)
    files = _create_after(former, successor, index_capacity)
    files.header.words[head.FORMAT] = head.FORMAT_VERSION
    return files


def _create_after(former: memoryview, directory: Path, index_capacity: int) -> WriterFiles:
    return create(
        directory,
        incarnation=former[head.INCARNATION] + 1,
        epoch=former[head.EPOCH],
        clock=former[head.CLOCK],
        max_commit_bytes=former[head.MAX_COMMIT_BYTES],
        waits_for_disk=bool(former[head.WAITS_FOR_DISK]),
        index_capacity=index_capacity,
    )


def take_over(directory: Path, former: memoryview) -> WriterFiles:
    """Open those files, for who writes the present ones, beside them: unfinished as yet."""
    successor = directory / SUCCESSOR
    (successor / UNFINISHED).replace(directory / UNFINISHED)  # first, since it tells that the others are unfinished
    header = MappedFile.open(directory / UNFINISHED, writable=True)
    words = header.words
    _discard(successor, "index", keep=_table_path(successor, words))
    for path, _, _ in list(data_files(successor)):
        path.replace(directory / path.name)
    successor.rmdir()
    if words[head.INCARNATION] != former[head.INCARNATION] + 1 or words[head.MAGIC_WORD] != head.MAGIC:
        raise CorruptLogError(str(header.path), 0, "it is not of the next set of files")
    log = Log(directory, words[head.INCARNATION], writable=True)
    log.check(words[head.PUBLISHED])
    log.resume(words[head.PUBLISHED])
    positions = Positions(directory, words[head.INCARNATION], writable=True)
    positions.resume(words[head.LAST_POSITION])
    table = Index.open(_table_path(directory, words), log, writable=True)
    return WriterFiles(header, log, positions, GrowingIndex(directory, words, log, table))


def succeed(directory: Path, former: MappedFile) -> None:
    """Let files that were taken over be those of the store. Raises `DiskError`; they are if no header is unfinished.

    Whoever reads the former ones goes over when they are told so; until then nobody has written to the new ones. Who is
    killed in between leaves that to recovery.
    """
    (directory / REPLACED_HEADER).unlink(missing_ok=True)
    (directory / REPLACED_HEADER).hardlink_to(directory / head.NAME)
    flush_directory(directory)
    try:
        publish(directory)
    finally:
        if not (directory / UNFINISHED).exists():
            former.words[head.GENERATION] = RETIRED
            (directory / REPLACED_HEADER).unlink()


def flush_names(directory: Path) -> None:
    """Let the disk know the names in the directory, and its own. Raises `DiskError`.

    Whoever made or renamed files here may have been killed before it came to this, and what follows relies on them.
    """
    flush_directory(directory)
    with contextlib.suppress(PermissionError):  # we may enter where it lies, but not look around there
        flush_directory(directory.parent)


def publish(directory: Path) -> None:
    """Give the unfinished files the name by which they are found. Raises `DiskError`, and notes it in the header."""
    header = MappedFile.open(directory / UNFINISHED, writable=True)
    try:
        with head.noting_disk_failure(header.words):
            flush_file(directory / UNFINISHED)
            (directory / UNFINISHED).replace(directory / head.NAME)
            flush_names(directory)
    finally:
        header.close()


def recover(directory: Path) -> WriterFiles:
    """Open the files for writing. Raises `CorruptLogError`, and `StoreFullError` where some have to be built anew."""
    header = head.open_header(directory, writable=True)
    with head.bearing_disk_failure(header.words):
        flush_names(directory)
    retire_replaced(directory)
    with head.noting_disk_failure(header.words):
        if header.words[head.GENERATION] == RETIRED:
            return _begin_anew(directory, header.words)
        return _recover(directory, header)


def _recover(directory: Path, header: MappedFile) -> WriterFiles:
    words = header.words
    incarnation = words[head.INCARNATION]
    log = Log(directory, incarnation, writable=True)
    positions = Positions(directory, incarnation, writable=True)
    log.check(words[head.PUBLISHED])
    shutil.rmtree(directory / SUCCESSOR, ignore_errors=True)
    with head.bearing_disk_failure(words):
        # Not before: a damaged header may tell of another incarnation. To remove what a compaction replaced may take
        # half a second, for which nobody is to wait: the server does it later, unless much is to be built anew, which
        # takes longer, and needs the room.
        sweep(directory, keep=incarnation, spares_former=is_of_this_boot(words))
    _discard(directory, "index", keep=_table_path(directory, words))
    if is_of_this_boot(words):
        index = _undo_unpublished(directory, words, log, positions)
    else:
        index = _rebuild(directory, words, log, positions, least=words[head.DURABLE])
        _note_boot(words)
        with head.bearing_disk_failure(words):
            log.flush(0, words[head.PUBLISHED])  # the disk has it, unless boots cannot be told apart
            words[head.DURABLE] = words[head.PUBLISHED]
            words[head.FIRST_EPOCH] = words[head.EPOCH] + 1
    return WriterFiles(header, log, positions, index)


def sweep(directory: Path, *, keep: int, spares_former: bool = False) -> None:
    """Remove the files of every incarnation but one (and maybe those before it), and the unfinished header.

    Who has them mapped keeps them. The header goes last, on the disk, too, since it tells which files are unfinished.
    Raises `DiskError`.
    """
    for path, _, incarnation in data_files(directory):
        if incarnation > keep or (incarnation < keep and not spares_former):
            path.unlink(missing_ok=True)
    if (directory / UNFINISHED).exists():
        flush_directory(directory)
        (directory / UNFINISHED).unlink(missing_ok=True)


def retire_replaced(directory: Path) -> None:
    """Tell the readers of files that a repair or a compaction replaced.

    One that was killed meanwhile may not have done so.
    """
    replaced = directory / REPLACED_HEADER
    if replaced.exists():
        if not replaced.samefile(directory / head.NAME):
            head.retire_at(replaced)
        replaced.unlink()
    for path in directory.glob(f"{REPLACED}*/{REPLACED_HEADER}"):
        if not path.samefile(directory / head.NAME):  # else it was killed before it replaced them
            head.retire_at(path)


def _discard(directory: Path, kind: str, *, keep: Path | None = None) -> None:
    """Remove the files of one kind, but for one."""
    for path, found, _ in data_files(directory):
        if found == kind and path != keep:
            path.unlink(missing_ok=True)


def data_files(directory: Path) -> Iterator[tuple[Path, str, int]]:
    """The store's files by their names, with their kinds and incarnations."""
    for path in directory.iterdir():
        if (match := _DATA.fullmatch(path.name)) and path.is_file():
            yield path, match[1], int(match[2])


def _table_path(directory: Path, words: tables.Numbers) -> Path:
    return tables.path(directory, words[head.INCARNATION], words[head.GENERATION])


def _begin_files(directory: Path, header: MappedFile, index_capacity: int) -> WriterFiles:
    incarnation = header.words[head.INCARNATION]
    log = Log(directory, incarnation, writable=True)
    positions = Positions(directory, incarnation, writable=True)
    log.create()
    positions.reserve(0)
    table = Index.create(_table_path(directory, header.words), log, index_capacity)
    return WriterFiles(header, log, positions, GrowingIndex(directory, header.words, log, table))


def _begin_anew(directory: Path, retired: memoryview) -> WriterFiles:
    """The next incarnation, empty: a server died in the midst of a reset or, with half of it done, of a `destroy`.

    What there may be of a next one nobody has seen. The number rises, so that no reader of the former incarnation comes
    upon files of this one.
    """
    files = create_next(directory, retired)
    publish(directory)
    sweep(directory, keep=files.header.words[head.INCARNATION])
    return files


def _undo_unpublished(directory: Path, words: memoryview, log: Log, positions: Positions) -> GrowingIndex:
    table_path = _table_path(directory, words)
    table = _whole_table(table_path, log)
    _undo(words, log, table)
    if table is None or not positions.are_there(words[head.LAST_POSITION]):
        table_path.unlink(missing_ok=True)  # so that a rebuild which is killed begins again
        with head.bearing_disk_failure(words):
            sweep(directory, keep=words[head.INCARNATION])  # it needs the room
        return _rebuild(directory, words, log, positions, least=words[head.PUBLISHED])
    log.resume(words[head.PUBLISHED])
    positions.resume(words[head.LAST_POSITION])
    return GrowingIndex(directory, words, log, table)


def _whole_table(path: Path, log: Log) -> Index | None:
    try:
        table = Index.open(path, log, writable=True)
    except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
        return None
    return table if table.is_whole else None


def _undo(words: memoryview, log: Log, table: Index | None) -> None:
    """Undo the commits that were not published: one, or those that waited for the disk. A torn one has changed nothing.

    Their places are not used again: a reader that was stopped may be on its way there, and finds the way back from
    there. The next try lies behind them: without the mark on the disk a loss of power would bring them back beside it.
    The first is made void last, so that whoever is killed meanwhile leaves enough to begin again.
    """
    # What an older epoch left behind the end of a scan is no commit to undo.
    written = list(
        takewhile(lambda found: found[0].epoch == words[head.EPOCH], log.whole_frames(words[head.PUBLISHED]))
    )
    tails = [words[head.PUBLISHED], *(frame.end for frame, _ in written)]
    # Some may be void already: an earlier recovery has come so far. But the disk may not know it as yet.
    undone = [(tail, frame, records) for tail, (frame, records) in zip(tails, written, strict=False)]
    if begun := [(frame, records) for _, frame, records in undone if records]:
        first, records = begun[0]
        words[head.LAST_POSITION] = first.first_position - 1
        words[head.AGGREGATES] = first.aggregates - _new_streams(records)
    if floors := [record for _, records in begun for record in records if record.kind == FLOOR]:
        by_it, _, by_then, _ = frames.TRUNCATED.unpack(floors[0].payload)
        words[head.TRUNCATED] = by_then - by_it
    for tail, frame, records in reversed(undone):
        if table is not None:
            _point_back(table, records)
        log.make_void(frame, tail)
        with head.bearing_disk_failure(words):
            log.flush_void(frame, tail)
    if table is not None:  # else a reader's may point to them as yet: it follows when there is a new one
        words[head.PUBLISHED] = tails[-1]


def _new_streams(records: Sequence[Record]) -> int:
    return sum(record.kind == EVENT and not record.previous for record in records)


def _point_back(table: Index, records: Sequence[Record]) -> None:
    for record in reversed(records):
        word = table.locate(tables.fingerprint(record.kind, record.key), record.offset)
        if word is not None:
            table.words[word] = record.previous


def _rebuild(directory: Path, words: memoryview, log: Log, positions: Positions, *, least: int) -> GrowingIndex:
    """Build index and positions from the log, on a draft of the header: readers go over to them when all is there."""
    former = _table_path(directory, words)
    _discard(directory, "positions")
    draft = list(words)
    draft[head.GENERATION] += 1
    index = GrowingIndex(directory, draft, log, Index.create(_table_path(directory, draft), log))
    _replay(draft, log, positions, index)
    if draft[head.PUBLISHED] < least:
        raise log.damage(draft[head.PUBLISHED], f"the log ends here, but {least:,} bytes had been stored")
    # A reader that sees the new end must see the new table.
    for word in (
        head.EPOCH,
        head.CLOCK,
        head.LAST_POSITION,
        head.AGGREGATES,
        head.TRUNCATED,
        head.NEWEST_FLOOR,
        head.DEAD,
    ):
        words[word] = draft[word]
    for word in (head.GENERATION, head.PUBLISHED):
        words[word] = draft[word]
    index.header = words
    former.unlink(missing_ok=True)
    return index


def is_of_this_boot(words: Sequence[int] | memoryview) -> bool:
    """Whether the files with this header were last written in this boot of the machine."""
    return (words[head.BOOT_HIGH], words[head.BOOT_LOW]) == head.boot_id() != (0, 0)


def _note_boot(words: memoryview) -> None:
    """What was found after another boot is law in this one, and the disk is believed again."""
    if head.boot_id() != (0, 0):
        words[head.DISK_FAILED] = 0
    words[head.BOOT_HIGH], words[head.BOOT_LOW] = head.boot_id()


def _replay(draft: list[int], log: Log, positions: Positions, index: GrowingIndex) -> None:
    end, epoch = START, 0
    draft[head.LAST_POSITION] = draft[head.AGGREGATES] = draft[head.TRUNCATED] = 0
    draft[head.NEWEST_FLOOR] = draft[head.DEAD] = 0
    positions.reserve(0)
    for frame, records in log.whole_frames(START):
        if frame.epoch < epoch:
            break  # left over from before an earlier recovery, which cut the log in front of it
        if records:  # or it is void
            _replay_frame(draft, positions, index, frame, records)
        epoch, end = frame.epoch, frame.end
    log.resume(end)
    # The header's page may have reached the disk before the log's.
    draft[head.EPOCH] = max(draft[head.EPOCH], epoch)
    draft[head.PUBLISHED] = end


def _replay_frame(
    draft: list[int], positions: Positions, index: GrowingIndex, frame: Frame, records: Sequence[Record]
) -> None:
    newest = {(record.kind, record.key): record.offset for record in records}
    index.reserve(sum(not record.previous for record in records))
    tables.store(index.claim(newest), newest.values())
    if events := [record for record in records if record.kind == EVENT]:
        positions.reserve(events[-1].position)
        placed = [(event.position, event.offset) for event in events]
        positions.put_apart(draft[head.LAST_POSITION], frame.first_position, placed)
        draft[head.LAST_POSITION] = events[-1].position
    draft[head.DEAD] += sum(map(frames.dead_by, records))
    for record in records:
        if record.kind == FLOOR:
            draft[head.NEWEST_FLOOR] = record.offset
            _, _, draft[head.TRUNCATED], _ = frames.TRUNCATED.unpack(record.payload)
    draft[head.AGGREGATES] = frame.aggregates
    draft[head.CLOCK] = max(draft[head.CLOCK], *(record.timestamp for record in records))
