"""How long a watch lasts, by a clock that goes 5 µs further at each look."""

from __future__ import annotations

import pytest

from maestro_shm.shared import watch
from maestro_shm.shared.watch import Watch

STEP = 5e-6


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.put_off = 0
        monkeypatch.setattr(watch, "_now", self.look_at)
        monkeypatch.setattr(watch, "_give_way", self.give_way)
        monkeypatch.setattr(watch, "_nap", self.nap)
        monkeypatch.setattr(watch, "times_put_off", lambda: self.put_off)
        self.step = STEP
        self.naps = 0
        self.ways_given = 0
        self.others_run = True
        self._has_gone_on = False

    def look_at(self) -> float:
        if not self._has_gone_on:
            self._go_on()
        self._has_gone_on = False
        return self.now

    def give_way(self) -> None:
        self.ways_given += 1
        self._has_gone_on = True
        self._go_on()

    def _go_on(self) -> None:
        self.now += self.step
        if self.step > STEP and self.others_run:
            self.put_off += 1

    def nap(self) -> None:
        self.now += 55e-6
        self.naps += 1

    def wait(self, patient: Watch, seconds: float) -> bool:
        """Wait for what comes after so long; whether it was seen without a sleep."""
        end = self.now + seconds
        self._has_gone_on = True
        if patient.until(lambda: self.now >= end):
            return True
        self.now = max(self.now, end) + 20e-6  # to wake up takes a while
        self._has_gone_on = True
        patient.note_arrival()
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("microseconds", [10, 80, 150, 250, 350])
def test_what_comes_soon_each_time_is_soon_seen_without_a_sleep(clock: Clock, microseconds: int) -> None:
    patient = Watch()
    seen = [clock.wait(patient, microseconds * 1e-6) for _ in range(100)]
    assert all(seen[80:])


def test_what_never_comes_soon_is_watched_for_ever_more_seldom_and_not_long(clock: Clock) -> None:
    patient = Watch()
    looked = 0

    def look() -> bool:
        nonlocal looked
        looked += 1
        return False

    for _ in range(630):
        patient.until(look)
        clock.now += 0.1
        patient.note_arrival()
    assert 0 < looked < 630 * 2


def test_what_was_seen_is_not_forgotten_where_a_wait_without_a_watch_follows(clock: Clock) -> None:
    """As of a server, which does not watch after it has woken somebody."""
    patient = Watch()
    left_out = 0
    for _ in range(50):
        for _ in range(9):
            assert clock.wait(patient, 30e-6)
            clock.now += 1e-3
            patient.note_arrival()
        looks: list[None] = []
        patient.until(lambda looks=looks: looks.append(None))  # type: ignore[misc] # mypy cannot infer a lambda with a default
        left_out += not looks
        clock.now += 1e-3
        patient.note_arrival()
    assert not left_out


def test_what_comes_soon_again_is_seen_again(clock: Clock) -> None:
    patient = Watch()
    for _ in range(200):
        clock.wait(patient, 0.1)
    seen = [clock.wait(patient, 50e-6) for _ in range(100)]
    assert all(seen[80:])


def test_who_has_a_processor_of_his_own_never_naps(clock: Clock) -> None:
    patient = Watch()
    for _ in range(1000):
        clock.wait(patient, 50e-6)
    assert not clock.naps


def test_who_has_a_processor_of_his_own_gives_way_only_in_a_long_watch(clock: Clock) -> None:
    patient = Watch()
    for _ in range(100):
        clock.wait(patient, 30e-6)
    assert not clock.ways_given
    clock.wait(patient, 80e-6)
    assert clock.ways_given


def test_who_shared_a_processor_gives_way_at_each_look_for_some_watches(clock: Clock) -> None:
    patient = Watch()
    clock.step = 20e-6
    clock.wait(patient, 30e-6)
    clock.step = STEP
    given = []
    for _ in range(20):
        before = clock.ways_given
        clock.wait(patient, 30e-6)
        given.append(clock.ways_given > before)
    assert given == [True] * 8 + [False] * 12


def test_who_shares_a_processor_naps_soon_and_then_ever_more_seldom(clock: Clock) -> None:
    patient = Watch()
    clock.step = 20e-6
    clock.wait(patient, 50e-6)
    assert clock.naps == 1
    for _ in range(5000):
        clock.wait(patient, 50e-6)
    assert clock.naps < 30


def test_who_is_slow_but_alone_on_a_processor_never_naps(clock: Clock) -> None:
    patient = Watch()
    clock.step = 20e-6
    clock.others_run = False
    for _ in range(1000):
        clock.wait(patient, 50e-6)
    assert not clock.naps


def test_who_shares_a_processor_and_can_leave_it_leaves_and_does_not_nap(clock: Clock) -> None:
    left = 0

    def leave() -> bool:
        nonlocal left
        left += 1
        clock.step = STEP
        return True

    patient = Watch(leave)
    clock.step = 20e-6
    for _ in range(100):
        clock.wait(patient, 50e-6)
    assert (left, clock.naps) == (1, 0)


@pytest.mark.parametrize(("microseconds", "sees_it"), [(5, False), (20, True), (2100, False)])
def test_who_gives_the_processor_to_somebody_who_soon_gives_it_back_watches_for_longer(
    clock: Clock, *, microseconds: int, sees_it: bool
) -> None:
    clock.step = microseconds * 1e-6
    assert clock.wait(Watch(), max(900e-6, clock.step + 1e-6)) == sees_it


def test_a_watch_ends_though_the_processor_is_given_back_soon_each_time(clock: Clock) -> None:
    clock.step = 20e-6
    begun = clock.now
    assert Watch().until(lambda: False) is None
    assert clock.now - begun < 2e-3


def test_beside_who_computes_most_watches_are_left_out(clock: Clock) -> None:
    patient = Watch()
    clock.step = 3e-3
    begun = clock.now
    for _ in range(100):
        clock.wait(patient, 1e-3)
    assert clock.now - begun < 100 * 1.5e-3


def test_what_came_while_somebody_else_had_the_processor_is_seen(clock: Clock) -> None:
    clock.step = 3e-3
    assert clock.wait(Watch(), 2e-3)


def test_who_had_a_processor_of_his_own_meanwhile_naps_at_once_again(clock: Clock) -> None:
    patient = Watch()
    for clock.step in (20e-6, STEP, 20e-6):
        before = clock.naps
        for _ in range(100):
            clock.wait(patient, 50e-6)
        assert (clock.naps > before) == (clock.step > STEP)
