"""Records to bytes and back: msgpack, and extension types for what msgpack lacks.

A value round-trips exactly, type included, or is refused with the path of the offender. So packing is strict: a
subclass (an `IntEnum`, a named tuple, a numpy number) would come back as something else and is refused.

The codes and layouts of the extension types are part of the log's format: never change one, add another.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from maestro_shm.errors import shown
from maestro_shm.packers import Packers
from maestro_shm.records import EVENT_SETTERS, Event

MAX_DEPTH: Final = 100
"""How deeply containers may be nested in a body."""

TUPLE, SET, FROZENSET, DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID_, INTEGER = range(1, 11)

_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})
# The packer takes these as they are, but they would come back as another type.
_LOOKALIKES: Final = frozenset({bytearray, memoryview, msgpack.ExtType, msgpack.Timestamp})
_NEED_A_LOOK: Final = _CONTAINERS | _LOOKALIKES
_KEYS: Final = frozenset({str, int})
_REFUSALS: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What the packer raises, and what `_check` does."""
_NO_STACK: Final = "cannot be packed so deep in the call stack"


_EVENT_FIELDS: Final = ("type", "body", "metadata")
_ARRAY: Final = struct.Struct(">BI")
_ARRAY_CODE: Final = 0xDD
"""An array of so many values, as msgpack begins it."""
_NOTHING: Final = msgpack.packb(None) * 2
_new: Final = object.__new__
_set_aggregate_id, _set_sequence, _set_type, _set_body, _set_timestamp, _set_position, _set_metadata = EVENT_SETTERS


class UnstorableError(ValueError):
    """A value cannot be stored; `path` leads to the offender, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def pack(values: list[Any], names: tuple[str, ...]) -> bytes:
    """The bytes of some values in a row. Raises `UnstorableError` with a path that begins with the value's name."""
    try:
        packed = _packers.pack(values)
        for value in values:
            if type(value) in _NEED_A_LOOK:
                _check(value, 1)
    except _REFUSALS as error:
        raise _refusal(error, values, names) from None
    return packed


def unpack(packed: bytes) -> Any:
    """The list of values that `pack` made these bytes of."""
    return msgpack.unpackb(packed, ext_hook=_from_extension, strict_map_key=False)


def pack_event(event: Event) -> bytes:
    """What a store keeps of an event beside its aggregate, sequence, timestamp and position.

    Its type is a `str`. Every event that is committed goes through here, so what `pack` does is written out.
    """
    body, metadata = event.body, event.metadata
    values = [event.type, body, metadata]
    try:
        packed = _packers.pack(values)
        if type(body) in _NEED_A_LOOK:
            _check(body, 1)
        if metadata is not None:
            _check(metadata, 1)
    except _REFUSALS as error:
        raise _refusal(error, values, _EVENT_FIELDS) from None
    return packed


def event_head(kind: str) -> bytes:
    """What `pack_event` gives begins with this if and only if the event is of this type."""
    return pack([kind, None, None], _EVENT_FIELDS)[: -len(_NOTHING)]


def pack_body(body: Any) -> bytes:
    """What a store keeps of a snapshot."""
    return pack([body], ("body",))


def unpack_event(aggregate_id: str, sequence: int, timestamp: int | None, position: int | None, packed: bytes) -> Event:
    """The event as it was committed, or as it is going to be.

    Every event that is read goes through here. Its `__init__` is passed by, which would cost a third more than this.
    """
    kind, body, metadata = msgpack.unpackb(packed, ext_hook=_from_extension, strict_map_key=False)
    event = _new(Event)
    _set_aggregate_id(event, aggregate_id)
    _set_sequence(event, sequence)
    _set_type(event, kind)
    _set_body(event, body)
    _set_timestamp(event, timestamp)
    _set_position(event, position)
    _set_metadata(event, metadata)
    return event


