from __future__ import annotations

import array
import collections
import enum
import fractions
import io
import struct
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal, localcontext
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import output_of
from store_contract import STORABLE, event, exactly

import maestro_shm as ms
from maestro_shm import codec
from maestro_shm.codec import MAX_DEPTH, UnstorableError

# What can be stored.


def and_back(value: Any) -> Any:
    return codec.unpack(codec.pack_body(value))[0]


offsets = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59))
zones: st.SearchStrategy[tzinfo | None] = (
    st.none()
    | st.timezones()
    | st.builds(timezone, offsets)
    | st.builds(timezone, offsets, st.text())
    | st.sampled_from([UTC, timezone(timedelta(0), "Z")])
)
folds = st.integers(0, 1)
moments = st.builds(lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, folds)
times = st.builds(lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.times(), zones, folds)
integers = st.integers() | st.integers(-(2**200), 2**200) | st.sampled_from([2**63, 2**64, -(2**63), -(2**63) - 1])
hashable_scalars = (
    st.none()
    | st.booleans()
    | integers
    | st.floats()
    | st.text()
    | st.binary()
    | moments
    | st.dates()
    | times
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
hashables: st.SearchStrategy[Any] = st.recursive(
    hashable_scalars,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
keys = st.text() | integers
storables: st.SearchStrategy[Any] = st.recursive(
    hashables | st.decimals() | st.sets(hashables, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=16,
)


@given(storables)
def test_whatever_can_be_stored_comes_back_exactly(value: Any) -> None:
    assert exactly(and_back(value)) == exactly(value)


@pytest.mark.parametrize("value", STORABLE.values(), ids=STORABLE)
def test_every_documented_type_comes_back_exactly(value: Any) -> None:
    assert exactly(and_back(value)) == exactly(value)


events = st.builds(
    ms.Event,
    aggregate_id=st.text(min_size=1),
    sequence=st.integers(0, ms.MAX_SEQUENCE),
    type=st.text(min_size=1),
    body=storables,
    timestamp=st.integers(0, 2**62),
    position=st.integers(1, 2**62),
    metadata=st.none() | st.dictionaries(st.text(), storables, max_size=3),
)


@given(events)
def test_an_event_comes_back_exactly(given_event: ms.Event) -> None:
    packed = codec.pack_event(given_event)
    assert given_event.timestamp is not None
    assert given_event.position is not None
    again = codec.unpack_event(
        given_event.aggregate_id, given_event.sequence, given_event.timestamp, given_event.position, packed
    )
    assert exactly(again) == exactly(given_event)


@given(events)
def test_a_copied_event_is_the_same_and_shares_nothing_that_can_be_changed(given_event: ms.Event) -> None:
    copy = codec.copied(given_event)
    assert exactly(copy) == exactly(given_event)
    assert not changeable_parts(copy) & changeable_parts(given_event)


def changeable_parts(value: Any) -> set[int]:
    """The identities of what can be changed in a value, or of the event itself."""
    if isinstance(value, ms.Event):
        return {id(value)} | changeable_parts(value.body) | changeable_parts(value.metadata)
    own = {id(value)} if isinstance(value, dict | list | set) else set()
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return own.union(*map(changeable_parts, inner))


@pytest.mark.parametrize("bits", [7, 8, 15, 16, 31, 32, 63, 64, 65, 127, 128, 1024, 20_000])
def test_an_int_of_any_size_comes_back_exactly(bits: int) -> None:
    for value in (2**bits - 1, 2**bits, 2**bits + 1):
        # Compared in pieces, since a failing assert could not print them.
        for signed in (value, -value):
            back = and_back({signed: signed})
            assert (list(back) == [signed], back.get(signed) == signed) == (True, True)


def test_a_moment_in_a_fold_comes_back_on_the_same_side_of_it() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    early, late = (datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1))
    assert and_back(early).utcoffset() == timedelta(hours=2)
    assert and_back(late).utcoffset() == timedelta(hours=1)


def test_a_decimal_keeps_all_its_digits_whatever_the_context() -> None:
    value = Decimal("1." + "123456789" * 20)
    with localcontext(prec=3):
        assert and_back(value).as_tuple() == value.as_tuple()


def test_a_dict_keeps_the_order_of_its_keys() -> None:
    assert list(and_back({"b": 1, 2: 2, "a": 3, 1: 4})) == ["b", 2, "a", 1]


def test_packing_leaves_the_value_alone() -> None:
    value = {"a": [1, (2, {3})], 4: {"b": b""}}
    codec.pack_body(value)
    assert exactly(value) == exactly({"a": [1, (2, {3})], 4: {"b": b""}})


# What is refused, and where the message says that it stands.


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Tone(enum.StrEnum):
    HIGH = "high"


class Point(NamedTuple):
    x: int
    y: int


class Whole(int):
    pass


class Half(float):
    pass


class Text(str):
    __slots__ = ()


class Raw(bytes):
    pass


class Rows(list[Any]):
    pass


class Pair(tuple[Any, ...]):
    __slots__ = ()


class Table(dict[str, Any]):
    pass


class Bag(set[Any]):
    pass


class FrozenBag(frozenset[Any]):
    pass


class Moment(datetime):
    pass


class Day(date):
    pass


class Hour(time):
    pass


class Span(timedelta):
    pass


class Money(Decimal):
    pass


class Label(UUID):
    pass


class Zone(tzinfo):
    def utcoffset(self, _moment: datetime | None, /) -> timedelta:
        return timedelta(hours=1)

    def dst(self, _moment: datetime | None, /) -> None:
        return None

    def tzname(self, _moment: datetime | None, /) -> None:
        return None


class Berlin(ZoneInfo):
    pass


def zone_from_file(key: str | None) -> ZoneInfo:
    """A zone read from a file: by its name, if it has one, a reader would find another or none."""
    one_type_of_four_letters = struct.pack(">6l", 0, 0, 0, 0, 1, 4)
    one_hour_ahead = struct.pack(">lBB", 3600, 0, 0)
    file = io.BytesIO(b"TZif" + bytes(16) + one_type_of_four_letters + one_hour_ahead + b"ONE\0")
    return ZoneInfo.from_file(file, key=key)


REFUSED: dict[str, Any] = {
    "object": object(),
    "class": object,
    "function": len,
    "ellipsis": ...,
    "complex": 1j,
    "range": range(3),
    "iterator": iter([1]),
    "dict view": {}.keys(),
    "mapping proxy": MappingProxyType({}),
    "array": array.array("i"),
    "Fraction": fractions.Fraction(1, 2),
    "exception": ValueError("x"),
    "record": ms.Command("open"),
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "msgpack extension": msgpack.ExtType(1, b"\x90"),
    "msgpack timestamp": msgpack.Timestamp(1),
    "enum": Colour.RED,
    "int enum": Level.LOW,
    "str enum": Tone.HIGH,
    "named tuple": Point(1, 2),
    "deque": collections.deque([1]),
    "ordered dict": collections.OrderedDict(a=1),
    "default dict": collections.defaultdict(int),
    "counter": collections.Counter("a"),
    "int subclass": Whole(1),
    "float subclass": Half(1),
    "str subclass": Text("x"),
    "bytes subclass": Raw(b"x"),
    "list subclass": Rows([1]),
    "tuple subclass": Pair((1,)),
    "dict subclass": Table(a=1),
    "set subclass": Bag({1}),
    "frozenset subclass": FrozenBag({1}),
    "datetime subclass": Moment(2024, 1, 1, tzinfo=UTC),
    "date subclass": Day(2024, 1, 1),
    "time subclass": Hour(1),
    "timedelta subclass": Span(1),
    "Decimal subclass": Money(1),
    "UUID subclass": Label(int=1),
    "datetime in a zone of one's own": datetime(2024, 1, 1, tzinfo=Zone()),
    "datetime in a subclass of a zone": datetime(2024, 1, 1, tzinfo=Berlin("Europe/Berlin")),
    "datetime in a zone without a name": datetime(2024, 1, 1, tzinfo=zone_from_file(None)),
    "datetime in a zone of a file under another's name": datetime(2024, 1, 1, tzinfo=zone_from_file("Asia/Tokyo")),
    "datetime in a zone of a file under a name of its own": datetime(2024, 1, 1, tzinfo=zone_from_file("Mars/Olympus")),
    "time in a zone of one's own": time(1, tzinfo=Zone()),
    "offset with a surrogate in its name": datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "\ud800")),
    "surrogate": "a\ud800",
}

