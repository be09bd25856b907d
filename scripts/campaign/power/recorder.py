"""Records what the store's own code does to its files, line by line of it, and what it flushes.

After each line of `maestro_shm.shared` the files are compared with what they were, so that nothing which that code does
to them, in whatever way, goes unseen. Flushes are noticed where they leave Python: msync, fsync, fdatasync.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Final, NamedTuple, Self

import maestro_shm.shared
from campaign.power.disk import SECTOR, Change, Flush, History, Inode, Names
from maestro_shm.shared import mapped

_WATCHED: Final = os.path.dirname(maestro_shm.shared.__file__)  # noqa: PTH120 (compared with names as Python has them)
_PAGE: Final = mmap.PAGESIZE
_NAMING: Final = frozenset(("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink"))
"""What Python says before it changes names."""


class FlushCall(NamedTuple):
    """A flush that the store asks for."""

    name: str
    """The file's; "." for the directory itself, ".." for the one above."""
    is_last: bool
    """Whether no later segment of this file is there."""
    functions: frozenset[str]
    """Of the store, that are under way."""


Forget = Callable[[FlushCall], bool]
"""Says which flushes to leave out: what a store that forgot them would be like."""


class _Killed(BaseException):
    """Ends the thread of a killed process when nobody looks any more."""