def unpack_unplaced(packed: Sequence[tuple[str, int, int | None, bytes]]) -> list[Event]:
    """The events of a commit as they are going to be, as yet without timestamps and positions.

    All are unpacked at once, since a third of the time that it takes to unpack a small one is that of the call.
    """
    payloads = [payload for _, _, _, payload in packed]
    contents = unpack(_ARRAY.pack(_ARRAY_CODE, len(payloads)) + b"".join(payloads))
    events = []
    for (aggregate_id, sequence, _, _), (kind, body, metadata) in zip(packed, contents, strict=True):
        event = _new(Event)
        _set_aggregate_id(event, aggregate_id)
        _set_sequence(event, sequence)
        _set_type(event, kind)
        _set_body(event, body)
        _set_timestamp(event, None)
        _set_position(event, None)
        _set_metadata(event, metadata)
        events.append(event)
    return events


def copied(event: Event) -> Event:
    """The same event once more, for who may change what is in it."""
    copy = _new(Event)
    _set_aggregate_id(copy, event.aggregate_id)
    _set_sequence(copy, event.sequence)
    _set_type(copy, event.type)
    _set_body(copy, _copied(event.body))
    _set_timestamp(copy, event.timestamp)
    _set_position(copy, event.position)
    _set_metadata(copy, _copied(event.metadata))
    return copy


def _copied(value: Any) -> Any:
    """Of values that came out of the codec, only containers can be changed."""
    kind = type(value)
    if kind is dict:
        return {key: _copied(item) if type(item) in _CONTAINERS else item for key, item in value.items()}
    if kind is list or kind is tuple:
        return kind([_copied(item) if type(item) in _CONTAINERS else item for item in value])
    return kind(value) if kind is set else value


def _check(value: Any, depth: int) -> None:
    """What the packer lets through: lookalikes, keys other than `str` and `int`, any depth within an extension."""
    kind = type(value)
    if kind in _LOOKALIKES:
        raise TypeError
    if depth > MAX_DEPTH:
        raise ValueError
    if kind is dict:
        for key in value:
            if type(key) not in _KEYS:
                raise TypeError
        value = value.values()
    for item in value:
        if type(item) in _NEED_A_LOOK:
            _check(item, depth + 1)


def _refusal(error: Exception, values: list[Any], names: tuple[str, ...]) -> UnstorableError:
    reason = _NO_STACK if isinstance(error, RecursionError) else str(error)
    return _first_offence(values, names) or UnstorableError(names[0], reason)


def _first_offence(values: list[Any], names: tuple[str, ...]) -> UnstorableError | None:
    try:
        return next(filter(None, (_find_offender(*named, 1) for named in zip(values, names, strict=True))), None)
    except RecursionError:
        return UnstorableError(names[0], _NO_STACK)


def _find_offender(value: Any, path: str, depth: int) -> UnstorableError | None:
    """Walk the value again, slowly, for the path of what was refused."""
    if depth > MAX_DEPTH:
        return UnstorableError(f"{path[:40]}…", f"cannot store containers nested over {MAX_DEPTH} deep")
    if type(value) not in _CONTAINERS:
        return _offence(value, path)
    if type(value) is dict:
        for key in value:
            if type(key) not in _KEYS:
                return UnstorableError(
                    path, f"cannot store the key {shown(key)} of type {_type_name(key)}; use str or int"
                )
            if offence := _offence(key, f"{path} key"):
                return offence
    for item_path, item in _items(value, path):
        if offence := _find_offender(item, item_path, depth + 1):
            return offence
    return None


def _items(container: Any, path: str) -> Iterator[tuple[str, Any]]:
    if type(container) is dict:
        return ((f"{path}[{shown(key)}]", item) for key, item in container.items())
    if type(container) in (set, frozenset):
        return ((f"{path}{{{shown(item)}}}", item) for item in container)
    return ((f"{path}[{index}]", item) for index, item in enumerate(container))


def _offence(value: Any, path: str) -> UnstorableError | None:
    if type(value) in _LOOKALIKES:
        return UnstorableError(path, f"cannot store a value of type {_type_name(value)}: it would not come back as one")
    try:
        _packers.pack(value)
    except UnicodeEncodeError as error:
        return UnstorableError(path, f"cannot store a str that is not valid Unicode: {error.reason}")
    except (TypeError, ValueError, OverflowError) as error:
        return UnstorableError(path, f"cannot store a value of type {_type_name(value)}: {error}")
    return None


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _to_extension(value: Any) -> msgpack.ExtType:
    try:
        code, encode = _ENCODERS[type(value)]
    except KeyError:
        msg = "no exact way back from bytes"
        raise TypeError(msg) from None
    return msgpack.ExtType(code, encode(value))


