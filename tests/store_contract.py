"""What the tests of the store contract share: the kinds of store, exact comparison, values that every store keeps."""

from __future__ import annotations

import os
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from postgres_server import schema_url

import maestro_shm as ms
from maestro_shm.postgres.migration import migrate

T = TypeVar("T")


@contextmanager
def _memory(**options: Any) -> Iterator[ms.Store]:
    with ms.connect("memory:", **options) as store:
        yield store


@contextmanager
def _private(**options: Any) -> Iterator[ms.Store]:
    with ms.connect(**options) as store:
        yield store


@contextmanager
def _named(**options: Any) -> Iterator[ms.Store]:
    target = f"shm:test-{uuid4().hex[:12]}"
    with ms.connect(target, allow_reset=True, **options) as store:
        yield store
    ms.destroy(target)


@contextmanager
def _path(**options: Any) -> Iterator[ms.Store]:
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "store"
        with ms.connect(target, allow_reset=True, **options) as store:
            yield store
        ms.destroy(target)


@contextmanager
def _postgres(**options: Any) -> Iterator[ms.Store]:
    with schema_url() as url:
        migrate(url)
        with ms.connect(url, allow_reset=True, **options) as store:
            yield store


_ALL: Final[dict[str, Callable[..., AbstractContextManager[ms.Store]]]] = {
    "memory": _memory,
    "private": _private,
    "named": _named,
    "path": _path,
    "path, power": partial(_path, durability="power"),
    "postgres": _postgres,
}
"""Every kind of store that keeps the contract, by name: what makes a new one, takes options, and cleans up."""
STORES: Final = {kind: _ALL[kind] for kind in os.environ.get("MAESTRO_TEST_STORES", ";".join(_ALL)).split(";")}
"""Those that it is tried on, all unless the environment names some."""

FIGURES: Final = ("events", "aggregates", "last_position", "bytes")
"""The keys of `stats()` that every store has."""

STORABLE: Final[dict[str, Any]] = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one": 1,
    "minus one": -1,
    "largest of 64 bits": 2**64 - 1,
    "above 64 bits": 2**64,
    "below 64 bits": -(2**63) - 1,
    "huge int": 10**3000,
    "huge negative int": -(10**3000),
    "float": 1.0,
    "minus zero": -0.0,
    "infinity": float("-inf"),
    "nan": float("nan"),
    "empty str": "",
    "str": "naïve \N{SNOWMAN} \0 \U0001f600",
    "empty bytes": b"",
    "bytes": bytes(range(256)),
    "empty list": [],
    "list": [1, True, 1.0, "1", b"1", None],
    "empty dict": {},
    "dict": {"b": 1, "a": [2], 3: {"": None}, -(2**70): 4},
    "empty tuple": (),
    "tuple": (1, (2, [3, (4,)])),
    "set": {1, "a", (1, 2), frozenset({3})},
    "empty set": set(),
    "frozenset": frozenset({b"a", None, ()}),
    "naive datetime": datetime.fromisoformat("2024-02-29T23:59:59.999999"),
    "folded datetime": datetime.fromisoformat("2024-10-27T02:30:00").replace(fold=1),
    "UTC datetime": datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "datetime with an offset": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=-5, microseconds=1))),
    "datetime with a named offset": datetime(9999, 12, 31, tzinfo=timezone(timedelta(hours=2), "here")),
    "datetime in a named zero offset": datetime(2024, 1, 2, tzinfo=timezone(timedelta(0), "Z")),
    "datetime in a zone": datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    "date": date(2024, 2, 29),
    "time": time(23, 59, 59, 999999),
    "time in a zone": time(2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    "timedelta": timedelta(days=-3, seconds=2, microseconds=1),
    "longest timedelta": timedelta.max,
    "Decimal": Decimal("-1.10"),
    "Decimal zero with an exponent": Decimal("-0E+10"),
    "Decimal not a number": Decimal("sNaN123"),
    "UUID": UUID("12345678-1234-5678-1234-567812345678"),
    "nested": {"a": [({"b": (Decimal(1), {1, frozenset({(True,)})})}, [[]])], 7: {"c": date(2024, 1, 1)}},
}
"""Values that a body may hold, each of which comes back exactly."""


def event(aggregate_id: Any = "a", sequence: Any = 1, body: Any = None, **other: Any) -> ms.Event:
    return ms.Event(aggregate_id, sequence, **{"type": "happened", "body": body, **other})


def exactly(value: Any) -> Any:
    """A form of the value in which two are equal only if they are the same down to every type and bit.

    Plain equality takes True for 1, 1.0 for 1, -0.0 for 0.0, and never a NaN for itself.
    """
    return type(value), _EXACTLY[type(value)](value) if type(value) in _EXACTLY else _exactly_other(value)


def _exactly_other(value: Any) -> Any:
    if is_dataclass(value):
        return [exactly(getattr(value, field.name)) for field in fields(value)]
    return value


def _exactly_zone(zone: tzinfo | None) -> Any:
    return type(zone), zone.key if isinstance(zone, ZoneInfo) else zone


def _exactly_named(zone: tzinfo | None) -> Any:
    return zone.tzname(None) if isinstance(zone, timezone) else None


def _exactly_time(value: datetime | time) -> Any:
    bare = value.replace(tzinfo=None, fold=0)
    return bare, value.fold, _exactly_zone(value.tzinfo), _exactly_named(value.tzinfo)


def _exactly_set(values: Any) -> Any:
    return frozenset(Counter(exactly(value) for value in values).items())


_EXACTLY: Final[dict[type, Callable[[Any], Any]]] = {
    float: lambda value: struct.pack(">d", value),
    list: lambda values: [exactly(value) for value in values],
    tuple: lambda values: tuple(exactly(value) for value in values),
    dict: lambda items: [(exactly(key), exactly(value)) for key, value in items.items()],
    set: _exactly_set,
    frozenset: _exactly_set,
    datetime: _exactly_time,
    time: _exactly_time,
    Decimal: lambda value: value.as_tuple(),
}


def in_threads(*calls: Callable[[], T]) -> list[T]:
    """Run the calls at the same time, and return their results in the order of the calls."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        start.wait(timeout=30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
