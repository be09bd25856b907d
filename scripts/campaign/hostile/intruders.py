"""Those who must not get in try to, in each way that is known; and once more where the door was opened for them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from campaign.check import Finding, Run, SkippedError
from campaign.hostile import at_the_directory, at_the_socket
from campaign.hostile.attempt import Attempt, Door, shut


def intruders(_: Run) -> Iterator[Finding]:
    attempts = (*at_the_socket.ATTEMPTS, *at_the_directory.ATTEMPTS)
    yield _finding(attempts)
    yield _finding(at_the_directory.FILES, "squatted ")
    if left_out := sum(attempt.needs_root for attempt in attempts if not _is_possible(attempt)):
        raise SkippedError(f"{left_out} attempts of another user: only root can be one")


def _finding(attempts: Sequence[Attempt], kind: str = "") -> Finding:
    possible = [attempt for attempt in attempts if _is_possible(attempt)]
    ways = list(dict.fromkeys(attempt.way for attempt in possible))
    got_in = [attempt for attempt in possible if _try(attempt, shut)]
    opened = [attempt for attempt in possible if attempt.door is not None]
    kept_out = [attempt for attempt in opened if attempt.door is not None and not _try(attempt, attempt.door)]
    for attempt in got_in:
        print(f"  got in: {attempt.way}, {attempt.name}")
    for attempt in kept_out:
        print(f"  not caught: {attempt.way}, {attempt.name}")
    return Finding(
        figure=f"{kind}{', '.join(ways)}: {len(possible)} attempts",
        goal=f"0 of {len(ways)} get in",
        found=f"{len({attempt.way for attempt in got_in})} of {len(ways)} get in",
        met=not got_in,
        planted=f"{len(opened) - len(kept_out)} of {len(opened)}",
        caught_all=not kept_out,
    )


def _is_possible(attempt: Attempt) -> bool:
    return os.geteuid() == 0 or not attempt.needs_root


def _try(attempt: Attempt, door: Door) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        return attempt.gets_in(Path(scratch), door)
