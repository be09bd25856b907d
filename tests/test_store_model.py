"""Random histories of every kind of store against a model of a few lines that shares no code with the package."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from store_contract import event, exactly

import maestro_shm as ms

AGGREGATES = ("a", "b", "a\0", "\N{SNOWMAN}")


class Draft(NamedTuple):
    """An event whose sequence number depends on what its aggregate has when it is committed."""

    aggregate_id: str
    step: int
    body: Any
    metadata: dict[str, Any] | None
    timestamp: int | None
    """As distance from the latest one."""


@dataclass
class Model:
    """What a store is: streams, snapshots, a counter, and the latest timestamp ever."""

    streams: dict[str, list[ms.Event]] = field(default_factory=dict)
    snapshots: dict[str, ms.Snapshot] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    position: int = 0
    latest: int = 0

    def left(self, aggregate_id: str) -> list[ms.Event]:
        """The events that were not truncated."""
        floor = self.floors.get(aggregate_id, 0)
        return [one for one in self.streams.get(aggregate_id, []) if one.sequence >= floor]

    def feed(self) -> list[ms.Event]:
        left = [one for aggregate_id in self.streams for one in self.left(aggregate_id)]
        return sorted(left, key=lambda one: one.position or 0)

    def last(self, aggregate_id: str) -> int | None:
        stream = self.streams.get(aggregate_id)
        return stream[-1].sequence if stream else None

    def realize(self, drafts: list[Draft]) -> list[ms.Event]:
        """The drafts as events, each some steps from what comes before it in the store or in the same commit."""
        reached = {key: stream[-1].sequence for key, stream in self.streams.items()}
        events = []
        for draft in drafts:
            sequence = max(0, reached.get(draft.aggregate_id, 0) + draft.step)
            reached[draft.aggregate_id] = sequence
            events.append(
                event(draft.aggregate_id, sequence, draft.body, metadata=draft.metadata, timestamp=self.near(draft))
            )
        return events

    def near(self, draft: Draft) -> int | None:
        return None if draft.timestamp is None else max(0, self.latest + draft.timestamp)

    def rises(self, events: list[ms.Event]) -> bool:
        """Whether the sequence numbers rise within the commit itself."""
        by_aggregate = [[e.sequence for e in events if e.aggregate_id == key] for key in AGGREGATES]
        return all(sorted(set(numbers)) == numbers for numbers in by_aggregate)

    def conflict(self, events: list[ms.Event]) -> tuple[str, int, int] | None:
        """The facts of the first event that comes too late."""
        for one in events:
            last = self.last(one.aggregate_id)
            if last is not None and one.sequence <= last:
                return one.aggregate_id, one.sequence, last
        return None

    def append(self, one: ms.Event) -> None:
        self.position += 1
        self.streams.setdefault(one.aggregate_id, []).append(one)
        self.latest = max(self.latest, one.timestamp or 0)

    def reset(self) -> None:
        self.streams.clear()
        self.snapshots.clear()
        self.floors.clear()
        self.position = 0


aggregate_ids = st.sampled_from(AGGREGATES)
bodies = st.sampled_from([None, True, 1, 1.0, "text", b"bytes", (1, [2]), {"k": {1, 2}}, -(2**80)])
sequence_numbers = st.integers(0, 12) | st.sampled_from([ms.MAX_SEQUENCE - 1, ms.MAX_SEQUENCE])
bounds = st.integers(-1, 12) | st.sampled_from([ms.MAX_SEQUENCE, 2**64, -(2**64)])
drafts = st.builds(
    Draft,
    aggregate_id=aggregate_ids,
    # Mostly what a careful writer does, so that histories get long.
    step=st.sampled_from([1, 1, 1, 1, 1, 1, 1, 2, 3, 0, -1]),
    body=bodies,
    metadata=st.none() | st.fixed_dictionaries({"by": bodies}),
    # A given one that is ahead moves the clock, by up to some minutes here.
    timestamp=st.none() | st.integers(-(2**40), 2**34),
)
spoilt_fields: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"aggregate_id": ""},
        {"aggregate_id": "\ud800"},
        {"sequence": -1},
        {"sequence": True},
        {"sequence": ms.MAX_SEQUENCE + 1},
        {"type": ""},
        {"body": [object()]},
        {"body": b"x" * (1 << 20)},
        {"timestamp": -1},
        {"metadata": []},
    ]
)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, store: ms.Store) -> None:
        super().__init__()
        store.reset()
        self.store = store
        self.model = Model()

    @rule(drafts=st.lists(drafts, max_size=6))
    def commit(self, drafts: list[Draft]) -> None:
        events = self.model.realize(drafts)
        if not self.model.rises(events):
            with pytest.raises(ms.InvalidEventError):
                self.store.commit_events(events)
        elif facts := self.model.conflict(events):
            with pytest.raises(ms.SequenceConflictError) as caught:
                self.store.commit_events(events)
            assert (caught.value.aggregate_id, caught.value.sequence, caught.value.last_sequence) == facts
        else:
            self.check_stored(events, self.store.commit_events(events))

    def check_stored(self, given: list[ms.Event], returned: list[ms.Event]) -> None:
        assert len(returned) == len(given)
        for wanted, got in zip(given, returned, strict=True):
            assert got.timestamp is not None
            if wanted.timestamp is None:
                assert got.timestamp > self.model.latest
            expected = replace(
                wanted,
                timestamp=got.timestamp if wanted.timestamp is None else wanted.timestamp,
                position=self.model.position + 1,
            )
            assert exactly(got) == exactly(expected)
            self.model.append(expected)

    @rule(drafts=st.lists(drafts, max_size=4), spoilt=spoilt_fields, data=st.data())
    def commit_something_invalid(self, drafts: list[Draft], spoilt: dict[str, Any], data: st.DataObject) -> None:
        events = self.model.realize(drafts)
        last = self.model.last("a")
        bad = replace(event("a", 1 if last is None else last + 1), **spoilt)
        events.insert(data.draw(st.integers(0, len(events)), label="place"), bad)
        with pytest.raises(ms.InvalidEventError):
            self.store.commit_events(events)

    @rule(aggregate_id=aggregate_ids, sequence=sequence_numbers, body=bodies)
    def snapshot(self, aggregate_id: str, sequence: int, body: Any) -> None:
        stored = self.model.snapshots.get(aggregate_id)
        newer = stored is None or sequence > stored.sequence
        snapshot = ms.Snapshot(aggregate_id, sequence, body)
        assert self.store.commit_snapshot(snapshot) is newer
        if newer:
            self.model.snapshots[aggregate_id] = snapshot

    @rule(aggregate_id=aggregate_ids, spoilt=st.sampled_from([{"sequence": -1}, {"body": object()}]))
    def snapshot_something_invalid(self, aggregate_id: str, spoilt: dict[str, Any]) -> None:
        with pytest.raises(ms.InvalidEventError):
            self.store.commit_snapshot(replace(ms.Snapshot(aggregate_id, 20, None), **spoilt))

    @rule(aggregate_id=aggregate_ids, before=sequence_numbers)
    def truncate(self, aggregate_id: str, before: int) -> None:
        self.check_truncation(aggregate_id, before)

    @rule(aggregate_id=aggregate_ids, before=sequence_numbers)
    def truncate_what_is_covered(self, aggregate_id: str, before: int) -> None:
        last, snapshot = self.model.last(aggregate_id), self.model.snapshots.get(aggregate_id)
        if last is not None and (snapshot is None or snapshot.sequence < last):
            self.snapshot(aggregate_id, last, None)
        self.check_truncation(aggregate_id, before)

    def check_truncation(self, aggregate_id: str, before: int) -> None:
        snapshot = self.model.snapshots.get(aggregate_id)
        going = [one.sequence for one in self.model.left(aggregate_id) if one.sequence < before]
        covered = None if snapshot is None else snapshot.sequence
        if going and (covered is None or covered < going[-1]):
            with pytest.raises(ms.TruncationError) as caught:
                self.store.truncate(aggregate_id, before=before)
            error = caught.value
            assert (error.aggregate_id, error.sequence, error.snapshot_sequence) == (aggregate_id, going[-1], covered)
            return
        self.store.truncate(aggregate_id, before=before)
        if going:
            self.model.floors[aggregate_id] = going[-1] + 1

    @rule(aggregate_id=aggregate_ids, low=bounds, high=bounds)
    def read_between(self, aggregate_id: str, low: int, high: int) -> None:
        self.check_between(aggregate_id, low, high)

    @precondition(lambda self: self.model.streams)
    @rule(data=st.data())
    def read_between_what_is_stored(self, data: st.DataObject) -> None:
        aggregate_id = data.draw(st.sampled_from(sorted(self.model.streams)), label="aggregate")
        stored = st.sampled_from([e.sequence for e in self.model.streams[aggregate_id]])
        self.check_between(aggregate_id, data.draw(stored, label="low"), data.draw(stored, label="high"))

    def check_between(self, aggregate_id: str, low: int, high: int) -> None:
        found = self.store.get_events(aggregate_id, low, max_sequence=high)
        assert exactly(found) == exactly([e for e in self.model.left(aggregate_id) if low <= e.sequence <= high])
        last, floor = self.model.last(aggregate_id), self.model.floors.get(aggregate_id, 0)
        if last is not None and low <= min(last, high) and max(0, low) < floor:
            with pytest.raises(ms.TruncatedError):
                self.store.get_events(aggregate_id, low, max_sequence=high, complete=True)
        else:
            complete = self.store.get_events(aggregate_id, low, max_sequence=high, complete=True)
            assert exactly(complete) == exactly(found)
        snapshot = self.model.snapshots.get(aggregate_id)
        if snapshot is not None and not low <= snapshot.sequence <= high:
            snapshot = None
        assert exactly(self.store.get_snapshot(aggregate_id, low, max_sequence=high)) == exactly(snapshot)

    @precondition(lambda self: self.model.position > 8)
    @rule()
    def reset(self) -> None:
        self.store.reset()
        self.model.reset()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        for key in AGGREGATES:
            assert exactly(self.store.get_events(key)) == exactly(self.model.left(key))
            assert self.store.first_sequence(key) == self.model.floors.get(key, 0)
            assert exactly(self.store.get_snapshot(key)) == exactly(self.model.snapshots.get(key))
            assert self.store.last_sequence(key) == self.model.last(key)
        feed = self.model.feed()
        assert exactly(list(self.store.read())) == exactly(feed)
        stats = self.store.stats()
        assert (stats["events"], stats["last_position"]) == (len(feed), self.model.position)
        assert stats["aggregates"] == len(self.model.streams)


def test_every_history_of_a_store_is_that_of_the_model(store: ms.Store) -> None:
    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(store)

    run_state_machine_as_test(Machine, settings=settings(max_examples=30, stateful_step_count=30, deadline=None))
