"""Every supported type comes back as it went in, and nothing else goes in."""

from __future__ import annotations

import decimal
import enum
import json
import math
import struct
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NewType
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.crypto.codec import codec_for
from privkit.crypto.keys import SubjectKey
from privkit.errors import InvalidValue, MappingError, SealedError


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1


class Place:
    def __init__(self, lat: float, lon: float) -> None:
        self.lat, self.lon = lat, lon

    def pack(self) -> bytes:
        return struct.pack(">dd", self.lat, self.lon)

    @classmethod
    def unpack(cls, data: bytes) -> Place:
        return cls(*struct.unpack(">dd", data))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and (self.lat, self.lon) == (other.lat, other.lon)

    def __hash__(self) -> int:
        return hash((self.lat, self.lon))


offsets = st.timedeltas(
    min_value=timedelta(hours=-24, microseconds=1), max_value=timedelta(hours=24, microseconds=-1)
).map(timezone)
zones = st.none() | offsets | st.just(UTC)
texts = st.text(st.characters(codec=None, exclude_categories=[]))
floats = st.floats(allow_nan=False)
values: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    bytes: st.binary(),
    bool: st.booleans(),
    int: st.integers() | st.integers(-(2**2000), 2**2000),
    float: floats,
    Decimal: st.decimals(allow_nan=False) | st.sampled_from([Decimal("1.500"), Decimal("-0"), Decimal("1E+99999")]),
    date: st.dates(),
    time: st.times(timezones=zones) | st.times().map(lambda value: value.replace(fold=1)),
    datetime: st.datetimes(timezones=zones) | st.datetimes().map(lambda value: value.replace(fold=1)),
    timedelta: st.timedeltas() | st.sampled_from([timedelta.min, timedelta.max]),
    UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    Place: st.builds(Place, floats, floats),
    dict: st.recursive(
        st.none() | st.booleans() | st.integers() | floats | texts,
        lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    ),
}
fixed = {bool: 1, date: 4, float: 8, time: 11, timedelta: 12, datetime: 14, UUID: 16}
pairs = st.sampled_from(list(values)).flatmap(lambda declared: st.tuples(st.just(declared), values[declared]))