def _from_extension(code: int, data: bytes) -> Any:
    return _DECODERS[code](data)


_packers: Final = Packers(default=_to_extension, strict_types=True)


def _unpack_items(data: bytes) -> Any:
    """Items that may have such items in their turn, a hundred levels deep.

    Each `unpackb` under way holds 43 KB of the C stack, and a thread may have 512 KB in all (macOS), or less (musl):
    one event would kill every process that reads it. An `Unpacker` holds its 43 KB on the heap.
    """
    unpacker = msgpack.Unpacker(ext_hook=_from_extension, strict_map_key=False, read_size=1, max_buffer_size=len(data))
    unpacker.feed(data)
    return unpacker.unpack()


def _pack_items(value: Any) -> bytes:
    return _packers.pack(list(value))


def _zone_to_value(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key is not None:
        try:
            zone.__reduce__()
        except Exception:  # noqa: BLE001 (a PicklingError: it was made from a file, and has only the name of a zone)
            raise TypeError("its time zone was made from a file and cannot be looked up by its name") from None
        return zone.key
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        named = zone.tzname(None) != timezone(offset).tzname(None)
        return [offset.days, offset.seconds, offset.microseconds, zone.tzname(None) if named else None]
    msg = f"its time zone is a {_type_name(zone)}; use datetime.timezone or zoneinfo.ZoneInfo"
    raise TypeError(msg)


def _zone_from_value(value: Any) -> tzinfo | None:
    if value is None:
        return None
    if type(value) is str:
        return ZoneInfo(value)
    days, seconds, microseconds, name = value
    offset = timedelta(days, seconds, microseconds)
    if name is not None:
        return timezone(offset, name)
    return timezone(offset) if offset else UTC


def _encode_datetime(value: datetime) -> bytes:
    clock = [value.hour, value.minute, value.second, value.microsecond]
    return _pack_items([value.year, value.month, value.day, *clock, value.fold, _zone_to_value(value.tzinfo)])


def _decode_datetime(data: bytes) -> datetime:
    *parts, fold, zone = unpack(data)
    return datetime(*parts, fold=fold).replace(tzinfo=_zone_from_value(zone))  # noqa: DTZ001 (it may well be naive)


def _encode_time(value: time) -> bytes:
    clock = [value.hour, value.minute, value.second, value.microsecond]
    return _pack_items([*clock, value.fold, _zone_to_value(value.tzinfo)])


def _decode_time(data: bytes) -> time:
    *parts, fold, zone = unpack(data)
    return time(*parts, fold=fold).replace(tzinfo=_zone_from_value(zone))


def _encode_integer(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, signed=True)


_ENCODERS: Final[dict[type, tuple[int, Callable[[Any], bytes]]]] = {
    tuple: (TUPLE, _pack_items),
    set: (SET, _pack_items),
    frozenset: (FROZENSET, _pack_items),
    datetime: (DATETIME, _encode_datetime),
    date: (DATE, lambda value: _pack_items([value.year, value.month, value.day])),
    time: (TIME, _encode_time),
    timedelta: (TIMEDELTA, lambda value: _pack_items([value.days, value.seconds, value.microseconds])),
    Decimal: (DECIMAL, lambda value: str(value).encode()),
    UUID: (UUID_, lambda value: value.bytes),
    int: (INTEGER, _encode_integer),  # msgpack's own end at 64 bits
}

_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    TUPLE: lambda data: tuple(_unpack_items(data)),
    SET: lambda data: set(_unpack_items(data)),
    FROZENSET: lambda data: frozenset(_unpack_items(data)),
    DATETIME: _decode_datetime,
    DATE: lambda data: date(*unpack(data)),
    TIME: _decode_time,
    TIMEDELTA: lambda data: timedelta(*unpack(data)),
    DECIMAL: lambda data: Decimal(data.decode()),
    UUID_: lambda data: UUID(bytes=data),
    INTEGER: lambda data: int.from_bytes(data, signed=True),
}
