"""What lasts of an eventual projection, in tables of its store, and each of the commits that move it.

maestro_shm/projections               NAME/live   the live version
NAME/N      of version N the checkpoint, the tables that it has, and of what events
maestro_shm/projection/NAME/N/TABLE   a table of version N
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

from maestro_shm import codec
from maestro_shm.cut import Cut
from maestro_shm.errors import InvalidEventError, ProjectionError, shown
from maestro_shm.leases import Leases
from maestro_shm.projection import Projection
from maestro_shm.records import Event
from maestro_shm.selection import Selection
from maestro_shm.subscription import Source
from maestro_shm.tables import Tables, WritableTable
from maestro_shm.validation import name_fault, shown_name
from maestro_shm.vigil import Vigil

_STATES: Final = "maestro_shm/projections"
_FIRST: Final = 1
_LARGEST_BATCH: Final = 256
"""Events in one commit."""
_DELETED_AT_ONCE: Final = 500
_LONGEST_NAME: Final = 100
"""Bytes, so that the names of its tables fit."""


class Home(Source, Protocol):
    """A store, as far as a projector has to do with it."""

    def transact(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Commit what the function does with a transaction."""

    def read(
        self,
        after: int = 0,
        *,
        limit: int | None = None,
        types: Collection[str] | None = None,
        aggregate_prefix: str | None = None,
    ) -> Iterator[Event]:
        """The feed."""

    @property
    def last_position(self) -> int:
        """That of the newest event."""

    def _wait_for_commit(self, incarnation: int, mark: int, deadline: float, vigil: Vigil) -> None:
        """Return when there may be a commit behind this mark."""

    def _leases(self, name: str) -> Leases:
        """Leases of the store, to be closed."""


_Selected = tuple[tuple[str, ...] | None, str]
"""The types that are wanted, or None for all, and what the aggregates' ids begin with."""


class _Version(NamedTuple):
    checkpoint: int
    tables: tuple[str, ...]
    selected: _Selected


