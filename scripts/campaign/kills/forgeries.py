"""Histories with one thing wrong: what an audit has to catch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from campaign.kills.audit import Entry, Frame, History, Outcome, Sent, Stream, faults_of
from maestro_shm.shared.frame import EVENT, SNAPSHOT

_STRANGE: Final = b"never sent"
_LONGEST: Final = 2000
"""Commits in a history that is forged: each forgery is a copy."""


@dataclass
class _Copy:
    """A history that may be changed."""

    sent: list[Sent]
    frames: list[Frame]
    streams: dict[Stream, list[Entry]]
    choices: random.Random

    def a_frame(self, *, least: int = 1, kind: int = EVENT) -> int:
        """The number of some acknowledged commit with so many entries; whether an open one is there proves nothing."""
        known = {sent.entries[0].content for sent in self.sent if sent.outcome is Outcome.ACKNOWLEDGED}
        wanted = [
            number
            for number, frame in enumerate(self.frames)
            if len(frame) >= least and frame[0].kind == kind and frame[0].content in known
        ]
        return self.choices.choice(wanted)

    def change(self, number: int, part: int, **fields: object) -> None:
        frame = list(self.frames[number])
        frame[part] = frame[part]._replace(**fields)  # type: ignore[arg-type] # each caller names fields of its own
        self.frames[number] = tuple(frame)

    def renumber(self) -> None:
        """Close the gaps, as a store would that never had what is missing."""
        position = 0
        for number, frame in enumerate(self.frames):
            for part, entry in enumerate(frame):
                if entry.kind == EVENT:
                    position += 1
                    self.change(number, part, position=position)

    def see_again(self) -> None:
        """Let readers see what the log has by now."""
        self.streams = {stream: [] for stream in self.streams}
        for frame in self.frames:
            for entry in frame:
                seen = self.streams.setdefault(entry.stream, [])
                seen[:] = [*seen, entry] if entry.kind == EVENT else [entry]


def _lose(copy: _Copy) -> None:
    del copy.frames[copy.a_frame()]


def _lose_and_renumber(copy: _Copy) -> None:
    _lose(copy)
    copy.renumber()


def _lose_the_end(copy: _Copy) -> None:
    del copy.frames[copy.a_frame() :]


def _lose_a_snapshot(copy: _Copy) -> None:
    del copy.frames[copy.a_frame(kind=SNAPSHOT)]


def _double(copy: _Copy) -> None:
    number = copy.a_frame()
    copy.frames.insert(copy.choices.randint(number, len(copy.frames)), copy.frames[number])


def _double_behind(copy: _Copy) -> None:
    """As a commit that was sent again would be stored twice: with numbers and times that rise."""
    number, last = copy.a_frame(), copy.frames[-1][-1]
    again = [
        entry._replace(sequence=entry.sequence + 1_000_000, timestamp=last.timestamp + part)
        for part, entry in enumerate(copy.frames[number], 1)
    ]
    copy.frames.append(tuple(again))
    copy.renumber()


def _tear(copy: _Copy) -> None:
    number = copy.a_frame(least=2)
    keep = copy.choices.randrange(1, len(copy.frames[number]))
    frame = copy.frames[number]
    copy.frames[number] = copy.choices.choice((frame[:keep], frame[keep:]))
    copy.renumber()


def _split(copy: _Copy) -> None:
    number = copy.a_frame(least=2)
    frame = copy.frames[number]
    copy.frames[number : number + 1] = [frame[:1], frame[1:]]


def _merge(copy: _Copy) -> None:
    number = copy.choices.randrange(len(copy.frames) - 1)
    copy.frames[number : number + 2] = [copy.frames[number] + copy.frames[number + 1]]


def _swap_positions(copy: _Copy) -> None:
    one, other = copy.a_frame(), copy.a_frame()
    while one == other:
        other = copy.a_frame()
    first, second = copy.frames[one][0].position, copy.frames[other][0].position
    copy.change(one, 0, position=second)
    copy.change(other, 0, position=first)


def _swap_commits(copy: _Copy) -> None:
    number = copy.a_frame()
    copy.frames.insert(copy.choices.randrange(number), copy.frames.pop(number)) if number else copy.frames.reverse()
    copy.renumber()


def _leave_a_gap(copy: _Copy) -> None:
    for number in range(copy.a_frame(), len(copy.frames)):
        for part, entry in enumerate(copy.frames[number]):
            copy.change(number, part, position=entry.position + (entry.kind == EVENT))


def _make_up(copy: _Copy) -> None:
    number = copy.a_frame()
    copy.frames.insert(number, (copy.frames[number][0]._replace(content=_STRANGE, aggregate_id="nobody's"),))
    copy.renumber()


def _change_content(copy: _Copy) -> None:
    copy.change(copy.a_frame(), 0, content=_STRANGE)


def _change_sequence(copy: _Copy) -> None:
    number = copy.a_frame()
    copy.change(number, 0, sequence=copy.frames[number][0].sequence + 1)


def _change_time(copy: _Copy) -> None:
    number = copy.a_frame()
    copy.change(number, 0, timestamp=copy.frames[number][0].timestamp + copy.choices.choice((-1, 1)))


def _change_aggregate(copy: _Copy) -> None:
    copy.change(copy.a_frame(), 0, aggregate_id="another")


def _refuse_what_was_stored(copy: _Copy) -> None:
    stored = {frame[0].content for frame in copy.frames}
    number = copy.choices.choice([n for n, sent in enumerate(copy.sent) if sent.entries[0].content in stored])
    copy.sent[number] = copy.sent[number]._replace(outcome=Outcome.REFUSED)


def _acknowledge_what_was_refused(copy: _Copy) -> None:
    stored = {frame[0].content for frame in copy.frames}
    number = copy.choices.choice([n for n, sent in enumerate(copy.sent) if sent.entries[0].content not in stored])
    copy.sent[number] = copy.sent[number]._replace(outcome=Outcome.ACKNOWLEDGED)


def _hide_from_readers(copy: _Copy) -> None:
    stream = copy.choices.choice([stream for stream, seen in copy.streams.items() if seen])
    del copy.streams[stream][copy.choices.randrange(len(copy.streams[stream]))]


def _show_readers_twice(copy: _Copy) -> None:
    stream = copy.choices.choice([stream for stream, seen in copy.streams.items() if seen])
    copy.streams[stream].append(copy.streams[stream][-1])


_ON_LOGS: Final = (
    *(_lose, _lose_and_renumber, _lose_the_end, _lose_a_snapshot, _double, _double_behind, _tear, _split, _merge),
    *(_swap_positions, _swap_commits, _leave_a_gap, _make_up),
    *(_change_content, _change_sequence, _change_time, _change_aggregate),
    *(_refuse_what_was_stored, _acknowledge_what_was_refused),
)
_ON_READERS: Final = (_hide_from_readers, _show_readers_twice)


def caught(history: History, count: int, choices: random.Random) -> int:
    """How many of so many forgeries of a good history, one fault in each, are found out."""
    short = _beginning(history)
    return sum(bool(faults_of(_forge(short, number, choices))) for number in range(count))


def _beginning(history: History) -> History:
    later = {frame[0].content for frame in history.frames[_LONGEST:]}
    sent = [commit for commit in history.sent if commit.entries[0].content not in later]
    copy = _Copy(sent, list(history.frames[:_LONGEST]), {}, random.Random())
    copy.see_again()
    return History(sent, copy.frames, copy.streams)


def _forge(history: History, number: int, choices: random.Random) -> History:
    kinds: Sequence[Callable[[_Copy], None]] = _ON_LOGS + _ON_READERS
    forge = kinds[number % len(kinds)]
    streams = {stream: list(seen) for stream, seen in history.streams.items()}
    copy = _Copy(list(history.sent), list(history.frames), streams, choices)
    forge(copy)
    if forge in _ON_LOGS:
        copy.see_again()  # or every one of them would be caught by what readers see
    return History(copy.sent, copy.frames, copy.streams)
