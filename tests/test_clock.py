from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_contract import in_threads

import maestro_shm as ms
from maestro_shm import clock
from maestro_shm.clock import MAX_TIMESTAMP, UNITS_PER_MILLISECOND, HybridClock, as_datetime

NOON = int(datetime(2024, 5, 6, 12, tzinfo=UTC).timestamp()) * 1_000_000_000


class Hands:
    """The machine's clock, to be set by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hands]:
    hands = Hands()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", hands)
        yield hands


def test_a_tick_follows_the_machines_clock(hands: Hands) -> None:
    hybrid = HybridClock()
    assert hybrid.tick() == NOON // 1_000_000 * UNITS_PER_MILLISECOND
    hands.now += 2_500_000
    assert hybrid.tick() == NOON // 1_000_000 * UNITS_PER_MILLISECOND + UNITS_PER_MILLISECOND * 5 // 2


@pytest.mark.parametrize("step", [0, -1, -1_000_000, -NOON], ids=["stands", "back 1 ns", "back 1 ms", "back to 1970"])
def test_a_tick_rises_by_one_unit_where_the_machines_clock_does_not(hands: Hands, step: int) -> None:
    hybrid = HybridClock()
    first = hybrid.tick()
    hands.now += step
    assert [hybrid.tick() for _ in range(3)] == [first + 1, first + 2, first + 3]


def test_a_tick_follows_the_machines_clock_again_once_that_has_caught_up(hands: Hands) -> None:
    hybrid = HybridClock()
    hybrid.tick()
    hands.now -= 1_000_000
    hybrid.tick()
    hands.now += 3_000_000
    assert hybrid.tick() == hands.now // 1_000_000 * UNITS_PER_MILLISECOND


def test_a_clock_goes_on_above_the_timestamp_that_it_is_given_at_first(hands: Hands) -> None:
    last = HybridClock().tick() + 1000
    hands.now -= 1
    assert HybridClock(last).tick() == last + 1


@pytest.mark.usefixtures("hands")
def test_an_observed_timestamp_ahead_moves_the_clock() -> None:
    hybrid = HybridClock()
    ahead = hybrid.tick() + 1000
    hybrid.observe(ahead)
    assert hybrid.tick() == ahead + 1


@pytest.mark.usefixtures("hands")
def test_an_observed_timestamp_behind_leaves_the_clock_alone() -> None:
    hybrid = HybridClock()
    first = hybrid.tick()
    hybrid.observe(first - 1000)
    assert hybrid.tick() == first + 1


@given(st.lists(st.tuples(st.integers(0, 2 * NOON), st.none() | st.integers(0, MAX_TIMESTAMP))))
def test_ticks_rise_whatever_the_machines_clock_and_others_do(moves: list[tuple[int, int | None]]) -> None:
    hybrid, hands = HybridClock(), Hands()
    floor = -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", hands)
        for hands.now, observed in moves:
            if observed is not None:
                hybrid.observe(observed)
                floor = max(floor, observed)
            tick = hybrid.tick()
            assert tick > floor
            floor = tick


def test_ticks_above_the_largest_timestamp_fit_into_63_bits() -> None:
    hybrid = HybridClock()
    hybrid.observe(MAX_TIMESTAMP)
    assert MAX_TIMESTAMP < hybrid.tick() < 2**63


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        (UNITS_PER_MILLISECOND, "1970-01-01T00:00:00.001000+00:00"),
        (UNITS_PER_MILLISECOND * 3 // 2, "1970-01-01T00:00:00.001500+00:00"),
        (NOON // 1_000_000 * UNITS_PER_MILLISECOND, "2024-05-06T12:00:00+00:00"),
    ],
)
def test_a_timestamp_stands_for_a_moment_in_utc(timestamp: int, moment: str) -> None:
    assert as_datetime(timestamp).isoformat() == moment


def test_the_largest_timestamp_is_a_moment_in_the_year_4199() -> None:
    assert as_datetime(MAX_TIMESTAMP).year == 4199


def test_a_tick_stands_for_the_moment_of_the_machines_clock_to_the_microsecond(hands: Hands) -> None:
    hands.now += 123_456_789
    assert as_datetime(HybridClock().tick()).isoformat() == "2024-05-06T12:00:00.123456+00:00"


def test_a_new_id_is_a_uuid_of_version_7_in_the_usual_form() -> None:
    text = ms.new_id()
    number = UUID(text)
    assert str(number) == text
    assert number.version == 7
    assert number.variant == RFC_4122


def test_new_ids_are_unique_and_sort_by_the_order_of_their_making() -> None:
    ids = [ms.new_id() for _ in range(5000)]
    assert all(before < after for before, after in pairwise(ids))


def test_a_new_id_begins_with_the_milliseconds_of_its_making(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_id_clock", HybridClock())
    hands.now += 500_000
    number = UUID(ms.new_id()).int
    assert number >> 80 == NOON // 1_000_000
    assert number >> 64 & 0xFFF == 0x800


def test_new_ids_rise_when_the_machines_clock_goes_back(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_id_clock", HybridClock())
    ids = []
    for _ in range(100):
        ids.append(ms.new_id())
        hands.now -= 1_000_000
    assert all(before < after for before, after in pairwise(ids))


class _SlowClock(HybridClock):
    """Lets the other threads go on between its two steps, which Python by itself hardly ever does."""

    def tick(self) -> int:
        seen = self.last
        time.sleep(0)
        self.last = seen
        return super().tick()


@pytest.mark.usefixtures("hasty_threads")
def test_new_ids_of_racing_threads_are_unique_and_rise_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_id_clock", _SlowClock())

    def make() -> list[str]:
        return [ms.new_id() for _ in range(2000)]

    made = in_threads(make, make, make, make)
    for ids in made:
        assert all(before < after for before, after in pairwise(ids))
    # The 60 bits of time alone are unique in a process, whatever the random bits are.
    assert len({text[:18] for ids in made for text in ids}) == 8000


# In an interpreter of its own, since forking one that has threads is an error of its own.
FORK = """
import os, sys
from maestro_shm import clock, new_id

new_id()
reader, writer = os.pipe()
{before_fork}
pid = os.fork()
if pid == 0:
    os.write(writer, "\\n".join(new_id() for _ in range(100)).encode())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
{after_fork}
os.close(writer)
print(*os.read(reader, 1 << 16).decode().split(), *(new_id() for _ in range(100)), sep="\\n")
"""


def ids_around_a_fork(before_fork: str = "", after_fork: str = "") -> tuple[list[str], list[str]]:
    """The ids that a forked child and its parent make."""
    script = FORK.format(before_fork=before_fork, after_fork=after_fork)
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=30, capture_output=True, text=True)
    ids = done.stdout.split()
    return ids[:100], ids[100:]


def test_new_ids_of_a_forked_child_and_its_parent_are_unique_and_rise_in_each() -> None:
    child, parent = ids_around_a_fork()
    assert len(child) == len(parent) == 100
    assert child == sorted(child)
    assert parent == sorted(parent)
    assert len({*child, *parent}) == 200


def test_a_child_makes_ids_also_if_a_thread_was_making_one_at_the_fork() -> None:
    child, _ = ids_around_a_fork(before_fork="clock._id_lock.acquire()", after_fork="clock._id_lock.release()")
    assert len(set(child)) == 100