def exact(value: Any) -> Any:
    """What equality alone does not see: types inside JSON, the scale of a Decimal, an offset, a fold, -0.0."""
    if isinstance(value, dict):
        return [(key, exact(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value), repr(value)


@given(pairs)
def test_what_is_sealed_opens_as_the_same_value_of_the_same_type(pair: tuple[Any, Any]) -> None:
    declared, value = pair
    codec, key = codec_for(declared), SubjectKey(bytes(32)).value_key("riders.field")

    opened = codec.decode(key.open(key.seal(codec.encode(value))))

    assert value == opened
    if declared is not Place:
        assert exact(value) == exact(opened)
    if declared in fixed:
        assert fixed[declared] == len(codec.encode(value))


@given(st.sampled_from(list(values)), st.binary(max_size=20))
def test_any_bytes_decode_to_the_declared_type_or_are_a_typed_error(declared: Any, data: bytes) -> None:
    try:
        decoded = codec_for(declared).decode(data)
    except SealedError:
        return
    assert isinstance(decoded, object if declared is dict else declared)


@pytest.mark.parametrize(
    ("declared", "data"),
    [
        (str, b"\xff"),
        (bool, b""),
        (bool, b"\2"),
        (int, b""),
        (float, b"1234567"),
        (Decimal, b"planted"),
        (Decimal, "\u0661".encode()),
        (date, bytes(4)),
        (date, b"\xff" * 4),
        (date, bytes(5)),
        (time, b"\xff" * 11),
        (time, bytes(10)),
        (datetime, b"\xff" * 14),
        (datetime, bytes(13)),
        (datetime, bytes(8) + b"\4" + bytes(5)),
        (timedelta, b"\x7f" + b"\xff" * 11),
        (UUID, bytes(15)),
        (Colour, b"BLUE"),
        (Colour, b"\xff"),
        (dict, b"{planted"),
        (dict, b""),
        (Place, bytes(15)),
    ],
)
def test_malformed_bytes_are_a_typed_error_that_shows_none_of_them(declared: Any, data: bytes) -> None:
    with pytest.raises(SealedError) as caught:
        codec_for(declared).decode(data)

    assert "planted" not in str(caught.value)
    assert caught.value.__context__ is None


def test_malformed_decimal_text_is_refused_whatever_the_application_set_its_context_to() -> None:
    with decimal.localcontext() as context:
        context.traps[decimal.InvalidOperation] = False
        with pytest.raises(SealedError):
            codec_for(Decimal).decode(b"planted")


@pytest.mark.parametrize("text", ["NaN", "sNaN", "-NaN12", "Infinity", "-Infinity"])
def test_decimals_that_are_no_numbers_come_back(text: str) -> None:
    codec = codec_for(Decimal)

    assert text == str(codec.decode(codec.encode(Decimal(text))))


def test_nan_and_negative_zero_come_back() -> None:
    codec = codec_for(float)

    assert math.isnan(codec.decode(codec.encode(math.nan)))
    assert -1.0 == math.copysign(1, codec.decode(codec.encode(-0.0)))


def test_an_aware_datetime_keeps_its_offset_and_a_naive_one_stays_naive() -> None:
    codec = codec_for(datetime)
    summer = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Warsaw"))

    opened = codec.decode(codec.encode(summer))

    assert (summer, timedelta(hours=2)) == (opened, opened.utcoffset())
    assert codec.decode(codec.encode(datetime(2026, 7, 1))).tzinfo is None
    assert UTC is codec.decode(codec.encode(datetime(2026, 7, 1, tzinfo=UTC))).tzinfo


def test_a_time_whose_offset_depends_on_the_day_is_refused() -> None:
    with pytest.raises(InvalidValue, match="depends on the day"):
        codec_for(time).encode(time(12, tzinfo=ZoneInfo("Europe/Warsaw")))


@pytest.mark.parametrize("value", [{"a": 1}, [], None, 0, False, "text", {"żółw": {"ключ": [1.0, 1, True, None]}}, ""])
def test_a04_json_comes_back_with_the_same_value_and_type(value: Any) -> None:
    codec = codec_for(dict)

    assert exact(value) == exact(codec.decode(codec.encode(value)))


def test_a04_json_null_is_bytes_of_its_own_and_not_the_absence_of_a_value() -> None:
    assert b"null" == codec_for(dict[str, int]).encode(None)


@pytest.mark.parametrize("declared", [dict, list, dict[str, Any], list[int]])
def test_a05_json_is_declared_as_dict_list_or_generics_of_them(declared: Any) -> None:
    codec = codec_for(declared)

    assert {"a": [1]} == codec.decode(codec.encode(OrderedDict(a=[1])))


def circular() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    "value", [(1, 2), {1: "a"}, {"a": (1,)}, [b"planted"], {"planted": {1}}, circular(), [Decimal(1)], [10**5000]]
)
def test_json_refuses_what_would_come_back_as_something_else(value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        codec_for(dict).encode(value)

    assert "planted" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("declared", "value", "given_name"),
    [
        (str, b"planted", "bytes"),
        (bytes, "planted", "str"),
        (bytes, bytearray(b"planted"), "bytearray"),
        (bool, 1, "int"),
        (int, True, "bool"),
        (int, 1.0, "float"),
        (float, 1, "int"),
        (Decimal, 1.5, "float"),
        (date, datetime(2026, 1, 1), "datetime"),
        (datetime, date(2026, 1, 1), "date"),
        (timedelta, 5, "int"),
        (UUID, "planted", "str"),
        (Colour, "RED", "str"),
        (Colour, Level.LOW, "Level"),
        (Place, (1, 2), "tuple"),
        (str, None, "NoneType"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_names_of_both(declared: Any, value: Any, given_name: str) -> None:
    with pytest.raises(InvalidValue, match=f"declared {declared.__name__} was given as {given_name}") as caught:
        codec_for(declared).encode(value)

    assert "planted" not in str(caught.value)


def test_a_subclass_is_accepted_and_comes_back_as_the_declared_type() -> None:
    class Name(str):
        __slots__ = ()

    codec = codec_for(str)

    assert exact("Ana") == exact(codec.decode(codec.encode(Name("Ana"))))


def test_an_enum_is_stored_by_name() -> None:
    assert b"RED" == codec_for(Colour).encode(Colour.RED)


class Permission(enum.Flag):
    READ = 1


@pytest.mark.parametrize("declared", [None, object, complex, set, tuple[int, int], int | str, Permission, Any, "str"])
def test_an_unknown_type_is_refused_with_the_list_of_known_ones(declared: Any) -> None:
    with pytest.raises(MappingError, match="timedelta, UUID"):
        codec_for(declared)


def test_a_new_type_is_sealed_as_what_it_stands_for() -> None:
    assert codec_for(str) is codec_for(NewType("Email", str))
    with pytest.raises(MappingError, match="Number cannot be sealed"):
        codec_for(NewType("Number", complex))


def test_a_class_whose_own_packing_fails_shows_nothing_of_the_value() -> None:
    class Broken(Place):
        def pack(self) -> Any:
            raise ValueError(f"cannot pack planted {self.lat}")

    class Odd(Place):
        def pack(self) -> Any:
            return 16

    for declared in (Broken, Odd):
        with pytest.raises(InvalidValue) as caught:
            codec_for(declared).encode(declared(1.25, 2))
        assert "planted" not in str(caught.value)
        assert caught.value.__context__ is None


def test_text_that_utf8_cannot_write_comes_back_and_is_never_in_an_error() -> None:
    codec = codec_for(str)
    lone = json.loads('"\\ud83d"')

    assert lone == codec.decode(codec.encode(lone))
