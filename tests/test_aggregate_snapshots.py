"""Snapshots of roots: taken, used, discarded; and that with or without them a root is the fold of its events."""

# ruff: noqa: N805 (handlers of events take no self)

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maestro_shm as ms
from maestro_shm.memory import MemoryStore


class Notes(ms.Aggregate):
    """Keeps what it was told, in order; `folds` counts the events that were applied to any state."""

    initial_state: ClassVar[Any] = []
    folds = 0

    @ms.on_command("tell")
    def tell(self, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("told", item) for item in command.data]

    @ms.on_event("told")
    def told(state: Any, event: ms.Event) -> Any:
        Notes.folds += 1
        state.append(event.body)
        return state


class Automatic(Notes):
    snapshot_every: ClassVar[int | None] = 3


class Changed(Notes):
    """The same events, but a state of another form."""

    state_version = 2

    @ms.on_event("told")
    def told(state: Any, event: ms.Event) -> Any:
        return [*state, {"item": event.body}]


class Sum(ms.Aggregate):
    """Its state is no value that a body can hold."""

    initial_state: ClassVar[Any] = 0j

    @ms.on_command("add")
    def add(self, command: ms.Command) -> list[ms.NewEvent]:
        return [ms.NewEvent("added", command.data)]

    @ms.on_event("added")
    def added(state: complex, event: ms.Event) -> complex:
        return state + complex(*event.body)


class StorableSum(Sum):
    def prepare_snapshot(self, state: complex) -> list[float]:
        return [state.real, state.imag]

    def use_snapshot(self, body: list[float]) -> complex:
        return complex(*body)


class NoSnapshotStore(MemoryStore):
    def commit_snapshot(self, snapshot: ms.Snapshot) -> bool:
        raise ms.StoreUnavailableError(snapshot.aggregate_id, "no snapshots today")


@pytest.fixture
def store() -> Iterator[ms.Store]:
    with ms.connect("memory:") as store:
        yield store


def tell(root: ms.Aggregate, *items: Any) -> None:
    root.evaluate(ms.Command("tell", items))


def folds(root: ms.Aggregate) -> int:
    """How many events are applied while the root loads."""
    before = Notes.folds
    root.get()
    return Notes.folds - before


def snapshot_sequence(store: ms.Store, aggregate_id: str = "n") -> int | None:
    snapshot = store.get_snapshot(aggregate_id)
    return snapshot.sequence if snapshot else None


def test_a_snapshot_holds_the_state_with_its_version_and_sequence(store: ms.Store) -> None:
    root = Notes(store, "n")
    tell(root, "a", "b")
    assert root.snapshot() is True
    assert store.get_snapshot("n") == ms.Snapshot("n", 2, {"state_version": 1, "state": ["a", "b"]})


def test_a_snapshot_is_of_the_newest_state(store: ms.Store) -> None:
    root = Notes(store, "n")
    root.get()
    tell(Notes(store, "n"), "a", "b")
    assert root.snapshot() is True
    assert (root.get(), snapshot_sequence(store)) == (["a", "b"], 2)


def test_without_events_there_is_nothing_to_snapshot(store: ms.Store) -> None:
    assert Notes(store, "n").snapshot() is False
    assert store.get_snapshot("n") is None


def test_a_lone_raw_event_with_sequence_0_can_be_snapshot_and_is_not_applied_twice(store: ms.Store) -> None:
    store.commit_events([ms.Event("n", 0, "told", "a")])
    assert Notes(store, "n").snapshot() is True
    root = Notes(store, "n")
    assert (root.get(), root.fetch(), root.sequence) == (["a"], ["a"], 0)
    tell(root, "b")
    assert (root.get(), root.sequence) == (["a", "b"], 1)


def test_a_second_snapshot_of_the_same_state_is_not_stored(store: ms.Store) -> None:
    root = Notes(store, "n")
    tell(root, "a")
    assert [root.snapshot(), root.snapshot(), Notes(store, "n").snapshot()] == [True, False, False]


