"""The course of a run: who is open when, and what is measured then."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Final, TypeVar

from postgres_server import PostgresServer

import maestro_shm as ms
from benchmarks import eventsourcing_modules, figures, pushes, rivals, transactions
from benchmarks.contestant import Contestant
from benchmarks.copies import measure_copies
from benchmarks.eventsourcing_modules import MaestroModule, SqliteModule
from benchmarks.feeds import measure_feed
from benchmarks.filled_store import fill_large, fill_small
from benchmarks.first_read import time_first_reads
from benchmarks.fresh_process import FreshProcesses
from benchmarks.results import Results
from benchmarks.rivals.database import DATABASE_WRITERS, LibraryDatabase, MaestroDatabase
from benchmarks.rivals.durable import MaestroPower, SqliteFull
from benchmarks.rivals.maestro import Maestro
from benchmarks.rivals.manager_object import ManagerObject
from benchmarks.rivals.rival import Contender
from benchmarks.server_memory import measure_memory
from benchmarks.settings import Settings
from benchmarks.workers import compare_crowds

_MEMORY: Final = Path("/dev/shm")

_Say = Callable[[str], None]
_Contender = TypeVar("_Contender", bound=Contender)


def measure(settings: Settings, say: _Say) -> Results:
    """Everything; `say` is told what is going on."""
    started = perf_counter()
    results = Results(settings)
    with FreshProcesses() as fresh:
        _play_figures(results, say)
        _try_views(results, say)
        _compare_crowds(results, say)
        _compare_modules(results, say)
        _try_large_store(results, fresh, say)
    _try_database(results, say)
    results.seconds = perf_counter() - started
    return results


def _play_figures(results: Results, say: _Say) -> None:
    with ExitStack() as stack:
        contestants = [Contestant(stack.enter_context(_opened(rival))) for rival in rivals.ALL]
        gc.freeze()  # or the heap of one rival would slow the garbage collections in the turns of the others
        stack.callback(gc.unfreeze)
        for figure in figures.ALL:
            say(f"{figure.name} …")
            results.timings += figures.play(figure, contestants, results.settings)


def _try_views(results: Results, say: _Say) -> None:
    with ms.connect() as store:
        say(f"{transactions.TRANSACTION} …")
        results.timings += transactions.time_transactions(store, results.settings)
        say(f"{transactions.TABLE_READ} …")
        results.timings += transactions.time_table_reads(store, results.settings)
        say(f"{pushes.PUSH} …")
        results.timings += pushes.time_pushes(store, results.settings)


def _compare_crowds(results: Results, say: _Say) -> None:
    settings = results.settings
    say(f"{settings.few_workers} and {settings.many_workers} workers …")
    with _opened(Maestro) as ours, _opened(ManagerObject) as theirs:
        results.throughputs += compare_crowds([ours, theirs], (settings.few_workers, settings.many_workers), settings)
    say("workers who wait for the disk …")
    with _opened(MaestroPower, on_disk=True) as ours, _opened(SqliteFull, on_disk=True) as theirs:
        crowds = (1, settings.few_workers, settings.many_workers)
        results.throughputs += compare_crowds([ours, theirs], crowds, settings)


def _compare_modules(results: Results, say: _Say) -> None:
    say("modules of the eventsourcing library …")
    with _opened(MaestroModule) as ours, _opened(SqliteModule) as theirs:
        results.throughputs += compare_crowds([ours, theirs], eventsourcing_modules.WRITERS, results.settings)
        results.timings += eventsourcing_modules.time_modules([ours, theirs], results.settings)


def _try_large_store(results: Results, fresh: FreshProcesses, say: _Say) -> None:
    say("a large store …")
    with ms.connect() as small, ms.connect() as large:
        filled = [fill_small(small, results.settings), fill_large(large, results.settings)]
        results.large_events = filled[1].events
        results.first_reads = time_first_reads(fresh, filled, results.settings)
        results.memory = measure_memory(filled[1])
        say("its feed …")
        results.feed = measure_feed(large, results.settings)


def _try_database(results: Results, say: _Say) -> None:
    with tempfile.TemporaryDirectory(prefix="maestro-bench-") as directory:
        Path(directory).chmod(0o755)  # root's server runs as somebody else
        with PostgresServer(Path(directory) / "server", fsync="on").running() as server:
            say("commits to PostgreSQL …")
            with MaestroDatabase(server.directory) as ours, LibraryDatabase(server.directory) as theirs:
                results.throughputs += compare_crowds([ours, theirs], DATABASE_WRITERS, results.settings)
            say("copies to PostgreSQL and back …")
            results.copies = measure_copies(server, results.settings)


@contextmanager
def _opened(rival: type[_Contender], *, on_disk: bool = False) -> Iterator[_Contender]:
    """In a directory of its own: in memory where the machine has such a place, or beside this file, on a disk."""
    place = Path(__file__).parent if on_disk else _MEMORY if _MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="maestro-bench-", dir=place) as directory,
        rival(Path(directory)) as contender,
    ):
        yield contender
