"""Memory-mapped files: the only place that maps, allocates and lets go of them.

Rules: a file has its full size from the start and is never shrunk, since somebody may have mapped it; space is
allocated before it is written to, since on a full tmpfs the touch of a hole kills the process (SIGBUS) where
`posix_fallocate` says ENOSPC; numbers that others read meanwhile are stored through `words`, one aligned 8-byte store
each (`struct.pack_into` zeroes the field first, and readers saw the 0).
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from maestro_shm.errors import StoreFullError

PAGE: Final = 4096
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ZEROS: Final = bytes(1 << 16)


class MappedFile:
    """One mapped file. `data` is the mapping, `words` the same memory as native unsigned 8-byte numbers."""

    def __init__(self, path: Path, descriptor: int, *, writable: bool) -> None:
        self.path = path
        self.size = os.fstat(descriptor).st_size
        # The mapping keeps a descriptor of its own, so there is one for each mapped file.
        self.data = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        self._bytes = memoryview(self.data)
        self.words = self._bytes[: self.size & ~7].cast("Q")

    @classmethod
    def create(cls, path: Path, size: int, allocated: int = 0) -> Self:
        """A new file of zeros, of which `allocated` bytes may be written to. Raises `StoreFullError`; leaves none."""
        with _room_for(path, allocated):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, size)
                _allocate(descriptor, 0, allocated)
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
        with _room_for(self.path, end - start):
            descriptor = _open(self.path, os.O_RDWR)
            try:
                _allocate(descriptor, start, end)
            finally:
                os.close(descriptor)

    def flush(self) -> None:
        """Return when the disk has what was written so far."""
        self.data.flush()

    def close(self) -> None:
        """Unmap the file at once, instead of with the last reference to it: for those who know that nobody reads it."""
        self.words.release()
        self._bytes.release()
        self.data.close()


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


@contextmanager
def _room_for(path: Path, size: int) -> Iterator[None]:
    """Turn the system's errors for a full disk, or for one without room for a further file, into `StoreFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        usage = os.statvfs(path.parent)
        raise StoreFullError(str(path.parent), size, usage.f_bavail * usage.f_frsize) from None


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
