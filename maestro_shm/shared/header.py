"""The header: one mapped page of numbers that tells readers what is published.

Each number is a word of 8 bytes, in the machine's own order. A store is never moved to another kind of machine as
files: its magic number is another one there, and it is refused.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreUnavailableError
from maestro_shm.shared.mapped import PAGE, DiskError, MappedFile

MAGIC: Final = int.from_bytes(b"maestro\x00", "little")
FIRST_FORMAT: Final = 1
FORMAT_VERSION: Final = 2
"""From the first floor on: who reads the first format only would show what was truncated."""

(
    MAGIC_WORD,
    FORMAT,
    INCARNATION,  # counts resets and compactions; part of the other files' names
    EPOCH,  # counts servers
    BOOT_HIGH,
    BOOT_LOW,
    MAX_COMMIT_BYTES,
    DURABLE,  # the log up to this offset is on the disk
    LAST_POSITION,
    AGGREGATES,
    CLOCK,  # last timestamp given
    SERVER_PID,
    CLIENTS,
    DISK_FAILED,  # 1 where the disk did not take something, so that nobody may trust it before the next boot
    WAITS_FOR_DISK,  # 1 if the store was made with durability="power"
    FIRST_EPOCH,  # of the frames behind DURABLE: older ones there were cut off by the last scan
) = range(16)
GENERATION: Final = 16  # of the index; with PUBLISHED all that a read looks at, in a cache line of its own
PUBLISHED: Final = 17
NEWEST_FLOOR: Final = 18  # its offset; who reads looks here before any floor, and for 0 no further
COMPACTIONS: Final = 19  # how many of the incarnations are no others to those who use the store
SHORTER: Final = 20  # by how many bytes the log would be longer without its compactions
COMPACTED: Final = 21  # the log up to this offset has only what was live when it was compacted
DEAD: Final = 22  # about how many bytes of the log nobody needs any more
TRUNCATED: Final = 23  # how many of the events up to LAST_POSITION are no more

RETIRED: Final = 2**64 - 1
"""As generation: these files are no longer the store's; it was reset or destroyed."""

NAME: Final = "header"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def create(path: Path) -> MappedFile:
    """A new header under construction: it has no magic number yet."""
    return MappedFile.create(path, PAGE, PAGE)


def open_header(directory: Path, *, writable: bool = False) -> MappedFile:
    """The header of a store. Raises `FileNotFoundError`, and `StoreUnavailableError` if it is none of ours."""
    path = directory / NAME
    header = MappedFile.open(path, writable=writable) if path.stat().st_size == PAGE else None
    if header is not None and header.words[MAGIC_WORD] == MAGIC and is_known(header.words):
        return header
    version = header.words[FORMAT] if header is not None and header.words[MAGIC_WORD] == MAGIC else None
    if header is not None:
        header.close()
    raise StoreUnavailableError(str(directory), _why_not(version))


def era(words: memoryview) -> int:
    """Counts resets: what is the same for those who use the store though its files are others."""
    return words[INCARNATION] - words[COMPACTIONS]


def is_known(words: memoryview) -> bool:
    """Whether these are the words of a format that can be read here."""
    return FIRST_FORMAT <= words[FORMAT] <= FORMAT_VERSION


def raise_format(header: MappedFile) -> None:
    """Let no older version read the files from now on, for the disk, too. Raises `DiskError`."""
    if header.words[FORMAT] < FORMAT_VERSION:
        header.words[FORMAT] = FORMAT_VERSION
        with noting_disk_failure(header.words):
            header.flush()


@contextlib.contextmanager
def noting_disk_failure(words: memoryview) -> Iterator[None]:
    """Note where the disk does not take something: what it says from then on means nothing."""
    try:
        yield
    except DiskError:
        words[DISK_FAILED] = 1
        raise


@contextlib.contextmanager
def bearing_disk_failure(words: memoryview) -> Iterator[None]:
    """The same, but where a failure is noted already a further one is no error: nothing more is stored, reads go on."""
    has_failed = words[DISK_FAILED]
    try:
        with noting_disk_failure(words):
            yield
    except DiskError:
        if not has_failed:
            raise


def retire(header: MappedFile) -> None:
    """Mark the files as no longer the store's: for those who read, and for the disk, if that still takes anything."""
    header.words[GENERATION] = RETIRED
    with contextlib.suppress(DiskError):
        header.flush()


def read(path: Path) -> memoryview | None:
    """The words of a header that may be damaged, as they are now; None if the file is not there or of another size."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return memoryview(content).cast("Q") if len(content) == PAGE else None


def retire_at(path: Path) -> None:
    """Tell those who read by this header that its files are no longer the store's; whatever the file is like."""
    try:
        header = MappedFile.open(path, writable=True)
    except (OSError, ValueError):
        return  # nobody can read by it
    if header.size >= (GENERATION + 1) * 8:
        retire(header)
    header.close()


def _why_not(version: int | None) -> str:
    if version is None:
        return "not a store: its file 'header' is of something else, or of another kind of machine"
    advice = "upgrade maestro_shm" if version > FORMAT_VERSION else "it is too old"
    return f"its files are of format {version}, this version of maestro_shm reads up to {FORMAT_VERSION}; {advice}"


def boot_id() -> tuple[int, int]:
    """A number of 128 bits, as two words, that changes when the machine starts anew; zeros where none is known."""
    try:
        number = uuid.UUID(_BOOT_ID.read_text(encoding="ascii").strip()).int
    except OSError:  # pragma: no cover (not Linux: the store is recovered by a scan each time)
        return 0, 0
    return number >> 64, number & (2**64 - 1)
