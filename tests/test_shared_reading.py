"""Readers of the shared store's files: threads that share one, what they map, and how they are closed."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from books import Books, events
from processes import Fork, open_descriptors

from maestro_shm.errors import StoreClosedError
from maestro_shm.shared import reader as readers
from maestro_shm.shared import view
from maestro_shm.shared.mapped import MappedFile
from maestro_shm.shared.reader import Reader


@pytest.fixture(scope="module")
def large_books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """A store of four segments, with a small stream in each."""
    with Books(tmp_path_factory.mktemp("large"), cap=32 << 20) as made:
        for number in range(4):
            made.commit(("big", 2 * number + 1, b"x" * (31 << 20)))
            made.commit((f"small-{number}", 1, number))
            made.commit(("big", 2 * number + 2, b"x" * (31 << 20)))
        yield made


def in_threads(*work: Callable[[], Any]) -> list[Any]:
    """What each returned or raised."""
    results: list[Any] = [None] * len(work)

    def run(number: int) -> None:
        try:
            results[number] = work[number]()
        except Exception as error:  # noqa: BLE001 (it is the result)
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_that_map_segments_at_once_do_not_mix_them_up(
    large_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(large_books.directory)
    barrier = threading.Barrier(4)
    real = MappedFile.open

    def together(path: Path, *, writable: bool = False) -> MappedFile:
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(0.5)
        return real(path, writable=writable)

    monkeypatch.setattr(MappedFile, "open", together)
    numbers = [3, 3, 0, 1]
    found = in_threads(*(lambda number=number: events(reader, f"small-{number}") for number in numbers))
    assert found == [[(1, number)] for number in numbers]
    for number in range(4):
        assert events(reader, f"small-{number}") == [(1, number)]
    files = reader.view.log._segments.files
    assert {number: file.path.name for number, file in files.items()} == {n: f"log-1-{n:06d}" for n in range(4)}
    reader.close()


def test_a_reader_maps_the_segments_that_it_reads_and_no_others(large_books: Books) -> None:
    reader = Reader(large_books.directory)
    before = open_descriptors()
    assert events(reader, "small-2") == [(1, 2)]
    assert open_descriptors() == before + 1
    assert list(reader.view.log._segments.files) == [2]
    reader.close()


def test_a_writer_keeps_no_more_open_than_what_it_writes_to(large_books: Books) -> None:
    large_books.journal.close()
    before = open_descriptors()
    large_books.reopen()
    assert open_descriptors() == before + 4, "the header, the index, and the last segments of log and positions"
    large_books.commit(("small-3", 2, None))


def test_a_closed_reader_leaves_no_descriptor_and_refuses_every_read(books: Books) -> None:
    books.commit(("a", 1, None))
    books.snapshot("a", 1, None)
    gc.collect()
    before = open_descriptors()
    reader = Reader(books.directory)
    assert events(reader, "a") == [(1, None)]
    assert open_descriptors() > before
    reader.close()
    assert open_descriptors() == before
    reads: list[Callable[[], Any]] = [
        lambda: events(reader, "a"),
        lambda: reader.last_sequence("a"),
        lambda: reader.snapshot("a"),
        reader.stats,
        reader.max_commit_bytes,
        reader.is_over,
    ]
    for read in reads:
        with pytest.raises(StoreClosedError, match=str(books.directory)):
            read()
    reader.close()


def test_a_read_that_is_under_way_as_its_reader_is_closed_ends_well(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.commit(("a", 1, "body"))
    before = open_descriptors()
    reader = Reader(books.directory)
    cut = reader._cut

    def closed_meanwhile() -> Any:
        taken = cut()
        in_threads(reader.close)
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(reader, "_cut", closed_meanwhile)
        assert events(reader, "a") == [(1, "body")]
    with pytest.raises(StoreClosedError):
        events(reader, "a")
    assert open_descriptors() == before


def test_a_reader_that_is_closed_while_another_thread_follows_the_index_stays_closed(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(books.directory)
    books.commit(*((f"key-{number}", 1, None) for number in range(2_000)))
    before = open_descriptors()
    follow = view.open_view

    def closed_meanwhile(*arguments: Any) -> Any:
        in_threads(reader.close)
        return follow(*arguments)

    monkeypatch.setattr(readers, "open_view", closed_meanwhile)
    with pytest.raises(StoreClosedError):
        reader.last_sequence("key-1")
    with pytest.raises(StoreClosedError):
        reader.last_sequence("key-1")
    assert open_descriptors() < before


def test_a_fork_reads_on_with_the_reader_of_its_parent(books: Books) -> None:
    books.commit(("a", 1, "body"))
    with Fork(lambda: events(books.reader, "a")) as fork:
        assert fork.result() == [(1, "body")]


def test_the_figures_pass_over_a_file_that_vanishes(books: Books) -> None:
    books.commit(("a", 1, None))
    before = books.reader.stats()["bytes"]
    (books.directory / "index-1-000009").symlink_to("nowhere")
    assert books.reader.stats()["bytes"] == before > 0
