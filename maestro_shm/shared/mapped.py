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
from pathlib import Path
from typing import Final, Self

from maestro_shm.errors import StoreFullError

PAGE: Final = 4096


class MappedFile:
    """One mapped file. `data` is the mapping, `words` the same memory as native unsigned 8-byte numbers."""

    def __init__(self, path: Path, descriptor: int, *, writable: bool) -> None:
        self.path = path
        self.size = os.fstat(descriptor).st_size
        self.data = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        self._bytes = memoryview(self.data)
        self.words = self._bytes[: self.size & ~7].cast("Q")
        self._descriptor = os.dup(descriptor) if writable else -1

    @classmethod
    def create(cls, path: Path, size: int, allocated: int = 0) -> Self:
        """A new file of zeros, of which `allocated` bytes may be written to. Raises `StoreFullError`."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
            _allocate(descriptor, path, 0, allocated)
            return cls(path, descriptor, writable=True)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Self:
        """An existing file. Raises `FileNotFoundError`."""
        flags = os.O_RDWR if writable else os.O_RDONLY
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return cls(path, descriptor, writable=writable)
        finally:
            os.close(descriptor)

    def allocate(self, start: int, end: int) -> None:
        """Make sure that these bytes may be written to. Raises `StoreFullError`."""
        _allocate(self._descriptor, self.path, start, end)

    def read(self, start: int, length: int) -> bytes:
        """These bytes, or as many as there are, by a system call and not through the mapping."""
        return os.pread(self._descriptor, length, start)

    def close(self) -> None:
        """Unmap the file. Whoever reads in another thread at this moment gets a `ValueError`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        try:
            self.words.release()
            self._bytes.release()
            self.data.close()
        except BufferError:  # pragma: no cover (a reader in another thread holds it this very moment)
            pass  # the mapping ends when that reader lets go of it


def _allocate(descriptor: int, path: Path, start: int, end: int) -> None:
    if end <= start:
        return
    try:
        _fallocate(descriptor, start, end - start)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        usage = os.statvfs(path.parent)
        raise StoreFullError(str(path.parent), end - start, usage.f_bavail * usage.f_frsize) from None


if hasattr(os, "posix_fallocate"):
    _fallocate = os.posix_fallocate
else:  # pragma: no cover (macOS has none; zeros written over unused space do the same)

    def _fallocate(descriptor: int, start: int, length: int) -> None:
        zeros = bytes(1 << 16)
        end = start + length
        while start < end:
            start += os.pwrite(descriptor, zeros[: end - start], start)
