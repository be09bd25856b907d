"""Faults put into a history that was right: each is certain to be one, and says by which rule it has to be found.

A fault changes as little as it can. A stale read, say, is a read that was really made, with the answer that it would
have got before; it is a fault for its time and for nothing else. Certain it is by the calls of others: one that had
been answered before it began had replaced what it tells of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from campaign.histories.history_scene import Scene
from campaign.histories.linearizability import Rule
from campaign.histories.operations import Kind, Operation, Outcome
from campaign.histories.stored import Commit, Row, Stream
from maestro_shm.shared.frame import EVENT

_NO_CLIENT: Final = 1 << 40
"""Identities from here on are of operations that were made up."""


def answer_with(read: Operation, stream: Stream, place: int) -> Operation:
    """The same read with another version as its answer, right in all but its time."""
    version = stream.sequences[place]
    first = place if read.kind == Kind.SNAPSHOT else max(0, place - 2)
    content = 0 if read.kind == Kind.LAST_SEQUENCE else stream.digest(first, place)
    least = stream.sequences[first] if read.kind == Kind.EVENTS else 0
    return read._replace(version=version, argument=least, digest=content)


def stale_read(scene: Scene) -> bool:
    """A read gives what had been replaced before it began."""
    for _, read, stream, newest in scene.reads():
        for place in range(newest - 1, max(-1, newest - 6), -1):
            replacing = scene.maker_of(stream, place + 1)
            if replacing is not None and replacing.end < read.start:
                scene.put(answer_with(read, stream, place))
                return True
    return False


def read_of_the_future(scene: Scene) -> bool:
    """A read gives what nobody had begun to store when it ended."""
    for _, read, stream, newest in scene.reads():
        for place in range(newest + 1, newest + 6):
            maker = scene.maker_of(stream, place)
            if maker is not None and read.end < maker.start:
                scene.put(answer_with(read, stream, place))
                return True
    return False


def swapped_results(scene: Scene) -> bool:
    """Of two reads, one after the other, each gives the other's answer."""
    known: dict[tuple[int, int], Operation] = {}
    for _, read, _, _ in scene.reads():
        other = known.setdefault((read.kind, read.aggregate), read)
        before, after = sorted((read, other), key=lambda operation: operation.start)
        if before.end < after.start and before.version < after.version:
            for one, two in ((before, after), (after, before)):
                scene.put(one._replace(argument=two.argument, version=two.version, digest=two.digest))
            return True
    return False


def altered_content(scene: Scene) -> bool:
    """A read gives the right version with a wrong content."""
    for _, read, _, _ in scene.reads():
        if read.kind != Kind.LAST_SEQUENCE:
            scene.put(read._replace(digest=read.digest ^ 1 << scene.random.randrange(32)))
            return True
    return False


def lost_commit(scene: Scene) -> bool:
    """An acknowledged commit is not there; positions behind it are as if it had never been."""
    for place, commit, _ in scene.acknowledged_commits():
        del scene.commits[place]
        for behind in range(place, len(scene.commits)):
            later = scene.commits[behind]
            if later.record_kind == EVENT:
                scene.commits[behind] = later._replace(position=later.position - commit.events)
        return True
    return False


def doubled_commit(scene: Scene) -> bool:
    """A commit is there once more, further on, with sequences and positions that are right there."""
    for _, commit, _ in scene.acknowledged_commits():
        newest = {row.aggregate: scene.streams.get(EVENT, row.aggregate).sequences[-1] for row in commit.rows}
        rows = []
        for row in commit.rows:
            newest[row.aggregate] += 1
            rows.append(row._replace(sequence=newest[row.aggregate]))
        last = max((c for c in scene.commits if c.record_kind == EVENT), key=lambda c: c.position)
        epoch = scene.commits[-1].epoch
        scene.commits.append(commit._replace(position=last.position + last.events, epoch=epoch, rows=tuple(rows)))
        return True
    return False


def conflict_though_stored(scene: Scene) -> bool:
    """A commit is there, and its client was told of a conflict."""
    for _, commit, operation in scene.acknowledged_commits():
        row = scene.random.choice(commit.rows)
        told = operation._replace(
            outcome=Outcome.CONFLICT,
            aggregate=row.aggregate,
            argument=row.sequence,
            version=row.sequence,
            position=0,
            digest=0,
        )
        scene.put(told)
        return True
    return False