PLACES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "alone": (lambda value: value, "body"),
    "in a list": (lambda value: [0, value, 0], "body[1]"),
    "in a tuple": (lambda value: (0, value), "body[1]"),
    "in a dict": (lambda value: {"a": 0, "b c": value}, "body['b c']"),
    "under an int key": (lambda value: {7: value}, "body[7]"),
    "deep inside": (lambda value: {"a": [0, 1, ({-1: [value]},)]}, "body['a'][2][0][-1][0]"),
    "under a key that needs quoting": (lambda value: {"it's": [value]}, 'body["it\'s"][0]'),
}


@pytest.mark.parametrize(("place", "path"), PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_would_not_come_back_is_refused_with_its_path(value: Any, place: Callable[[Any], Any], path: str) -> None:
    with pytest.raises(UnstorableError) as caught:
        codec.pack_body(place(value))
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: cannot store a ")


@pytest.mark.parametrize("value", [Level.LOW, Point(1, 2), FrozenBag(), Tone.HIGH, Whole(5)], ids=repr)
@pytest.mark.parametrize("kind", [set, frozenset])
def test_what_would_not_come_back_is_refused_within_a_set(value: Any, kind: type) -> None:
    with pytest.raises(UnstorableError) as caught:
        codec.pack_body({"s": kind([value])})
    assert caught.value.path == f"body['s']{{{value!r}}}"


def test_a_lookalike_is_refused_within_a_set() -> None:
    with pytest.raises(
        UnstorableError, match=r"^body\{\(<memory at .*>,\)\}\[0\]: cannot store a value of type memory"
    ):
        codec.pack_body({(memoryview(b"x"),)})


@pytest.mark.parametrize(
    "key",
    [None, True, False, 1.0, b"a", (1,), frozenset(), Decimal(1), date(2024, 1, 1), Level.LOW, Tone.HIGH, Text("x")],
    ids=repr,
)
@pytest.mark.parametrize(
    ("place", "path"),
    [
        (lambda value: value, "body"),
        (lambda value: {"a": [value]}, "body['a'][0]"),
        (lambda value: ({"b": 1}, value), "body[1]"),
    ],
    ids=["alone", "deep", "in a tuple"],
)
def test_a_key_other_than_str_or_int_is_refused_with_the_path_of_its_dict(
    key: Any, place: Callable[[Any], Any], path: str
) -> None:
    value = place({"good": 1, key: 2})
    with pytest.raises(UnstorableError) as caught:
        codec.pack_body(value)
    assert caught.value.path == path
    assert f"cannot store the key {key!r} of type " in str(caught.value)


def test_a_key_that_is_not_valid_unicode_is_refused() -> None:
    with pytest.raises(UnstorableError) as caught:
        codec.pack_body([{"\ud800": 1}])
    assert caught.value.path == "body[0] key"


def test_the_first_offender_is_told() -> None:
    with pytest.raises(UnstorableError) as caught:
        codec.pack_body({"a": 1, "b": [2, 1j], "c": 1j})
    assert caught.value.path == "body['b'][1]"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("type", {"type": "\ud800"}),
        ("body", {"body": 1j}),
        ("metadata['a']", {"metadata": {"a": 1j}}),
        ("metadata['a'][0]", {"metadata": {"a": [bytearray()]}}),
    ],
)
def test_the_path_begins_with_the_field_of_the_event(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(UnstorableError) as caught:
        codec.pack_event(event(**fields))
    assert caught.value.path == name


@pytest.mark.parametrize("value", [{10**5000: 1j}, {(10**5000, 1j)}, [{10**5000: [1j]}]], ids=["key", "item", "deep"])
def test_an_offender_beside_an_int_too_long_to_print_is_told_all_the_same(value: Any) -> None:
    with pytest.raises(UnstorableError):
        codec.pack_body(value)


# Depth.

NESTS: dict[str, Callable[[Any], Any]] = {
    "list": lambda inner: [inner],
    "tuple": lambda inner: (inner,),
    "dict": lambda inner: {"k": inner},
    "frozenset": lambda inner: frozenset({inner}),
    "mixed": lambda inner: [({"k": inner},)],
}


def nested(nest: Callable[[Any], Any], depth: int, core: Any) -> Any:
    for _ in range(depth):
        core = nest(core)
    return core


@pytest.mark.parametrize("nest", [NESTS[name] for name in ("list", "tuple", "dict", "frozenset")], ids=lambda _: "")
def test_containers_nested_as_deep_as_allowed_come_back_exactly(nest: Callable[[Any], Any]) -> None:
    value = nested(nest, MAX_DEPTH, 1)
    assert exactly(and_back(value)) == exactly(value)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, MAX_DEPTH + 2, 600, 3000])
