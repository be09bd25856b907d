"""Memory-mapped files: the only place that maps, allocates and lets go of them.

Rules: a file has its full size from the start and is never shrunk, since somebody may have mapped it; space is
allocated before it is written to, since on a full tmpfs the touch of a hole kills the process (SIGBUS) where
`posix_fallocate` says ENOSPC; numbers that others read meanwhile are stored through `words`, one aligned 8-byte store
each (`struct.pack_into` zeroes the field first, and readers saw the 0). A flush that has failed is never tried again on
the same file: the system takes what it could not write for written (as PostgreSQL learnt in 2018), so the second one
would succeed and mean nothing.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from maestro_shm.errors import StoreFullError, StoreUnavailableError
from maestro_shm.shared.room import room_of

PAGE: Final = 4096
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ZEROS: Final = bytes(1 << 16)


class DiskError(StoreUnavailableError):
    """The disk did not take what was written to a file, or to a directory."""


class MappedFile:
    """One mapped file. `data` is the mapping, `words` the same memory as native unsigned 8-byte numbers."""

    def __init__(self, path: Path, descriptor: int, *, writable: bool) -> None:
        self.path = path
        facts = os.fstat(descriptor)
        self.size, self.device, self.inode = facts.st_size, facts.st_dev, facts.st_ino
        # The mapping keeps a descriptor of its own, so there is one for each mapped file.
        self.data = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        self._bytes = memoryview(self.data)
        self.words = self._bytes[: self.size & ~7].cast("Q")

    @classmethod
    def create(cls, path: Path, size: int, allocated: int = 0, *, lasting: bool = False) -> Self:
        """A new file of zeros, of which `allocated` bytes may be written to. Raises `StoreFullError`; leaves none.

        One that is `lasting` is on the disk, with its name. Raises `DiskError` then, too.
        """
        with room_for(path, allocated):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, size)
                _allocate(descriptor, 0, allocated)
                if lasting:
                    _flush(path, descriptor)
                    flush_directory(path.parent)
                return cls(path, descriptor, writable=True)
            except BaseException:
                path.unlink()
                raise
            finally:
                os.close(descriptor)

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Self:
        """An existing file. Raises `FileNotFoundError`."""
        descriptor = _open(path, os.O_RDWR if writable else os.O_RDONLY)
        try:
            return cls(path, descriptor, writable=writable)
        finally:
            os.close(descriptor)

    def allocate(self, start: int, end: int) -> None:
        """Make sure that these bytes may be written to. Raises `StoreFullError`."""
        with room_for(self.path, end - start):
            descriptor = _open(self.path, os.O_RDWR)
            try:
                _allocate(descriptor, start, end)
            finally:
                os.close(descriptor)

    def flush(self, start: int = 0, end: int | None = None) -> None:
        """Return when the disk has what was written to these bytes. Raises `DiskError`.

        By msync, which on Linux is an fdatasync of the pages, with what it takes to find them again.
        """
        start &= -mmap.PAGESIZE
        try:
            self.data.flush(start, (self.size if end is None else end) - start)
        except OSError as error:
            raise _disk_error(self.path, error) from None

    def close(self) -> None:
        """Unmap the file at once, instead of with the last reference to it: for those who know that nobody reads it."""
        self.words.release()
        self._bytes.release()
        self.data.close()


def flush_file(path: Path) -> None:
    """Return when the disk has what was written to a file that need not be mapped here. Raises `DiskError`."""
    _flush_descriptor(path, os.O_RDONLY | os.O_NOFOLLOW)


def flush_directory(path: Path) -> None:
    """Return when the disk knows which names are in the directory. Raises `DiskError`."""
    _flush_descriptor(path, os.O_RDONLY | os.O_DIRECTORY)


def _flush_descriptor(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        _flush(path, descriptor)
    finally:
        os.close(descriptor)


def _flush(path: Path, descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do this for a directory
            raise _disk_error(path, error) from None


def _disk_error(path: Path, error: OSError) -> DiskError:
    return DiskError(str(path.parent), f"the disk did not take {path.name!r}: {error.strerror}")


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


@contextmanager
def room_for(path: Path, size: int) -> Iterator[None]:
    """Turn the system's errors for a full disk, or for one without room for a further file, into `StoreFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StoreFullError(str(path.parent), size, room_of(path.parent).available) from None


def _allocate(descriptor: int, start: int, end: int) -> None:
    if end > start:
        _fallocate(descriptor, start, end - start)


def _fallocate(descriptor: int, start: int, length: int) -> None:
    try:
        os.posix_fallocate(descriptor, start, length)
    except AttributeError:  # macOS has no such call
        _write_zeros(descriptor, start, start + length)
    except OSError as error:
        # Not every file system can, and not every C library then does what follows by itself (musl does not).
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        _write_zeros(descriptor, start, start + length)


def _write_zeros(descriptor: int, start: int, end: int) -> None:
    """Take space by writing over what is not in use yet."""
    while start < end:
        start += os.pwrite(descriptor, _ZEROS[: end - start], start)
