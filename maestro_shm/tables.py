"""Tables: named mappings in a store, changed by commits only.

Keys are `str`, in the order of their code points; values are whatever a body may hold. A value that is read is a copy
of the stored one: to change it changes nothing, so it has to be put back.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, MutableMapping, Sequence, ValuesView
from typing import Any, Protocol

from maestro_shm import codec, validation


class Source(Protocol):
    """Where a table's entries are read."""

    def payload(self, table: str, key: str) -> bytes | None:
        """The packed value of an entry, or None."""

    def sorted_keys(self, table: str) -> Sequence[str]:
        """All keys, at one cut."""

    def pairs(self, table: str, start: str | None) -> Iterator[tuple[str, bytes]]:
        """Keys from `start` on, in order, with their packed values, all at one cut."""


class Sink(Source, Protocol):
    """And where they are changed."""

    def change(self, table: str, key: str, payload: bytes | None) -> None:
        """Put a packed value, or delete the entry."""


class Table(Mapping[str, Any]):
    """A table of a store, to be read. What is read at once is of one cut: a value, all keys, all items.

    Raises `InvalidEntryError` for a key that is not a `str` of valid Unicode, or too long.
    """

    def __init__(self, name: str, source: Source) -> None:
        validation.check_table(name)
        self.name = name
        self._source = source

    def __getitem__(self, key: str) -> Any:
        payload = self._source.payload(self.name, _checked(self.name, key))
        if payload is None:
            raise KeyError(key)
        return codec.unpack(payload)[0]

    def __contains__(self, key: object) -> bool:
        return self._source.payload(self.name, _checked(self.name, key)) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.sorted_keys(self.name))

    def __len__(self) -> int:
        return len(self._source.sorted_keys(self.name))

    def items(self) -> ItemsView[str, Any]:
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def range(self, start: str | None = None, stop: str | None = None) -> Iterator[tuple[str, Any]]:
        """Keys and values from `start` on and up to `stop`, which is left out, in order and of one cut."""
        for bound in (start, stop):
            if bound is not None:
                _checked(self.name, bound)
        return self._pairs(start, lambda key: stop is None or key < stop)

    def prefix(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Keys that begin so, and their values, in order and of one cut."""
        _checked(self.name, prefix)
        return self._pairs(prefix, lambda key: key.startswith(prefix))

    def _pairs(self, start: str | None, goes_on: Any) -> Iterator[tuple[str, Any]]:
        for key, payload in self._source.pairs(self.name, start):
            if not goes_on(key):
                return
            yield key, codec.unpack(payload)[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class WritableTable(Table, MutableMapping[str, Any]):
    """A table within a transaction: what is changed here is committed with it, and read here before that.

    Raises `InvalidEntryError` for a value that cannot be stored, too.
    """

    _source: Sink

    def __init__(self, name: str, source: Sink) -> None:
        super().__init__(name, source)

    def __setitem__(self, key: str, value: Any) -> None:
        _checked(self.name, key)
        self._source.change(self.name, key, validation.pack_value(self.name, key, value))

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._source.change(self.name, key, None)

    def put(self, key: str, value: Any) -> None:
        """The same as `table[key] = value`."""
        self[key] = value

    def insert(self, key: str, value: Any) -> bool:
        """Put the value unless there is one under the key; say whether there was none."""
        if key in self:
            return False
        self[key] = value
        return True

    def delete(self, key: str) -> bool:
        """Delete what is under the key; say whether there was anything."""
        if key not in self:
            return False
        del self[key]
        return True


class Tables:
    """The tables of a transaction by their names, as `tables["names"]`: what a projection works on."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __getitem__(self, name: str) -> WritableTable:
        return WritableTable(name, self._sink)


class _Items(ItemsView[str, Any]):
    _mapping: Table

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping.range()


class _Values(ValuesView[Any]):
    _mapping: Table

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.range())


def _checked(table: str, key: object) -> str:
    return validation.check_key(table, key)
