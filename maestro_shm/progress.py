"""How far a subscription is, kept in a table of its store: a checkpoint for each partition, and the parked events.

settings         what the subscription was made with
partition:NNNN   up to where all is done, how often the event behind it has failed, and whether a consumer is at it
parked:POSITION  the event at this position was given up: why, and after how many attempts
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

from maestro_shm.clock import new_id
from maestro_shm.consumer import Parked
from maestro_shm.errors import SubscriptionError, shown
from maestro_shm.membership import MOST_PARTITIONS
from maestro_shm.selection import Selection, selection
from maestro_shm.tables import Table
from maestro_shm.validation import name_fault, shown_name

_TABLE: Final = "maestro_shm/subscription/"
_LONGEST_NAME: Final = 200
_DELETED_AT_ONCE: Final = 500
_SETTINGS: Final = "settings"
_PARKED: Final = "parked:"


@dataclass(frozen=True)
class Settings:
    """What is fixed when a subscription is made."""

    partitions: int
    after: int
    types: tuple[str, ...] | None
    aggregate_prefix: str
    most_attempts: int
    id: str = ""
    """Given when it is made, so that one that is made anew is known for another."""

    @property
    def wanted(self) -> Selection:
        """The events that it is about."""
        return selection(self.after, None, self.types, self.aggregate_prefix)


class Mark(NamedTuple):
    """Where a partition is."""

    checkpoint: int
    attempts: int
    """How often the event behind the checkpoint was tried in vain."""
    is_open: bool
    """Whether a consumer is at it, or was until it died."""


class Move(NamedTuple):
    """Of a mark."""

    before: Mark
    after: Mark


class PartitionLostError(SubscriptionError):
    """Another consumer has gone on with a partition, as it may where the leases of the first one were lost."""


class Home(Protocol):
    """A store, as far as progress has to do with it."""

    def transact(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Commit what the function does with a transaction."""

    def table(self, name: str) -> Table:
        """A table to be read."""


class Progress:
    """Of one subscription. Each method is one commit, or a read."""

    def __init__(self, store: Home, name: str) -> None:
        if fault := name_fault(name, _LONGEST_NAME, "\0"):
            raise SubscriptionError(shown_name(name), fault)
        self._store = store
        self._name = name
        self._table = _TABLE + name
        self._id = ""

    def settings(self, wanted: Settings | None) -> Settings:
        """Those of the subscription, which is made with the wanted ones if there is none.

        Raises `SubscriptionError` if it has others, or does not exist and nothing is wanted.
        """
        settings: Settings = self._store.transact(self._settings, wanted)
        self._id = settings.id
        return settings

    def take(self, partitions: Iterable[int]) -> dict[int, Mark]:
        """Begin with these partitions: the marks that were found, and are open now."""
        marks: dict[int, Mark] = self._store.transact(self._take, list(partitions))
        return marks

    def move(self, moves: Mapping[int, Move]) -> None:
        """Move marks. Raises `PartitionLostError` if any is not as it was left."""
        self._store.transact(self.move_within, moves)

    def move_within(self, tx: Any, moves: Mapping[int, Move]) -> None:
        """Move marks with a transaction."""
        self._check_is_same(tx)
        table = tx.table(self._table)
        for partition, move in moves.items():
            stored = self.mark_within(tx, partition)
            if stored not in move:  # it may have been moved by a call whose outcome nobody was told
                raise PartitionLostError(self._name, f"partition {partition} went on without this consumer")
            table[_key(partition)] = tuple(move.after)

    def mark_within(self, tx: Any, partition: int) -> Mark | None:
        """The stored mark of a partition that was taken once."""
        stored = tx.table(self._table).get(_key(partition))
        return None if stored is None else Mark(*stored)

    def park(self, partition: int, move: Move, parked: Parked) -> None:
        """Move a mark past an event, and note that it was given up."""
        self._store.transact(self._park, partition, move, parked)

    def parked(self) -> list[Parked]:
        """What was given up, in the order of the feed."""
        return [Parked(int(key.removeprefix(_PARKED)), *value) for key, value in self._read().prefix(_PARKED)]

    def unpark(self, position: int) -> None:
        """Forget that an event was given up."""
        self._store.transact(lambda tx: tx.table(self._table).delete(_parked(position)))

    def delete(self) -> None:
        """Forget everything of it, some entries in each commit; the settings first, so that nobody goes on with it."""
        self._store.transact(lambda tx: tx.table(self._table).delete(_SETTINGS))
        while self._store.transact(self._delete_some):
            pass

    def _read(self) -> Any:
        return self._store.table(self._table)

    def _settings(self, tx: Any, wanted: Settings | None) -> Settings:
        table = tx.table(self._table)
        found = table.get(_SETTINGS)
        if found is None:
            if wanted is None:
                reason = "there is no such subscription; to make it say how many partitions it is to have"
                raise SubscriptionError(self._name, reason)
            wanted = replace(wanted, id=new_id())
            for key in [*table]:  # of one whose deletion was killed
                del table[key]
            table[_SETTINGS] = asdict(wanted)
            return wanted
        if wanted is not None:
            self._refuse_others(found, asdict(wanted))
        return Settings(**found)

    def _refuse_others(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        if others := [name for name in found if name != "id" and found[name] != wanted[name]]:
            was, now = (", ".join(f"{name}={settings[name]!r}" for name in others) for settings in (found, wanted))
            raise SubscriptionError(self._name, f"it was made with {was}, not {now}; leave that out, or delete it")

    def _check_is_same(self, tx: Any) -> None:
        if (tx.table(self._table).get(_SETTINGS) or {}).get("id") != self._id:
            raise SubscriptionError(self._name, "it was deleted since this consumer was made; make another one")

    def _take(self, tx: Any, partitions: list[int]) -> dict[int, Mark]:
        self._check_is_same(tx)
        table = tx.table(self._table)
        after = table[_SETTINGS]["after"]
        found = {
            partition: self.mark_within(tx, partition) or Mark(after, 0, is_open=False) for partition in partitions
        }
        table.update({_key(number): tuple(mark._replace(is_open=True)) for number, mark in found.items()})
        return found

    def _park(self, tx: Any, partition: int, move: Move, parked: Parked) -> None:
        self.move_within(tx, {partition: move})
        tx.table(self._table)[_parked(parked.position)] = parked.reason, parked.attempts

    def _delete_some(self, tx: Any) -> bool:
        table = tx.table(self._table)
        if _SETTINGS in table:  # somebody has made it anew
            return False
        keys = list(islice(table, _DELETED_AT_ONCE))
        for key in keys:
            del table[key]
        return bool(keys)


def checked(partitions: object, after: int, types: Any, aggregate_prefix: Any, most_attempts: object) -> Settings:
    """Settings of these arguments. Raises `ValueError` and `InvalidEventError`."""
    if type(partitions) is not int or not 1 <= partitions <= MOST_PARTITIONS:
        raise ValueError(f"partitions must be an int from 1 to {MOST_PARTITIONS:,}, not {shown(partitions)}")
    if type(most_attempts) is not int or most_attempts < 1:
        raise ValueError(f"most_attempts must be an int from 1 up, not {shown(most_attempts)}")
    wanted = selection(after, None, types, aggregate_prefix)
    sorted_types = None if wanted.types is None else tuple(sorted(wanted.types))
    return Settings(partitions, after, sorted_types, wanted.aggregate_prefix, most_attempts)


def _key(partition: int) -> str:
    return f"partition:{partition:04d}"


def _parked(position: int) -> str:
    return f"{_PARKED}{position:020d}"
