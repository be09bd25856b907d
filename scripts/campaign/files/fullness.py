"""No room, and disks that fail: at each call that writes or allocates, and on a small file system that is really full.

Whatever happens: no process dies of it (SIGBUS), what was acknowledged is there, what was refused is not, reads go on,
and commits work again once there is room.
"""

from __future__ import annotations

import errno
import itertools
import random
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Final

from campaign.check import Finding, Run, SkippedError
from campaign.files import fullness_plants, small_disk
from campaign.files.children import in_child, on_all_cores
from campaign.files.copies import MEMORY
from campaign.files.failing_calls import FailingCalls, Group
from campaign.files.failing_scenario import Scenario, small_segments
from campaign.files.full_journal import FullJournal
from campaign.files.full_server import FullServer
from campaign.files.fullness_plants import CALL_PLANTS, JOURNAL_PLANTS, Plant
from campaign.files.tally import DIED, WRONG, Tally, total
from campaign.planting import servers_begin_with

_SECONDS: Final = 3_600.0
_ERRORS: Final = (errno.ENOSPC, errno.EIO)
_AT_ONCE: Final = 10
"""Rounds on one small file system, before the next is made: so many at most are lost with a child that dies."""

Rounds = Callable[[Path, random.Random, Tally, int], None]


def check(run: Run) -> Iterator[Finding]:
    """Failing calls one by one, then full file systems, which need the right to mount one."""
    yield _check_calls(run, "writing")
    yield _check_calls(run, "flushing")
    if reason := in_child(_why_no_small_disk, seconds=_SECONDS).result():
        raise SkippedError(reason)
    yield _check_journals(run)
    yield _check_servers(run)


# Calls that fail


def _check_calls(run: Run, group: Group) -> Finding:
    failures = list(_all_failures(group))
    limit = run.count(full=len(failures), quick=24)
    choices = run.random("fullness", group)
    chosen = failures if limit >= len(failures) else choices.sample(failures, limit)
    tally = total(on_all_cores(lambda number, shares: _live_all(chosen[number::shares]), seconds=_SECONDS))
    caught, planted = _plant_in_calls(run, group, choices.sample(failures, len(failures)))
    calls = max(failure.number for failure in failures)
    what = "writes, allocates or changes the directory" if group == "writing" else "flushes"
    return Finding(
        figure=(
            f"{len(chosen)} of {len(failures)} lives of a journal in which a call that {what} fails: each of up to "
            f"{calls}, by ENOSPC and EIO, once and from there on, on file systems with and without fallocate"
        ),
        goal="0 wrong, commits go on",
        found=f"{tally.wrong.total()} wrong; {tally.shown()}",
        met=not tally.wrong.total(),
        planted=f"{caught} of {planted}",
        caught_all=caught == planted > 0,
    )


def _all_failures(group: Group) -> Iterator[FailingCalls]:
    for can_allocate in (True, False):
        probe = FailingCalls(group, 0, 0, lasting=False, can_allocate=can_allocate)
        _live(probe)
        for number, error, lasting in itertools.product(range(1, probe.calls + 1), _ERRORS, (False, True)):
            yield FailingCalls(group, number, error, lasting, can_allocate)


def _live(failure: FailingCalls) -> str:
    memory = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="maestro-calls-", dir=memory) as path, small_segments():
        return Scenario(Path(path), failure).live()


def _live_all(failures: Sequence[FailingCalls]) -> Tally:
    tally = Tally()
    for failure in failures:
        _note_life(tally, failure)
    return tally


def _note_life(tally: Tally, failure: FailingCalls) -> None:
    try:
        tally.note(_live(failure))
    except Exception as error:  # noqa: BLE001 (whatever the store should not have raised)
        tally.note_wrong(WRONG, error, f"{failure}")


def _plant_in_calls(run: Run, group: Group, failures: Sequence[FailingCalls]) -> tuple[int, int]:
    """Lives of journals with a fault, until each fault has come to effect some times; and how many were caught."""
    wanted = run.count(full=30, quick=2)
    caught = planted = 0
    for kind in CALL_PLANTS[group]:
        struck = 0
        for failure in failures:
            plant, tally = kind(), Tally()
            with plant.planted():
                _note_life(tally, FailingCalls(**(asdict(failure) | {"calls": 0, "failed": 0})))
            struck += bool(plant.struck)
            caught += bool(plant.struck and tally.wrong)
            if struck == wanted:
                break
        planted += max(struck, 1)  # one that never comes to effect is not caught
    return caught, planted


# Full file systems


def _check_journals(run: Run) -> Finding:
    rounds = run.count(full=600, quick=8)
    tally = _all_rounds(run, "journals", rounds, _rounds_of_a_journal)
    caught, planted = _plant_in_journals(run)
    return _finding(
        f"{rounds} rounds of a journal on a tmpfs of 4 MiB that is filled up and given room again",
        tally,
        caught,
        planted,
    )


def _check_servers(run: Run) -> Finding:
    rounds = run.count(full=200, quick=2)
    tally = _all_rounds(run, "servers", rounds, _rounds_of_a_server)
    caught, planted = _plant_in_servers(run)
    return _finding(
        f"{rounds} rounds of a server with 3 clients on a tmpfs of 4 MiB that they fill up, give room on, and kill the "
        "server of",
        tally,
        caught,
        planted,
    )


