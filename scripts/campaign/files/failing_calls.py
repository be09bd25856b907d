"""System calls that fail: the n-th of those of this process that write, allocate, or change a directory.

Every such function of `os` is taken that this Python has, and `mmap.flush`, whichever of them the store uses now. A
call that fails may have done a part of its work before: half of the space is taken, half of the bytes are written.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Literal
from unittest import mock

Group = Literal["writing", "flushing"]

_WRITING: Final = (
    *("write", "writev", "pwrite", "pwritev", "sendfile", "copy_file_range", "splice"),
    *("truncate", "ftruncate", "posix_fallocate"),
    *("link", "symlink", "rename", "renames", "replace", "unlink", "remove", "rmdir", "mkdir", "mkfifo", "mknod"),
    *("chmod", "fchmod", "chown", "fchown", "utime", "setxattr"),
)
_FLUSHING: Final = ("fsync", "fdatasync", "sync")
_FOR_WRITING: Final = os.O_CREAT | os.O_WRONLY | os.O_RDWR
_PAGE: Final = 4096


@dataclass
class FailingCalls:
    """Lets the n-th call of one group fail, and with `lasting` all of this group that follow.

    `can_allocate` says whether the file system knows `posix_fallocate`; where not, zeros are written instead.
    """

    group: Group
    number: int
    error: int
    lasting: bool
    can_allocate: bool
    calls: int = 0
    failed: int = 0
    is_off: bool = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Take the functions' places for a while."""
        patches = {name: self._wrapped("writing", name) for name in _WRITING if hasattr(os, name)}
        patches |= {name: self._wrapped("flushing", name) for name in _FLUSHING if hasattr(os, name)}
        patches["open"] = self._wrapped_open()
        with replaced(os, patches), replaced(mmap, {"mmap": self._mapping_class()}):
            yield

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let all succeed for a while, and count none."""
        before, self.is_off = self.is_off, True
        yield
        self.is_off = before

    def meet(self, group: Group) -> None:
        """Count a call, and raise if it is one that fails."""
        if self._is_to_fail(group):
            raise OSError(self.error, os.strerror(self.error))

    def _is_to_fail(self, group: Group) -> bool:
        if self.is_off or group != self.group:
            return False
        self.calls += 1
        fails = self.calls == self.number or (self.lasting and self.calls > self.number)
        self.failed += fails
        return fails

    def _wrapped(self, group: Group, name: str) -> Callable[..., Any]:
        function = getattr(os, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            if name == "posix_fallocate" and not self.can_allocate:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            if self._is_to_fail(group):
                _do_half(name, function, arguments)
                raise OSError(self.error, os.strerror(self.error))
            return function(*arguments, **keywords)

        return call

    def _wrapped_open(self) -> Callable[..., int]:
        function = os.open

        def call(path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
            if flags & _FOR_WRITING:
                self.meet("writing")
            return function(path, flags, *arguments, **keywords)

        return call

    def _mapping_class(self) -> type[mmap.mmap]:
        calls = self

        class Mapping(mmap.mmap):
            def flush(self, *arguments: Any) -> None:
                calls.meet("flushing")
                super().flush(*arguments)

        return Mapping


@contextlib.contextmanager
def replaced(module: ModuleType, by: Mapping[str, object]) -> Iterator[None]:
    """Let some names of a module mean something else for a while."""
    with contextlib.ExitStack() as stack:
        for name, value in by.items():
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def _do_half(name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if name == "posix_fallocate":
        descriptor, start, length = arguments
        if (half := length // 2 & -_PAGE) > 0:
            function(descriptor, start, half)
    elif name in ("pwrite", "write"):
        descriptor, data, *rest = arguments
        function(descriptor, data[: len(data) // 2], *rest)
