"""What the tests of the shared store do with processes: start, stop, kill and wait, always with a deadline.

A child that hangs is killed here, well before the test that waits for it runs out of time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Generic, Self, TypeVar
from uuid import uuid4

import maestro_shm as ms
from maestro_shm.shared.store import path_of

T = TypeVar("T")

ALL_LINES: Final = "MAESTRO_TEST_ALL_LINES"
"""The variable of the environment that `chosen_lines` looks for."""

PATIENCE: Final = 40.0
"""Seconds until a child counts as hung; far more than any needs, and less than a test's own time."""

WARNINGS: Final = ("-W", "error", "-W", "default:shared memory:RuntimeWarning")
"""Each is an error, but that of a container's small shared memory."""


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = PATIENCE) -> None:
    """Return as soon as the condition holds, and fail if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether the process runs no more; one that nobody has reaped yet runs no more either."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal that ends the process, and wait until it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    wait_until(lambda: is_gone(pid), f"process {pid} has ended")


def servers_of(directory: str | Path) -> list[int]:
    """The servers that run for a store's directory."""
    return _processes_of(directory, b"\nfrom maestro_shm.shared.process import main\n")


def compactors_of(directory: str | Path) -> list[int]:
    """The processes that compact the store in a directory."""
    return _processes_of(directory, b"\nfrom maestro_shm.shared.compactor import main\n")


def _processes_of(directory: str | Path, program: bytes) -> list[int]:
    wanted = os.fsencode(directory)
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if wanted in words and any(program in word for word in words):
                found.append(int(path.parent.name))
    return [pid for pid in found if not is_gone(pid)]


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (the list itself must hold no open directory)


@contextlib.contextmanager
def cleaned_up(directory: str | Path) -> Iterator[None]:
    """End whatever still serves the directory in the end, and remove it."""
    try:
        yield
    finally:
        for pid in servers_of(directory):
            kill(pid)
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def named_target() -> Iterator[str]:
    """The target of a named store that no other test uses and that leaves nothing behind."""
    target = f"shm:test-{uuid4().hex[:12]}"
    with cleaned_up(path_of(target)):
        yield target


def other_package(tmp_path: Path, addition: str) -> Path:
    """A copy of the package, whose server runs some more code when it starts."""
    package = tmp_path / "other" / "maestro_shm"
    shutil.copytree(Path(ms.__file__).parent, package)
    with (package / "shared" / "process.py").open("a") as program:
        program.write(textwrap.dedent(addition))
    return package


class Program:
    """Another program: its source runs in a fresh interpreter, and is talked to line by line."""

    def __init__(self, source: str, *arguments: str | Path | int) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                *WARNINGS,
                "-c",
                textwrap.dedent(source),
                *map(str, arguments),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def line(self, *, patience: float = PATIENCE) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], patience)[0]:
            self._process.kill()
            raise AssertionError(f"a program said nothing for {patience:g} s: {self._process.communicate()[1]}")
        text = self._process.stdout.readline()
        if not text:
            raise AssertionError(f"a program ended without a word: {self._process.communicate(timeout=PATIENCE)[1]}")
        return text.rstrip("\n")

    def tell(self, text: str = "") -> None:
        """Give it a line to read."""
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def output(self) -> str:
        """All that it prints until its end, which must be a good one."""
        code, out, err = self.outcome()
        assert code == 0, f"a program ended with {code}: {err}"
        return out.strip()

    def outcome(self) -> tuple[int, str, str]:
        """Its exit code, and what it printed and complained of until its end."""
        try:
            out, err = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"a program hung: {self._process.communicate()[1]}") from None
        return self._process.returncode, out, err

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def output_of(source: str, *arguments: str | Path | int) -> str:
    """What a program prints."""
    with Program(source, *arguments) as program:
        return program.output()


class Fork(Generic[T]):
    """A raw fork of this process that computes one result."""

    def __init__(self, work: Callable[[], T], fork: Callable[[], int] = os.fork) -> None:
        self._pipe, end = os.pipe()
        self._reaped = False
        self.pid = fork()
        if self.pid == 0:
            os.close(self._pipe)
            _work_in_child(work, end)
        os.close(end)

    def result(self, *, patience: float = PATIENCE) -> T:
        """What the child returned; fails with the child's traceback if it raised."""
        try:
            good, outcome = pickle.loads(self._read(patience))
        finally:
            self.kill()
        assert good, f"in a forked child:\n{outcome}"
        result: T = outcome
        return result

    def kill(self) -> None:
        """End it at once."""
        if not self._reaped:
            self._reaped = True
            os.close(self._pipe)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _read(self, patience: float) -> bytes:
        deadline = time.monotonic() + patience
        said = b""
        while select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            data = os.read(self._pipe, 1 << 16)
            if not data:
                assert said, "a forked child died without a word"
                return said
            said += data
        raise AssertionError("a forked child hung")


def _work_in_child(work: Callable[[], Any], end: int) -> None:
    try:
        try:
            said = pickle.dumps((True, work()))
        except BaseException:  # noqa: BLE001 (whatever it is, the parent is to hear of it)
            said = pickle.dumps((False, traceback.format_exc()))
        with os.fdopen(end, "wb") as pipe:
            pipe.write(said)
    finally:
        os._exit(0)


def in_forks(count: int, work: Callable[[int], T]) -> list[T]:
    """The results of the same work done by several forks at once."""
    with contextlib.ExitStack() as stack:
        forks = [stack.enter_context(Fork(lambda number=number: work(number))) for number in range(count)]  # type: ignore[misc] # mypy cannot infer a lambda with a default
        return [fork.result() for fork in forks]


def chosen_lines(every: int = 1) -> Iterator[int]:
    """The numbers of the lines to kill a process before: each so manyth, and of these one in three.

    All of these where the environment says so, as for the check "tests" of the torture campaign; the suite is quick.
    """
    return itertools.count(1, every if ALL_LINES in os.environ else 3 * every)


def killed_at_line(number: int, work: Callable[[], object], *, within: str) -> bool:
    """Let a fork do the work, and kill it before a line of `maestro_shm.shared`; say whether it came so far.

    Lines are counted from 1 as they are run, from the first call of a function of the name `within` on.
    """
    pid = os.fork()
    if pid == 0:
        try:
            sys.settrace(_trap(number, within))
            work()
            sys.settrace(None)
            os._exit(0)
        except BaseException:  # noqa: BLE001 (nothing may get out of the child)
            sys.settrace(None)
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the child to be killed at line {number} failed before that"
    return code != 0


def _trap(number: int, within: str) -> Callable[[FrameType, str, Any], Any]:
    left = number
    armed = False

    def trace(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG001 (how Python calls it)
        nonlocal left, armed
        if f"maestro_shm{os.sep}shared{os.sep}" not in frame.f_code.co_filename:
            return None
        armed = armed or frame.f_code.co_name == within
        if armed and event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace if armed else None

    return trace