def test_a_root_loads_from_the_snapshot_and_the_events_after_it(store: ms.Store) -> None:
    first = Notes(store, "n")
    tell(first, "a", "b")
    first.snapshot()
    tell(first, "c")
    root = Notes(store, "n")
    assert folds(root) == 1
    assert (root.get(), root.sequence) == (["a", "b", "c"], 3)
    tell(root, "d")
    assert (root.get(), root.sequence) == (["a", "b", "c", "d"], 4)


def test_replay_uses_the_snapshot_only_if_it_is_not_newer(store: ms.Store) -> None:
    root = Notes(store, "n")
    tell(root, *"abcde")
    raw = {"state_version": 1, "state": ["from", "the", "snapshot"]}
    store.commit_snapshot(ms.Snapshot("n", 3, raw))
    assert root.replay(2) == ["a", "b"]
    assert root.replay(3) == ["from", "the", "snapshot"]
    assert root.replay(4) == ["from", "the", "snapshot", "d"]


def test_a_snapshot_of_another_state_version_is_discarded(store: ms.Store) -> None:
    old = Notes(store, "n")
    tell(old, "a", "b")
    old.snapshot()
    changed = Changed(store, "n")
    assert changed.get() == changed.replay(2) == [{"item": "a"}, {"item": "b"}]
    tell(changed, "c")
    assert changed.snapshot() is True
    assert store.get_snapshot("n") == ms.Snapshot("n", 3, {"state_version": 2, "state": changed.get()})
    assert Notes(store, "n").get() == ["a", "b", "c"]


def test_an_outdated_snapshot_is_replaced_as_soon_as_one_is_due(store: ms.Store) -> None:
    tell(Notes(store, "n"), *"abcd")
    Notes(store, "n").snapshot()
    renewed = type("Renewed", (Automatic,), {"state_version": 2})(store, "n")
    tell(renewed, "e")
    assert store.get_snapshot("n") == ms.Snapshot("n", 5, {"state_version": 2, "state": list("abcde")})


@pytest.mark.parametrize(
    "body",
    [None, 7, [], "state", {}, {"state": ["x"]}, {"state_version": 1}, {"state_version": None, "state": ["x"]}],
)
def test_a_snapshot_body_of_another_form_is_discarded(store: ms.Store, body: Any) -> None:
    tell(Notes(store, "n"), "a", "b")
    store.commit_snapshot(ms.Snapshot("n", 2, body))
    root = Notes(store, "n")
    assert (root.get(), root.replay(2), root.sequence) == (["a", "b"], ["a", "b"], 2)


def test_the_hooks_translate_between_state_and_body(store: ms.Store) -> None:
    root = StorableSum(store, "s")
    root.evaluate(ms.Command("add", [1.0, 2.0]))
    root.snapshot()
    assert store.get_snapshot("s") == ms.Snapshot("s", 1, {"state_version": 1, "state": [1.0, 2.0]})
    root.evaluate(ms.Command("add", [0.5, 0.5]))
    assert StorableSum(store, "s").get() == StorableSum(store, "s").replay(2) == 1.5 + 2.5j


def test_an_explicit_snapshot_of_a_state_that_cannot_be_stored_raises(store: ms.Store) -> None:
    root = Sum(store, "s")
    root.evaluate(ms.Command("add", [1.0, 2.0]))
    with pytest.raises(ms.InvalidEventError, match="cannot store"):
        root.snapshot()
    assert root.get() == 1 + 2j


def test_an_explicit_snapshot_that_the_store_fails_to_take_raises() -> None:
    root = Notes(NoSnapshotStore(), "n")
    tell(root, "a")
    with pytest.raises(ms.StoreUnavailableError):
        root.snapshot()


def test_no_snapshot_is_taken_by_itself_by_default(store: ms.Store) -> None:
    tell(Notes(store, "n"), *range(500))
    assert store.get_snapshot("n") is None