class ProjectionState:
    """Of one projection."""

    def __init__(self, store: Home, name: str, projection: Projection | None, wanted: Selection) -> None:
        if fault := name_fault(name, _LONGEST_NAME, "\0/"):
            raise ProjectionError(shown_name(name), fault)
        self._store = store
        self._name = name
        self._projection = projection
        self._wanted = wanted
        self._selected: _Selected = (
            None if wanted.types is None else tuple(sorted(wanted.types)),
            wanted.aggregate_prefix,
        )
        self._not_begun = _Version(wanted.after, (), self._selected)
        self._batch = _LARGEST_BATCH

    def live(self, cut: Cut) -> int:
        """The live version."""
        payload = cut.entry(_STATES, self._live_key).payload
        return _FIRST if payload is None else int(codec.unpack(payload)[0])

    def checkpoint(self, cut: Cut) -> int:
        """How far the live version is."""
        return self._live_version(cut).checkpoint

    def check_selected(self, cut: Cut) -> None:
        """Raise `ProjectionError` if the live version is of other events."""
        self._check_selected(self._live_version(cut).selected)

    def physical(self, cut: Cut, table: str) -> str:
        """What a table of the live version is called."""
        return self._prefix(self.live(cut)) + table

    def advance(self, version: int | None = None) -> bool:
        """Project some events in one commit, with the checkpoint; whether there was anything to do.

        Fewer at once where the commit would be too large.
        """
        if self._projection is None:
            raise ProjectionError(self._name, "to run it say what is to be projected, as in store.projector(name, …)")
        while True:
            try:
                advanced: bool = self._store.transact(self._advance, version, self._batch)
            except InvalidEventError:
                if self._batch == 1:
                    raise
                self._batch //= 2
            else:
                self._batch = min(self._batch * 2, _LARGEST_BATCH)
                return advanced

    def switches(self, version: int) -> bool:
        """Let a version be live if it is as far as the one that is; whether it is so."""
        switched: bool = self._store.transact(self._switch, version)
        return switched

    def clear(self, live: int) -> None:
        """Remove the tables of every version but the live one, some entries in each commit."""
        for version in self._store.transact(self._others, live):
            count = _DELETED_AT_ONCE
            while True:
                try:
                    if not self._store.transact(self._clear, version, count):
                        break
                except InvalidEventError:
                    if count == 1:
                        raise
                    count //= 2

    @property
    def _live_key(self) -> str:
        return f"{self._name}/live"

    def _key(self, version: int) -> str:
        return f"{self._name}/{version}"

    def _prefix(self, version: int) -> str:
        return f"maestro_shm/projection/{self._name}/{version}/"

    def _live_version(self, cut: Cut) -> _Version:
        payload = cut.entry(_STATES, self._key(self.live(cut))).payload
        return self._not_begun if payload is None else _Version(*codec.unpack(payload)[0])

    def _version(self, tx: Any, version: int) -> _Version:
        return _Version(*tx.table(_STATES).get(self._key(version), self._not_begun))

    def _advance(self, tx: Any, version: int | None, batch: int) -> bool:
        states = tx.table(_STATES)
        version = states.get(self._live_key, _FIRST) if version is None else version
        checkpoint, tables, selected = self._version(tx, version)
        self._check_selected(selected)
        last = self._store.last_position
        wanted = self._wanted
        feed = self._store.read(checkpoint, limit=batch, types=wanted.types, aggregate_prefix=wanted.aggregate_prefix)
        events = list(feed)
        used = _VersionedTables(tx, self._prefix(version))
        for event in events:
            assert self._projection is not None  # noqa: S101 (for the type checker)
            self._projection.project(event, used)
        newest = events[-1].position or 0 if events else 0
        # Where there were no more, the feed was read up to `last` at least.
        read_up_to = max(checkpoint, newest, last if len(events) < batch else 0)
        if read_up_to == checkpoint:
            return False
        states[self._key(version)] = (read_up_to, tuple(sorted({*tables, *used.names})), self._selected)
        return True

    def _check_selected(self, selected: _Selected) -> None:
        """With one checkpoint for two selections each would pass over events that only the other one has seen."""
        if selected != self._selected:
            raise ProjectionError(
                self._name,
                f"it has {_shown(selected)} so far, not {_shown(self._selected)}; use another name, or `rebuild()` it",
            )

    def _switch(self, tx: Any, version: int) -> bool:
        states = tx.table(_STATES)
        live = states.get(self._live_key, _FIRST)
        if self._version(tx, version).checkpoint < max(self._version(tx, live).checkpoint, self._wanted.after):
            return False
        states[self._live_key] = version
        return True

    def _others(self, tx: Any, live: int) -> list[int]:
        names = (key.removeprefix(f"{self._name}/") for key, _ in tx.table(_STATES).prefix(f"{self._name}/"))
        return [int(name) for name in names if name not in ("live", str(live))]

    def _clear(self, tx: Any, version: int, count: int) -> bool:
        for name in self._version(tx, version).tables:
            table = tx.table(self._prefix(version) + name)
            if keys := list(islice(table, count)):
                for key in keys:
                    del table[key]
                return True
        tx.table(_STATES).delete(self._key(version))
        return False


def _shown(selected: _Selected) -> str:
    types, prefix = selected
    of_types = "all events" if types is None else f"the events of types {', '.join(map(shown, types))}"
    return of_types + (f" of aggregates whose ids begin with {shown(prefix)}" if prefix else "")


class _VersionedTables(Tables):
    """The tables of one version, by the names that the projection has for them."""

    def __init__(self, tx: Any, prefix: str) -> None:
        self._tx = tx
        self._prefix = prefix
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> WritableTable:
        self.names.add(name)
        table: WritableTable = self._tx.table(self._prefix + name)
        return table


class LiveTables:
    """Where the tables of the live version are read, each read at one cut."""

    def __init__(self, store: Source, state: ProjectionState) -> None:
        self._store = store
        self._state = state

    def payload(self, table: str, key: str) -> bytes | None:
        """The packed value of an entry, or None."""
        cut = self._store._cut()
        return cut.entry(self._state.physical(cut, table), key).payload

    def sorted_keys(self, table: str) -> Sequence[str]:
        """All keys."""
        cut = self._store._cut()
        return cut.keys(self._state.physical(cut, table)).keys

    def pairs(self, table: str, start: str | None) -> Iterator[tuple[str, bytes]]:
        """Keys from `start` on, with their packed values."""
        cut = self._store._cut()
        return cut.pairs(self._state.physical(cut, table), start)