class _Watched:
    """One file that is looked at."""

    def __init__(self, path: Path, inode: Inode) -> None:
        self.inode = inode
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._mapped: mmap.mmap | None = None
        self._content = b""

    def look(self, history: History) -> None:
        """Note what has changed."""
        size = os.fstat(self._descriptor).st_size
        if size != len(self._content):
            history.now += 1
            self.inode.size.add(history.now, size)
            self._map(size)
        if self._mapped is not None and (content := self._mapped[:]) != self._content:
            self._note_sectors(history, content)

    def close(self) -> None:
        if self._mapped is not None:
            self._mapped.close()
        os.close(self._descriptor)

    def _map(self, size: int) -> None:
        if self._mapped is not None:
            self._mapped.close()
        self._mapped = mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ) if size else None
        self._content = self._content[:size].ljust(size, b"\0")

    def _note_sectors(self, history: History, content: bytes) -> None:
        history.now += 1
        for start in range(0, len(content), SECTOR):
            part = content[start : start + SECTOR]
            if part != self._content[start : start + SECTOR]:
                self.inode.put(history.now, start // SECTOR, part.ljust(SECTOR, b"\0"))
        self._content = content


class Recorder:
    """Of one store's directory, which need not be there yet. What is there counts as being on the disk."""

    def __init__(self, directory: Path, forget: Forget | None = None) -> None:
        self.directory = directory
        self.history = History()
        self._forget = forget
        self._watched: dict[int, _Watched] = {}
        self._named: list[_Watched] = []
        self._names: dict[str, int] = {}
        self.names_may_differ = True
        self._is_there = directory.exists()
        self._steps_left = -1
        self.steps = 0
        """Lines that were run since the last `begin`."""
        self._reached = threading.Event()
        self._is_over = threading.Event()
        self._killed: list[threading.Thread] = []
        if self._is_there:
            self._take_over()

    def run(self, work: Callable[[], Any]) -> Any:
        """What the work returns, recorded."""
        self.steps = 0
        sys.settrace(self._trace)
        try:
            return work()
        finally:
            sys.settrace(None)
            self.look()

    def run_and_kill(self, step: int, work: Callable[[], Any]) -> bool:
        """Let another thread do the work, and stop it for ever before this line of it, as SIGKILL does.

        It is asleep then, so that nothing which it would do on its way out is seen. Says whether it came so far.
        """
        self._steps_left = step
        self._reached.clear()
        outcome: list[BaseException | None] = []
        thread = threading.Thread(target=self._work, args=(work, outcome))
        self._killed.append(thread)
        thread.start()
        self._reached.wait()
        self._steps_left = -1
        if outcome and outcome[0] is not None:
            raise outcome[0]
        return not outcome

    def tick(self) -> int:
        """The time of something that is no change of a file."""
        self.history.now += 1
        return self.history.now

    def look(self) -> None:
        """Note what has changed."""
        if self.names_may_differ:
            self.names_may_differ = False
            self._look_at_names()
        for watched in self._named:
            watched.look(self.history)

    def note_flush(self, facts: os.stat_result, start: int, end: int | None) -> None:
        """The disk is told to keep a file, or a part of it, or a directory's names."""
        self.look()
        end = facts.st_size if end is None else end
        name = self._name_of(facts)
        if name is None or (self._forget is not None and self._forget(self._call(name))):
            return
        if name == ".":
            self.history.names.flushes.append(self.tick())
        elif name == "..":
            self.history.above.flushes.append(self.tick())
        else:
            pages = (start // _PAGE * _PAGE, (end + _PAGE - 1) // _PAGE * _PAGE)
            flushes = self.history.inodes[facts.st_ino].flushes
            flushes.append(Flush(self.tick(), pages[0] // SECTOR, pages[1] // SECTOR))

    def close(self) -> None:
        """Let the killed go, and the files."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the killed close nothing
            self._is_over.set()
            for thread in self._killed:
                thread.join()
        for watched in self._watched.values():
            watched.close()

    def __enter__(self) -> Self:
        _Active.recorder = self
        return self

    def __exit__(self, *_: object) -> None:
        _Active.recorder = None
        self.close()

    def _take_over(self) -> None:
        """What lies there was on the disk before anything else happened."""
        self.look()
        self.history.names = Names(before=dict(self._names))
        self.history.above = Names(before={"": 0})
        now = self.tick()
        for watched in self._watched.values():
            watched.inode.flushes.append(Flush(now, 0, 1 << 30))

    def _look_at_names(self) -> None:
        if not self._is_there:
            if not self.directory.exists():
                return
            self._is_there = True
            self.history.above.changes.append(Change(self.tick(), (), (("", 0),)))
        with os.scandir(self.directory) as entries:
            names = {entry.name: entry.inode() for entry in sorted(entries, key=attrgetter("name"))}
        if names != self._names:
            self._note_names(names)
            self._named = [self._watched[number] for number in dict.fromkeys(names.values())]

    def _note_names(self, names: dict[str, int]) -> None:
        for name, number in names.items():
            if number not in self._watched:
                inode = self.history.inodes[number] = Inode(number)
                self._watched[number] = _Watched(self.directory / name, inode)
        gone = tuple(name for name in self._names if name not in names)
        led = tuple((name, number) for name, number in names.items() if self._names.get(name) != number)
        self.history.names.changes.append(Change(self.tick(), gone, led))
        self._names = names

    def _call(self, name: str) -> FlushCall:
        kind = name.rpartition("-")[0]
        is_last = name == max((other for other in self._names if other.rpartition("-")[0] == kind), default=name)
        return FlushCall(name, is_last, frozenset(_function_names()))

    def _name_of(self, facts: os.stat_result) -> str | None:
        for path, name in ((self.directory, "."), (self.directory.parent, "..")):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), facts):
                    return name
        # A file without a name is gone, whatever the disk is told of it.
        return next((name for name, number in self._names.items() if number == facts.st_ino), None)

    def _trace(self, frame: FrameType, _: str, __: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_WATCHED):
            return None
        return self._step(frame, "call", None)

    def _step(self, _: FrameType, event: str, ___: Any) -> Any:
        self.look()
        self.steps += event == "line"
        return self._step

    def _work(self, work: Callable[[], Any], outcome: list[BaseException | None]) -> None:
        sys.settrace(self._trace_doomed)
        try:
            work()
            sys.settrace(None)
            self.look()
            outcome.append(None)
        except _Killed:
            pass
        except BaseException as error:  # noqa: BLE001 (it is raised where it was asked for)
            sys.settrace(None)
            outcome.append(error)
        finally:
            self._reached.set()

    def _trace_doomed(self, frame: FrameType, _: str, __: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_WATCHED):
            return None
        return self._step_doomed(frame, "call", None)

    def _step_doomed(self, _: FrameType, event: str, ___: Any) -> Any:
        self.look()
        if event == "line":  # at other events an exception may be lost in a generator's end
            self._steps_left -= 1
            if self._steps_left == 0:
                self._reached.set()
                self._is_over.wait()
                sys.settrace(None)
                raise _Killed
        return self._step_doomed


class _Active:
    """The recorder that is told of flushes."""

    recorder: Recorder | None = None


class _Mapping(mmap.mmap):
    """A mapping that tells of its flushes."""

    facts: os.stat_result

    def __new__(cls, descriptor: int, *arguments: Any, **options: Any) -> Self:
        made = super().__new__(cls, descriptor, *arguments, **options)
        made.facts = os.fstat(descriptor)
        return made

    def flush(self, offset: int = 0, size: int | None = None) -> None:
        if _Active.recorder is None:
            return
        _Active.recorder.note_flush(self.facts, offset, len(self) if size is None else offset + size)


def tell_of_flushes() -> None:
    """From now on this process tells the recorder of every flush, and makes none."""
    mapped.mmap = SimpleNamespace(**{**vars(mmap), "mmap": _Mapping})  # type: ignore[assignment,attr-defined] # quacks like it
    sys.addaudithook(_notice_names)
    os.fsync = os.fdatasync = _sync  # type: ignore[assignment] # files are given by descriptors here


def _notice_names(event: str, _: tuple[Any, ...]) -> None:
    if _Active.recorder is not None and event in _NAMING:
        _Active.recorder.names_may_differ = True


def _sync(descriptor: int) -> None:
    if _Active.recorder is not None:
        _Active.recorder.note_flush(os.fstat(descriptor), 0, None)


def _function_names() -> Iterator[str]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(_WATCHED):
            yield frame.f_code.co_qualname
        frame = frame.f_back