def test_a_snapshot_is_taken_when_enough_events_lie_behind_the_last_one(store: ms.Store) -> None:
    root = Automatic(store, "n")
    taken = []
    for items in ("a", "b", "c", "d", "ef", "g", "hijklm", "n", "op"):
        tell(root, *items)
        taken.append(snapshot_sequence(store))
    assert taken == [None, None, 3, 3, 6, 6, 13, 13, 16]
    assert folds(Automatic(store, "n")) == 0


def test_a_root_counts_from_the_snapshot_that_it_was_loaded_from(store: ms.Store) -> None:
    tell(Automatic(store, "n"), *"abc")
    root = Automatic(store, "n")
    tell(root, "d")
    tell(root, "e")
    assert snapshot_sequence(store) == 3
    tell(root, "f")
    assert snapshot_sequence(store) == 6


def test_a_snapshot_that_another_root_took_first_is_counted_as_taken(store: ms.Store) -> None:
    root = Automatic(store, "n")
    tell(root, *"ab")
    store.commit_snapshot(ms.Snapshot("n", 4, {"state_version": 1, "state": list("abcd")}))
    tell(root, "c")
    tell(root, "d")
    tell(root, "e")
    assert snapshot_sequence(store) == 4
    tell(root, "f")
    assert snapshot_sequence(store) == 6


def test_a_command_without_events_takes_no_snapshot(store: ms.Store) -> None:
    tell(Notes(store, "n"), *"abcd")
    tell(Automatic(store, "n"))
    assert store.get_snapshot("n") is None


@pytest.mark.parametrize("fault", ["unstorable", "store"])
def test_an_automatic_snapshot_that_fails_gives_a_warning_and_no_error(store: ms.Store, fault: str) -> None:
    kind = type("AutomaticSum", (Sum if fault == "unstorable" else StorableSum,), {"snapshot_every": 1})
    root = kind(store if fault == "unstorable" else NoSnapshotStore(), "s")
    says = "cannot store" if fault == "unstorable" else "no snapshots today"
    with pytest.warns(RuntimeWarning, match=f"no snapshot of <AutomaticSum 's' at sequence 1>.*{says}") as caught:
        (event,) = root.evaluate(ms.Command("add", [1.0, 2.0]))
    assert [warning.filename for warning in caught] == [__file__]
    assert (event.sequence, root.get(), root.store.last_sequence("s")) == (1, 1 + 2j, 1)


def test_a_failed_automatic_snapshot_is_tried_again_after_the_next_commit(store: ms.Store) -> None:
    class Moody(Automatic):
        mood = "bad"

        def prepare_snapshot(self, state: Any) -> Any:
            return state if self.mood == "good" else object()

    root = Moody(store, "n")
    with warnings.catch_warnings(record=True, action="always") as caught:
        tell(root, *"abc")
        tell(root, "d")
    assert len(caught) == 2
    root.mood = "good"
    tell(root, "e")
    assert snapshot_sequence(store) == 5


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.one_of(st.lists(st.integers(), max_size=3).map(tuple), st.sampled_from(["get", "snapshot", "anew"])),
    ),
    max_size=25,
)


def take(roots: list[Notes], index: int, step: str | tuple[int, ...]) -> None:
    if step == "anew":
        roots[index] = type(roots[index])(roots[index].store, roots[index].id)
    elif isinstance(step, str):
        getattr(roots[index], step)()
    else:
        tell(roots[index], *step)


@settings(deadline=None)
@given(steps=STEPS, kinds=st.tuples(*[st.sampled_from([Notes, Automatic])] * 3))
def test_several_roots_with_and_without_snapshots_are_the_fold_of_what_they_were_told(
    steps: list[tuple[int, str | tuple[int, ...]]], kinds: tuple[type[Notes], ...]
) -> None:
    with ms.connect("memory:") as store:
        roots = [kind(store, "n") for kind in kinds]
        for index, step in steps:
            take(roots, index, step)
        told = [item for _, step in steps if not isinstance(step, str) for item in step]
        for root in [*roots, Notes(store, "n")]:
            assert (root.fetch(), root.sequence, root.conflicts) == (told, len(told), 0)
            assert [root.replay(n) for n in range(len(told) + 2)] == [told[:n] for n in range(len(told) + 2)]
