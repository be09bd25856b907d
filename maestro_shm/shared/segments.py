"""A growing file: numbered pieces of one size, so that it can grow for ever and no piece has to be mapped again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreFullError
from maestro_shm.shared.mapped import PAGE, MappedFile, flush_file

LARGEST_STEP: Final = 16 << 20


class Segments:
    """The segments of one growing file, by number. Each is mapped when it is first needed."""

    def __init__(
        self, directory: Path, prefix: str, bits: int, *, first_step: int, writable: bool, lasting: bool = False
    ) -> None:
        """One that is `lasting` has each new segment on the disk, empty, before anything is written to it."""
        self.size: Final = 1 << bits
        self._directory = directory
        self._prefix = prefix
        self._first_step = first_step
        self._writable = writable
        self._lasting = lasting
        self._allocated_end = 0
        self.files: Final[dict[int, MappedFile]] = {}

    def path(self, number: int) -> Path:
        """The path of a segment."""
        return self._directory / f"{self._prefix}-{number:06d}"

    def open(self, number: int) -> MappedFile:
        """A segment, mapped. Raises `FileNotFoundError`.

        Threads may do this at once: the first one's mapping stays, the other's goes with its last reference.
        """
        known = self.files.get(number)
        return known or self.files.setdefault(number, MappedFile.open(self.path(number), writable=self._writable))

    def missing(self, end: int) -> Path | None:
        """The first segment below this address that is not there in its full size, if there is one."""
        numbers = range(-(-end // self.size))
        return next((self.path(number) for number in numbers if not self._is_whole(number)), None)

    def resume(self, end: int) -> None:
        """Go on at this address, as a new writer. What lies below was written, and so has its space by whole pages."""
        self._allocated_end = _pages(end)
        if end % self.size:
            self.open(end // self.size)

    def reserve(self, end: int) -> int:
        """Make sure that everything below this address may be written to, and say below which. Raises `StoreFullError`.

        Space is taken in steps that double with the file up to 16 MiB, so that a small store stays small (a container
        may have 64 MB of shared memory) and a large one does not ask at every commit.
        """
        while self._allocated_end < end:
            number, start = divmod(self._allocated_end, self.size)
            needed = min(start + _pages(end - self._allocated_end), self.size)
            step = min(max(self._first_step, self._allocated_end), LARGEST_STEP)
            wanted = max(needed, min(start + _pages(step), self.size))
            try:
                self._allocate(number, start, wanted)
            except StoreFullError:
                if needed == wanted:
                    raise
                # There may still be room for what is needed now.
                wanted = needed
                self._allocate(number, start, wanted)
            self._allocated_end = number * self.size + wanted
        return self._allocated_end

    def grows_by(self, end: int) -> bool:
        """Whether `reserve` takes space from the file system for this address."""
        return end > self._allocated_end

    def flush(self, start: int, end: int) -> None:
        """Return when the disk has what was written between these addresses. Raises `DiskError`."""
        for number in range(start // self.size, -(-end // self.size)):
            base = number * self.size
            if file := self.files.get(number):
                file.flush(max(start - base, 0), min(end - base, self.size))
            else:
                flush_file(self.path(number))

    def close(self) -> None:
        """Unmap all the segments."""
        for file in self.files.values():
            file.close()

    def _allocate(self, number: int, start: int, stop: int) -> None:
        # One that is there already was left by a writer that died before what it wrote there counted. Readers may have
        # mapped it, and would never see another one of its name. But one that lasts has to be on the disk, and empty.
        if start or (not self._lasting and self._is_whole(number)):
            self.open(number).allocate(start, stop)
        else:
            self.path(number).unlink(missing_ok=True)
            self.files[number] = MappedFile.create(self.path(number), self.size, stop, lasting=self._lasting)

    def _is_whole(self, number: int) -> bool:
        try:
            return self.path(number).stat().st_size == self.size
        except FileNotFoundError:
            return False


def _pages(size: int) -> int:
    return (size + PAGE - 1) & -PAGE
