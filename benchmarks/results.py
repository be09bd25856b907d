"""Everything that one run found out."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.copies import CopyRates
from benchmarks.feeds import FeedRates
from benchmarks.server_memory import ServerMemory
from benchmarks.settings import Settings
from benchmarks.timing import Timing
from benchmarks.workers import Throughput


@dataclass(slots=True)
class Results:
    settings: Settings
    timings: list[Timing] = field(default_factory=list)
    first_reads: list[Timing] = field(default_factory=list)
    """From the small store, then from the large one."""
    throughputs: list[Throughput] = field(default_factory=list)
    memory: ServerMemory | None = None
    feed: FeedRates | None = None
    copies: CopyRates | None = None
    large_events: int = 0
    seconds: float = 0.0

    def median(self, figure: str, rival: str) -> float:
        """Microseconds."""
        return next(t.median_us for t in self.timings if (t.figure, t.rival) == (figure, rival))

    def rate(self, rival: str, workers: int) -> float:
        """Commits per second."""
        return next(t.commits_per_second for t in self.throughputs if (t.rival, t.workers) == (rival, workers))
