"""Commits whose outcome is open: the call ended, and its reply never came into the caller's hands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from maestro_shm.errors import ConflictError, InvalidEntryError, InvalidEventError, StoreFullError, TruncationError

MAX_CALLS: Final = 1024
MAX_BYTES: Final = 1 << 26
"""Of the calls that are remembered; the newest is, however large."""

REFUSALS: Final = (ConflictError, InvalidEventError, InvalidEntryError, TruncationError)
"""What a call ends with whose commit is not stored, whatever was sent before."""

_Made = TypeVar("_Made")
Call = tuple[Any, ...]
"""Method and content of a commit as they are sent, of str, int, None, bytes and tuples: equal is the very same."""


class OpenCalls(dict[Call, bytes]):
    """From a call to the commit id that it was sent with, the oldest first. Threads may share it.

    Who makes such a call again takes its id out, so that no two callers are ever told of one commit that it is theirs;
    and puts it in again if that ends without an outcome, too. (Of two threads that make the very same call at once, and
    both without an outcome, the later one's id is kept; the other's commit may then look like a rival's.) It is a dict,
    not something that has one, because to set or delete an item of a dict is one step of the interpreter: no thread and
    no signal's handler comes between.
    """

    def forget_oldest(self) -> None:
        """Keep within the bounds."""
        calls = list(self)
        excess = max(0, len(calls) - MAX_CALLS)
        left = sum(map(_size, calls[excess:]))
        while left > MAX_BYTES and excess < len(calls) - 1:
            left -= _size(calls[excess])
            excess += 1
        for call in calls[:excess]:
            self.pop(call, None)  # another thread may have taken or forgotten it


def carry_out(open_calls: OpenCalls, call: Call, commit_id: bytes, send: Callable[[bytes, bool], _Made]) -> _Made:
    """What `send` makes of a call that is carried out once, however often it is made.

    It is given the id that the call is sent with, this one unless the very same call is open, and whether it is so.
    Nothing is called between the last line of the try and the caller's own, here and in the handle: the interpreter
    runs the handlers of signals at calls only, so each interruption comes by here or is the caller's.
    """
    is_open = False
    try:
        if open_calls and call in open_calls:
            commit_id, is_open = open_calls[call], True
            del open_calls[call]
        return send(commit_id, is_open)
    except REFUSALS:
        raise
    except StoreFullError:
        if is_open:
            open_calls[call] = commit_id
        raise
    except BaseException:
        open_calls[call] = commit_id
        open_calls.forget_oldest()
        raise


def _size(value: Any) -> int:
    if isinstance(value, tuple):
        return sum(map(_size, value))
    return len(value) if isinstance(value, (str, bytes)) else 0