@pytest.mark.parametrize("core", [1, ()], ids=["around a scalar", "around nothing"])
@pytest.mark.parametrize("name", NESTS)
def test_containers_nested_deeper_are_refused_with_the_path_and_the_reason(name: str, core: Any, depth: int) -> None:
    value = nested(NESTS[name], depth if core else depth - 1, core)
    with pytest.raises(UnstorableError, match=f"cannot store containers nested over {MAX_DEPTH} deep") as caught:
        codec.pack_event(event(body=value))
    assert caught.value.path.startswith("body")
    assert len(caught.value.path) < 100


def a_list_in_itself() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def a_dict_in_itself() -> Any:
    value: dict[str, Any] = {}
    value["k"] = value
    return value


def a_list_in_a_tuple_in_itself() -> Any:
    value: list[Any] = []
    value.append((value,))
    return value


@pytest.mark.parametrize("make", [a_list_in_itself, a_dict_in_itself, a_list_in_a_tuple_in_itself])
def test_a_container_within_itself_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(UnstorableError, match=f"nested over {MAX_DEPTH} deep"):
        codec.pack_body(make())


# The format on disk.

PINNED: dict[str, tuple[Any, str]] = {
    "tuple": ((1, "a"), "91d6019201a161"),
    "set": ({1}, "91d5029101"),
    "frozenset": (frozenset({1}), "91d5039101"),
    "naive datetime": (datetime.fromisoformat("2024-01-02T03:04:05"), "91c70c0499cd07e801020304050000c0"),
    "date": (date(2024, 1, 2), "91c7060593cd07e80102"),
    "time": (time(1, 2, 3, 4), "91c70706960102030400c0"),
    "timedelta": (timedelta(1, 2, 3), "91d60793010203"),
    "Decimal": (Decimal("1.0"), "91c70308312e30"),
    "UUID": (UUID(int=1), "91d809" + "00" * 15 + "01"),
    "int": (2**64, "91c7090a010000000000000000"),
}


