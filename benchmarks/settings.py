"""How much is measured: three sizes of one run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    name: str
    rounds: int
    """Timed rounds per figure; one more before them warms up."""
    calls: int
    """Timed calls of each rival in a round."""
    batch_calls: int
    """The same where a call is a large commit."""
    few_workers: int
    many_workers: int
    worker_rounds: int
    worker_seconds: float
    first_reads: int
    """First reads from each of the two stores."""
    feed_rounds: int
    feed_events: int
    """So many of the large store's are read."""
    copy_rounds: int
    copied_events: int
    small_events: int
    large_events: int
    fewer_events: int
    """What the large store gets if filling it would take longer than `fill_seconds`."""
    fill_seconds: float


QUICK = Settings(
    name="quick",
    rounds=30,
    calls=50,
    batch_calls=6,
    few_workers=2,
    many_workers=64,
    worker_rounds=3,
    worker_seconds=0.5,
    first_reads=40,
    feed_rounds=7,
    feed_events=200_000,
    copy_rounds=3,
    copied_events=100_000,
    small_events=1_000,
    large_events=1_000_000,
    fewer_events=200_000,
    fill_seconds=20,
)

FULL = Settings(
    name="full",
    rounds=120,
    calls=80,
    batch_calls=16,
    few_workers=2,
    many_workers=64,
    worker_rounds=7,
    worker_seconds=2,
    first_reads=200,
    feed_rounds=25,
    feed_events=500_000,
    copy_rounds=7,
    copied_events=500_000,
    small_events=1_000,
    large_events=1_000_000,
    fewer_events=1_000_000,
    fill_seconds=600,
)

CHECK = Settings(
    name="check",
    rounds=1,
    calls=5,
    batch_calls=2,
    few_workers=2,
    many_workers=4,
    worker_rounds=1,
    worker_seconds=0.05,
    first_reads=2,
    feed_rounds=1,
    feed_events=5_000,
    copy_rounds=1,
    copied_events=2_000,
    small_events=1_000,
    large_events=5_000,
    fewer_events=5_000,
    fill_seconds=60,
)
