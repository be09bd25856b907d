"""One state of a disk: built, and recovered by the store itself on the next boot of the machine."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from campaign.power.disk import History
from campaign.power.inspection import LossError, identify
from campaign.power.ledger import Commit, World
from campaign.power.script import check_answer, open_store, send
from campaign.power.small import Boot
from maestro_shm.records import Event
from maestro_shm.shared import header as head
from maestro_shm.shared.journal import Journal
from maestro_shm.shared.reader import Reader


class Seen(NamedTuple):
    """What readers had seen of the store when the power went: its incarnation, and the end of what was published."""

    incarnation: int
    published: int


def seen_at(history: History, now: int) -> Seen | None:
    """What they had seen; None where there was nothing, or an end."""
    names, pending = history.names.split(now)
    for change in pending:
        change.apply(names)
    if head.NAME not in names:
        return None
    sector = history.inodes[names[head.NAME]].sectors[0].between(now, now)[0]
    words = memoryview(sector).cast("Q")
    return Seen(words[head.INCARNATION], words[head.PUBLISHED]) if words[head.GENERATION] != head.RETIRED else None


class Recovery(NamedTuple):
    """What a recovery found: the commits that are there, and where their log ends."""

    commits: list[Commit]
    incarnation: int
    end: int


def try_recovery(
    directory: Path, worlds: Sequence[World], seen: Seen | None, choices: random.Random, durability: str
) -> Recovery:
    """Recover what lies there, and see that it is as it may be, and goes on. Raises `LossError`.

    Whatever the store raises goes through: a store that cannot be opened has lost all that was in it.
    """
    Boot.number += 1
    with contextlib.closing(open_store(directory, durability)) as journal:
        words = journal._words
        incarnation, end = words[head.INCARNATION], words[head.PUBLISHED]
        if seen is not None and incarnation == seen.incarnation and end < seen.published:
            raise LossError(f"readers had seen {seen.published} bytes, of which {end} are there")
        with contextlib.closing(Reader(directory)) as reader:
            world, count = identify(reader, journal, worlds)
            if choices.random() < 0.1:
                _send_again(journal, world, count)
            else:
                _commit_one_more(reader, journal, world, count)
    return Recovery(world.commits[:count], incarnation, end)


def _commit_one_more(reader: Reader, journal: Journal, world: World, count: int) -> None:
    """The store goes on: one event behind a known one, and one of a new aggregate."""
    before = world.contents(count)
    first = len(before.events) + 1
    events = [Event("further", 1, "type", 1, None, first)]
    if before.events:
        key = before.events[-1].aggregate_id
        events.append(Event(key, before.last_sequence(key) + 1, "type", None, None, first + 1))
    commit = Commit(b"further " * 2, events)
    answer = send(journal, commit)
    journal.settle()
    if answer is not None:
        commit.stamp(answer[1])
    check_answer(commit, answer)
    for event in commit.events:
        if reader.events(event.aggregate_id, event.sequence, event.sequence) != [event]:
            raise LossError(f"a commit after the recovery is not there: {event}")


def _send_again(journal: Journal, world: World, count: int) -> None:
    """Clients that were not answered send their commits again: what is there is not done twice, the others are done."""
    known = list(world.commits[max(count - 2, 0) : count])
    for commit in known:
        check_answer(commit, send(journal, commit, resent=True))
    position = len(world.contents(count).events) + 1
    for commit in world.commits[count : count + 2]:
        again = commit.moved_to(position)
        answer = send(journal, again, resent=True)
        if answer is not None:
            again.stamp(answer[1])
        check_answer(again, answer)
        position += len(commit.events)
    journal.settle()