def conflict_without_cause(scene: Scene) -> bool:
    """A conflict tells of a sequence that is below the one that was to be stored."""
    for _, conflict in scene.rows(Kind.COMMIT, outcome=Outcome.CONFLICT):
        scene.put(conflict._replace(argument=conflict.version + 1))
        return True
    return False


def conflict_with_the_future(scene: Scene) -> bool:
    """A conflict tells of an event that nobody had begun to store when it was answered."""
    for _, conflict in scene.rows(Kind.COMMIT, outcome=Outcome.CONFLICT):
        stream = scene.streams.get(EVENT, conflict.aggregate)
        newest = stream.place(conflict.version)
        for place in range(newest + 1, newest + 6) if newest is not None else ():
            maker = scene.maker_of(stream, place)
            if maker is not None and conflict.end < maker.start:
                version = stream.sequences[place]
                scene.put(conflict._replace(argument=version, version=version))
                return True
    return False


def half_seen_commit(scene: Scene) -> bool:
    """While a commit over two aggregates was under way a client read one as after it, and then the other as before."""
    for place, commit, operation in scene.acknowledged_commits():
        point = 2 * (scene.first + place)
        aggregates = sorted({row.aggregate for row in commit.rows})
        if len(aggregates) < 2 or operation.end - operation.start < 4:
            continue
        after, before = scene.random.sample(aggregates, k=2)
        seen = _last_at(scene.streams.get(EVENT, after), point)
        missed = _last_at(scene.streams.get(EVENT, before), point - 1)
        moment = scene.random.randrange(operation.start, operation.end - 2)
        _add_read(scene, after, seen, moment, moment + 1)
        _add_read(scene, before, missed, moment + 2, moment + 3)
        return True
    return False


def _last_at(stream: Stream, point: int) -> int:
    """The newest version at a point, or 0."""
    return max((s for s, p in zip(stream.sequences, stream.points, strict=True) if p <= point), default=0)


def _add_read(scene: Scene, aggregate: int, version: int, start: int, end: int) -> None:
    identity = _NO_CLIENT + len(scene.operations)
    scene.operations.append(
        Operation(identity, Kind.LAST_SEQUENCE, Outcome.DONE, aggregate, start, end, 0, version, 0, 0)
    )


def positions_against_time(scene: Scene) -> bool:
    """Of two commits, one acknowledged before the other began, the later one has the lower positions."""
    for place, commit, operation in scene.acknowledged_commits():
        for further in range(place + 1, min(place + 8, len(scene.commits))):
            other = scene.commits[further]
            answered = scene.acknowledged(other)
            if answered is None or not _can_change_places(scene.commits[place : further + 1]):
                continue
            if operation.end < answered.start:
                _put_at(scene, place, other, answered, commit)
                _put_at(scene, further, commit, operation, other)
                return True
    return False


def _can_change_places(part: list[Commit]) -> bool:
    """Whether nothing else is wrong after the first and the last have: no other is of the same aggregates."""
    first, last = part[0], part[-1]
    aggregates = [{row.aggregate for row in commit.rows} for commit in part]
    ends = aggregates[0] | aggregates[-1]
    apart = aggregates[0].isdisjoint(aggregates[-1]) and all(ends.isdisjoint(others) for others in aggregates[1:-1])
    return apart and first.events == last.events > 0 and first.epoch == last.epoch


def _put_at(scene: Scene, place: int, commit: Commit, operation: Operation, former: Commit) -> None:
    """Give a commit, and its answer, the place, the position and the timestamps of another."""
    rows = tuple(
        Row(row.aggregate, row.sequence, old.timestamp) for row, old in zip(commit.rows, former.rows, strict=True)
    )
    moved = commit._replace(position=former.position, rows=rows)
    scene.commits[place] = moved
    scene.put(operation._replace(position=moved.position, digest=moved.digest()))


Fault = Callable[[Scene], bool]
"""Puts it in; says if there was an opportunity."""

FAULTS: Final[dict[Fault, Rule]] = {
    stale_read: Rule.TIME,
    read_of_the_future: Rule.TIME,
    swapped_results: Rule.TIME,
    altered_content: Rule.UNKNOWN,
    lost_commit: Rule.LOST,
    doubled_commit: Rule.TWICE,
    conflict_though_stored: Rule.UNASKED,
    conflict_without_cause: Rule.BASELESS,
    conflict_with_the_future: Rule.TIME,
    half_seen_commit: Rule.TIME,
    positions_against_time: Rule.TIME,
}
"""Each with the rule that it breaks."""
