"""How long a watch lasts, by a clock that goes 5 µs further at each look."""

from __future__ import annotations

import pytest

from maestro_shm.shared import watch
from maestro_shm.shared.watch import Watch

STEP = 5e-6


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(watch, "_now", lambda: self.now)
        monkeypatch.setattr(watch, "_give_way", self.go_on)
        monkeypatch.setattr(watch, "_nap", self.nap)
        self.step = STEP
        self.naps = 0

    def go_on(self) -> None:
        self.now += self.step

    def nap(self) -> None:
        self.now += 55e-6
        self.naps += 1

    def wait(self, patient: Watch, seconds: float) -> bool:
        """Wait for what comes after so long; whether it was seen without a sleep."""
        end = self.now + seconds
        if patient.until(lambda: self.now >= end):
            return True
        self.now = max(self.now, end) + 20e-6  # to wake up takes a while
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


def test_who_shares_a_processor_naps_at_once_and_then_ever_more_seldom(clock: Clock) -> None:
    patient = Watch()
    clock.step = 20e-6
    clock.wait(patient, 50e-6)
    assert clock.naps == 1
    for _ in range(5000):
        clock.wait(patient, 50e-6)
    assert clock.naps < 30


def test_who_had_a_processor_of_his_own_meanwhile_naps_at_once_again(clock: Clock) -> None:
    patient = Watch()
    for clock.step in (20e-6, STEP, 20e-6):
        before = clock.naps
        for _ in range(100):
            clock.wait(patient, 50e-6)
        assert (clock.naps > before) == (clock.step > STEP)
