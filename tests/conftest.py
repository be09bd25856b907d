"""Fixtures over every kind of store; the kinds themselves are listed in `store_contract.STORES`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from books import Books
from processes import cleaned_up
from store_contract import STORES

import maestro_shm as ms

# A busy machine is no fault of an example. The suite is to be quick; the torture campaign tries more.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=40)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=400)
hypothesis.settings.load_profile("quick")


@pytest.fixture(params=STORES)
def store_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def kept_stores() -> Iterator[Callable[[str], ms.Store]]:
    """One store of each kind for the whole run: starting a server for each test would take most of its time."""
    with ExitStack() as stack:
        yield functools.cache(lambda kind: stack.enter_context(STORES[kind]()))


@pytest.fixture
def store(store_kind: str, kept_stores: Callable[[str], ms.Store]) -> ms.Store:
    """An empty store of each kind. A test that closes its store takes one from `make_store` instead."""
    kept = kept_stores(store_kind)
    kept.reset()
    return kept


@pytest.fixture
def make_store(store_kind: str) -> Iterator[Callable[..., ms.Store]]:
    """Make a store of each kind that no other test sees, with options for `connect`."""
    with ExitStack() as stack:

        def make(**options: Any) -> ms.Store:
            return stack.enter_context(STORES[store_kind](**options))

        yield make


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns after 1 µs instead of 5 ms, so that what they can do to each other, they do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where a store of its own may lie; whatever serves it is ended afterwards."""
    with cleaned_up(tmp_path / "store"):
        yield tmp_path / "store"


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    """The files of a store, without its processes."""
    with Books(tmp_path) as made:
        yield made


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory with room for 3 MiB."""
    with _file_system(tmp_path / "mounted", "3m") as path:
        yield path


@pytest.fixture
def containers_memory(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory as large as a container's."""
    with _file_system(tmp_path / "mounted", "64m") as path:
        yield path


@contextmanager
def _file_system(path: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