def _finding(figure: str, tally: Tally, caught: int, planted: int) -> Finding:
    return Finding(
        figure=figure,
        goal="0 SIGBUS, 0 wrong, commits go on",
        found=f"{tally.wrong[DIED]} died, {tally.wrong[WRONG]} wrong; {tally.shown()}",
        met=not tally.wrong.total(),
        planted=f"{caught} of {planted}",
        caught_all=caught == planted > 0,
    )


def _all_rounds(run: Run, purpose: str, count: int, rounds: Rounds) -> Tally:
    """So many rounds, on all cores, on one small file system after the other."""
    batches = [range(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE)]

    def share(number: int, shares: int) -> Tally:
        mine = batches[number::shares]
        return total(_on_small_disk(rounds, len(batch), run.random("fullness", purpose, batch)) for batch in mine)

    return total(on_all_cores(share, seconds=_SECONDS))


def _on_small_disk(
    rounds: Rounds, count: int, choices: random.Random, plant: AbstractContextManager[object] | None = None
) -> Tally:
    """Some rounds in a child of their own, which has the small file system to itself."""
    with tempfile.TemporaryDirectory(prefix="maestro-full-") as path:
        ending = in_child(lambda: _mounted(rounds, Path(path), count, choices, plant), seconds=_SECONDS)
    tally = ending.results[0] if ending.results else Tally()
    if ending.signal:
        tally.note_wrong(DIED, signal.Signals(ending.signal).name, "a journal")
    elif not ending.results:
        tally.note_wrong(WRONG, ending.error[-300:], "a child")
    return tally


def _mounted(
    rounds: Rounds, path: Path, count: int, choices: random.Random, plant: AbstractContextManager[object] | None
) -> Tally:
    small_disk.mount(path)
    tally = Tally()
    try:
        with plant or nullcontext():
            rounds(path, choices, tally, count)
    except Exception as error:  # noqa: BLE001 (whatever the store should not have raised)
        tally.note_wrong(WRONG, error, "in a round")
    return tally


def _rounds_of_a_journal(path: Path, choices: random.Random, tally: Tally, count: int) -> None:
    with closing(FullJournal(path, choices, tally)) as journal:
        for _ in range(count):
            journal.round()


def _rounds_of_a_server(path: Path, choices: random.Random, tally: Tally, count: int) -> None:
    small_disk.adopt_orphans()
    FullServer(path, choices, tally).rounds(count)


def _why_no_small_disk() -> str:
    with tempfile.TemporaryDirectory(prefix="maestro-full-") as path:
        ending = in_child(lambda: _reason(Path(path)), seconds=_SECONDS)
    return ending.result()


def _reason(path: Path) -> str:
    try:
        small_disk.mount(path)
        small_disk.adopt_orphans()
    except SkippedError as error:
        return str(error)
    return ""


def _plant_in_journals(run: Run) -> tuple[int, int]:
    """Holes instead of space that was taken have to end in SIGBUS; the other faults in something wrong."""
    wanted = run.count(full=20, quick=1)
    caught = planted = 0
    for number in range(wanted):
        choices = run.random("fullness", "holes", number)
        caught += _on_small_disk(_rounds_of_a_journal, 3, choices, fullness_plants.holes()).wrong[DIED] > 0
        planted += 1
    for kind, number in itertools.product(JOURNAL_PLANTS, range(wanted)):
        tally = _until_struck(kind, run, number)
        planted += 1
        caught += bool(tally.verdicts[_STRUCK] and tally.wrong[WRONG])
    return caught, planted


def _until_struck(kind: type[Plant], run: Run, number: int) -> Tally:
    """Some rounds of a journal with a fault, and again until it has come to effect; it may be that it never does."""
    tally = Tally()
    for attempt in range(_MOST_ATTEMPTS):
        choices = run.random("fullness", kind.name, number, attempt)
        tally = _on_small_disk(_with_plant(kind), 6, choices)
        if tally.verdicts[_STRUCK]:
            break
    return tally


_MOST_ATTEMPTS: Final = 10
_STRUCK: Final = "planted faults"


def _with_plant(kind: type[Plant]) -> Rounds:
    def rounds(path: Path, choices: random.Random, tally: Tally, count: int) -> None:
        plant = kind()
        try:
            with plant.planted():
                _rounds_of_a_journal(path, choices, tally, count)
        finally:
            tally.note(_STRUCK, int(plant.struck > 0))

    return rounds


def _plant_in_servers(run: Run) -> tuple[int, int]:
    """Real servers that begin with a fault: holes have to end one by SIGBUS, false answers in something wrong."""
    wanted = run.count(full=10, quick=1)
    caught = planted = 0
    for (source, kind), number in itertools.product(fullness_plants.SERVER_PLANTS, range(wanted)):
        caught += _until_struck_in_a_server(source, run, number).wrong[kind] > 0
        planted += 1
    return caught, planted


def _until_struck_in_a_server(source: str, run: Run, number: int) -> Tally:
    """As `_until_struck`; what is wrong where the fault has not come to effect does not count."""
    with tempfile.TemporaryDirectory(prefix="maestro-struck-") as path:
        marker = Path(path) / "struck"
        for attempt in range(_MOST_ATTEMPTS):
            choices = run.random("fullness", source, number, attempt)
            plant = servers_begin_with(fullness_plants.telling(source, marker))
            tally = _on_small_disk(_rounds_of_a_server, 2, choices, plant)
            if marker.exists():
                return tally
    return Tally()
