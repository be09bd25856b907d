"""The goals, each a ratio within one run: times of two runs do not compare, ratios do."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import eventsourcing_modules, figures, pushes, transactions
from benchmarks.eventsourcing_modules import MaestroModule, SqliteModule
from benchmarks.figures import Figure
from benchmarks.results import Results
from benchmarks.rivals.database import DATABASE_WRITERS, LibraryDatabase, MaestroDatabase
from benchmarks.rivals.lmdb_file import LmdbFile
from benchmarks.rivals.maestro import Maestro
from benchmarks.rivals.manager_object import ManagerObject
from benchmarks.rivals.ping_pong import PingPong
from benchmarks.rivals.rival import Contender


@dataclass(frozen=True, slots=True)
class Goal:
    """`value` is None where it could not be measured. The unit stands behind the value and the limit: x is times."""

    title: str
    value: float | None
    limit: float
    at_least: bool = False
    unit: str = "x"

    @property
    def reached(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def all_goals(results: Results) -> list[Goal]:
    return [*_reads(results), *_commits(results), *_sizes(results), *_views(results), *_modules(results)]


def _reads(results: Results) -> list[Goal]:
    faster = [
        (figures.FRESHNESS, 20),
        (figures.CATCH_UP, 20),
        (figures.READ, 5),
    ]
    return [
        *(
            Goal(
                f"{figure.name}: faster than a stock manager object",
                1 / _ratio(results, figure, ManagerObject),
                limit,
                at_least=True,
            )
            for figure, limit in faster
        ),
        Goal(f"{figures.READ.name}: as long as LMDB takes", _ratio(results, figures.READ, LmdbFile), 1.5),
    ]


def _commits(results: Results) -> list[Goal]:
    ours = Maestro.name
    few, many = results.settings.few_workers, results.settings.many_workers
    batched = results.median(figures.COMMIT_BATCH.name, ours) / results.median(figures.COMMIT.name, ours)
    return [
        Goal(
            f"{figures.COMMIT.name}: as long as the bare socket ping-pong takes",
            _ratio(results, figures.COMMIT, PingPong),
            1.5,
        ),
        Goal(f"{figures.COMMIT_BATCH.name}: as long as a commit of 1 takes", batched, 0.25),
        Goal(
            f"commits/s of {many} workers: as many as {few} make",
            results.rate(ours, many) / results.rate(ours, few),
            0.8,
            at_least=True,
        ),
    ]


def _sizes(results: Results) -> list[Goal]:
    small, large = results.first_reads
    memory = results.memory
    few, many = f"{results.settings.small_events:,}", f"{results.large_events:,}"
    return [
        Goal(
            f"first read of a new process, {many} events: as long as with {few} events",
            large.median_us / small.median_us,
            2,
        ),
        Goal(
            f"memory of the server beyond the mapped files, {many} events",
            memory.resident_mb if memory else None,
            60,
            unit=" MB",
        ),
    ]


def _views(results: Results) -> list[Goal]:
    goals = [
        Goal(f"{figure}: as long as {rival} takes", results.median(figure, ours) / results.median(figure, rival), limit)
        for figure, ours, rival, limit in (
            (transactions.TRANSACTION, transactions.OURS, transactions.ONE_COMMIT, 2),
            (transactions.TABLE_READ, transactions.OURS, transactions.DICT, 5),
            (pushes.PUSH, pushes.OURS, pushes.PING_PONG, 3),
        )
    ]
    if feed := results.feed:
        title = f"decoded events/s of the feed, {feed.events:,} events"
        goals += [
            Goal(f"{title}, one reader", feed.one_reader, 200_000, at_least=True, unit=""),
            Goal(f"{title}, two readers: as many as one", feed.two_readers / feed.one_reader, 1.8, at_least=True),
        ]
    if copies := results.copies:
        title = f"events/s of a copy to PostgreSQL, compared in the end, {copies.events:,} events"
        goals.append(Goal(title, copies.to_postgres, 20_000, at_least=True, unit=""))
    return goals


def _modules(results: Results) -> list[Goal]:
    ours, theirs = MaestroModule.name, SqliteModule.name
    return [
        *(
            Goal(
                f"{figure}: as long as its SQLite takes",
                results.median(figure, ours) / results.median(figure, theirs),
                1,
            )
            for figure in eventsourcing_modules.ALL
        ),
        *(
            Goal(
                f"eventsourcing: commits/s of {writers}, as many as with its SQLite",
                results.rate(ours, writers) / results.rate(theirs, writers),
                1,
                at_least=True,
            )
            for writers in eventsourcing_modules.WRITERS
        ),
        *(
            Goal(
                f"PostgreSQL: commits/s of {writers}, as many as by the recorder of eventsourcing",
                results.rate(MaestroDatabase.name, writers) / results.rate(LibraryDatabase.name, writers),
                1,
                at_least=True,
            )
            for writers in DATABASE_WRITERS
        ),
    ]


def _ratio(results: Results, figure: Figure, rival: type[Contender]) -> float:
    """Our median as a multiple of the rival's."""
    return results.median(figure.name, Maestro.name) / results.median(figure.name, rival.name)