@pytest.mark.parametrize(("value", "packed"), PINNED.values(), ids=PINNED)
def test_the_bytes_of_a_value_are_part_of_the_format_and_never_change(value: Any, packed: str) -> None:
    assert codec.pack_body(value).hex() == packed
    assert exactly(codec.unpack(bytes.fromhex(packed))) == exactly([value])


SMALL_STACK = """
import threading
from maestro_shm import codec

value = ()
for _ in range(codec.MAX_DEPTH - 1):
    value = (value,)
read = []
threading.stack_size(512 * 1024)
thread = threading.Thread(target=lambda: read.append(codec.unpack(codec.pack_body(value))[0]))
thread.start()
thread.join()
print(read == [value])
"""


def test_the_deepest_body_can_be_read_by_a_thread_with_a_small_stack() -> None:
    assert output_of(SMALL_STACK) == "True"


def test_a_body_that_the_call_stack_has_no_room_for_is_refused_and_says_so() -> None:
    def at_depth(frames: int) -> bytes:
        return at_depth(frames - 1) if frames else codec.pack_body(deep)

    deep: Any = ()
    for _ in range(codec.MAX_DEPTH - 2):
        deep = (deep,)
    said = set()
    for frames in range(sys.getrecursionlimit() - 300, sys.getrecursionlimit(), 10):
        try:
            at_depth(frames)
        except codec.UnstorableError as error:
            said.add(str(error))
        except RecursionError:
            break  # no room even for the calls of this test
    assert said == {"body: cannot be packed so deep in the call stack"}
