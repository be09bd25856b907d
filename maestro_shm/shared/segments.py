"""A growing file: numbered pieces of one size, so that it can grow for ever and no piece is ever mapped twice."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from maestro_shm.errors import StoreFullError
from maestro_shm.shared.mapped import PAGE, MappedFile

LARGEST_STEP: Final = 16 << 20


class Segments:
    """The segments of one growing file, by number. A reader opens them as it needs them, the writer adds them."""

    def __init__(self, directory: Path, prefix: str, bits: int, *, first_step: int, writable: bool) -> None:
        self.size: Final = 1 << bits
        self._directory = directory
        self._prefix = prefix
        self._first_step = first_step
        self._writable = writable
        self._allocated_end = 0
        self.files: list[MappedFile] = []

    def path(self, number: int) -> Path:
        """The path of a segment."""
        return self._directory / f"{self._prefix}-{number:06d}"

    def open_up_to(self, number: int) -> None:
        """Map the segments up to this one, which exists."""
        while len(self.files) <= number:
            self.files.append(MappedFile.open(self.path(len(self.files)), writable=self._writable))

    def resume(self, end: int) -> None:
        """Map all the segments that there are, as a new writer that goes on at this address.

        What lies below was written and so has its space. A segment of another size was left by a writer that died
        while it made it; nothing is in it.
        """
        while (path := self.path(len(self.files))).exists():
            if path.stat().st_size != self.size:
                path.unlink()
                break
            self.open_up_to(len(self.files))
        self._allocated_end = min(end & -PAGE, len(self.files) * self.size)

    def reserve(self, end: int) -> None:
        """Make sure that everything below this address may be written to. Raises `StoreFullError`.

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

    def close(self) -> None:
        """Unmap all the segments."""
        for file in self.files:
            file.close()

    def _allocate(self, number: int, start: int, stop: int) -> None:
        if number < len(self.files):
            self.files[number].allocate(start, stop)
        else:
            self.files.append(MappedFile.create(self.path(number), self.size, stop))


def _pages(size: int) -> int:
    return (size + PAGE - 1) & -PAGE
