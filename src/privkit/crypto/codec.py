"""The bytes of a Python value, for sealing, and the same value of the declared type back.

bool (1 byte), date (4), float (8), time (11), timedelta (12), datetime (14) and UUID (16) have a constant length, so
an envelope's length says nothing about them. The others grow with the value.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, InvalidOperation
from enum import Enum, Flag
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, is_typeddict
from uuid import UUID

from privkit.errors import InvalidValue, MappingError, PrivkitError, SealedError

SUPPORTED = (
    "str, bytes, bool, int, float, Decimal, date, time, datetime, timedelta, UUID, an Enum (by name), "
    "dict or list of JSON values, a Literal of one type, a pydantic model (as JSON), SecretStr, SecretBytes, "
    "or a class with pack(self) -> bytes and a class method unpack(bytes)"
)

_MICROSECOND = timedelta(microseconds=1)
_JSON = (dict, list)
# The application's own decimal context might turn malformed text into NaN instead of refusing it.
_STRICT = Context(traps=[InvalidOperation])


class Codec(Protocol):
    """Turns a value into bytes and back.

    ``declared``, ``quick_encode`` and ``quick_decode`` are for loops: they give the same for a value whose type is
    exactly ``declared`` and for bytes that ``encode`` made, and otherwise raise anything. Then ask the slower ones.
    """

    declared: type
    quick_encode: Callable[[Any], bytes]
    quick_decode: Callable[[bytes], Any]

    def encode(self, value: Any) -> bytes:
        """Return the bytes of ``value``. Raises InvalidValue when it is not of the declared type."""
        ...

    def decode(self, data: bytes) -> Any:
        """Return the value. Raises SealedError for bytes that ``encode`` did not make."""
        ...


def codec_for(python_type: Any) -> Codec:
    """Return the codec of a declared type. Raises MappingError for a type that cannot be sealed."""
    plain = _plain(python_type)
    declared = get_origin(plain) or plain
    if (declared in _JSON or is_typeddict(declared)) and is_json(plain):
        return _json_codec
    if isinstance(declared, type):
        if declared in _CODECS:
            return _CODECS[declared]
        if issubclass(declared, Enum) and not issubclass(declared, Flag):
            return _TypeCodec(declared, _encode_enum, lambda data: declared[data.decode()])
        if is_document(declared):
            return _document_codec(declared)
        if is_secret(declared):
            return _secret_codec(declared)
        if callable(getattr(declared, "pack", None)) and callable(getattr(declared, "unpack", None)):
            return _TypeCodec(declared, _pack, declared.unpack)  # type: ignore[attr-defined]
    raise MappingError(
        f"{_name(python_type)} cannot be sealed.",
        "privkit does not know how to write it as bytes and read the same value back.",
        f"Declare one of: {SUPPORTED}.",
        python_type=_name(python_type),
    )


def is_document(python_type: Any) -> bool:
    """Whether a declared type is a pydantic model, or writes and reads JSON by the same two methods."""
    return isinstance(python_type, type) and all(
        callable(getattr(python_type, name, None)) for name in ("model_dump_json", "model_validate_json")
    )


def is_secret(python_type: Any) -> bool:
    """Whether a declared type is pydantic's SecretStr or SecretBytes."""
    return isinstance(python_type, type) and _secret_base(python_type) is not None


def _plain(python_type: Any) -> Any:
    """The type that a NewType, a type alias, an Annotated or a Literal of one type stands for."""
    while True:
        if type(python_type).__name__ == "TypeAliasType":
            python_type = python_type.__value__
        elif get_origin(python_type) is Annotated:
            python_type = get_args(python_type)[0]
        elif hasattr(python_type, "__supertype__"):
            python_type = python_type.__supertype__
        elif get_origin(python_type) is Literal:
            kinds = {type(value) for value in get_args(python_type)}
            return kinds.pop() if len(kinds) == 1 else python_type
        else:
            return python_type


def is_json(python_type: Any) -> bool:
    """Whether values of a declared type are JSON as they are: scalars, and what dict and list hold of them."""
    declared = _plain(python_type)
    if declared in (Any, object, NoneType, str, int, float, bool) or isinstance(declared, TypeVar):
        return True
    container = get_origin(declared) or declared
    if container in (Union, UnionType, *_JSON):
        return all(map(is_json, get_args(declared)))
    return is_typeddict(container)


class _TypeCodec:
    """A codec of one type. ``but_not``: subclasses whose values are not of the type in a reader's eyes."""

    __slots__ = ("_but_not", "_name", "declared", "quick_decode", "quick_encode")

    def __init__(
        self,
        declared: type,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        but_not: tuple[type, ...] = (),
        name: str = "",
    ) -> None:
        self._name = name or declared.__name__
        self.declared, self.quick_encode, self.quick_decode, self._but_not = declared, encode, decode, but_not

    def encode(self, value: Any) -> bytes:
        if type(value) is not self.declared:
            self._require_instance(value)
        try:
            return self.quick_encode(value)
        except PrivkitError:
            raise
        except Exception:
            refusal = InvalidValue(f"A value declared {self._name} could not be written as bytes.")
        raise refusal  # out here, so that the original error, which may hold the value, is not chained

    def decode(self, data: bytes) -> Any:
        try:
            return self.quick_decode(data)
        except Exception:
            refusal = SealedError(
                f"A sealed value opened, but its bytes are no {self._name}.",
                "It was sealed when the field had another type, or by other code.",
                "Declare the type it was sealed with, read, and write it again as the new type.",
                declared=self._name,
            )
        raise refusal  # out here, so that the original error, which may hold the value, is not chained

    def _require_instance(self, value: Any) -> None:
        if isinstance(value, self.declared) and not isinstance(value, self._but_not):
            return
        declared, given = self._name, type(value).__name__
        raise InvalidValue(
            f"A value declared {declared} was given as {given}.",
            "What is sealed must come back as the declared type.",
            f"Convert it to {declared}, or declare {given}.",
            declared=declared,
            given=given,
        )


def _name(python_type: Any) -> str:
    return python_type.__name__ if isinstance(python_type, type) else str(python_type)


def _fixed(layout: str, data: bytes) -> tuple[Any, ...]:
    return struct.unpack(layout, data)


def _encode_text(value: str) -> bytes:
    return str.encode(value, "utf-8", "surrogatepass")


def _decode_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _decode_bool(data: bytes) -> bool:
    return {b"\0": False, b"\1": True}[data]


def _encode_int(value: int) -> bytes:
    return int.to_bytes(value, value.bit_length() // 8 + 1, "big", signed=True)


def _decode_int(data: bytes) -> int:
    if not data:
        raise ValueError
    return int.from_bytes(data, "big", signed=True)


def _pack(value: Any) -> bytes:
    packed = value.pack()
    if not isinstance(packed, bytes):
        raise TypeError
    return packed


def _document_codec(declared: Any) -> Codec:
    """Aliases, excluded fields and custom serialisers may lose data, so what is written is read once, too."""

    def encode(value: Any) -> bytes:
        data: bytes = value.model_dump_json(by_alias=True, round_trip=True).encode()
        if declared.model_validate_json(data) != value:
            raise InvalidValue(
                f"A {declared.__name__} does not come back from its own JSON as it was.",
                "What is sealed must come back.",
                "Give its fields JSON types, one alias for reading and writing, and no exclude; store it as its class.",
                declared=declared.__name__,
            )
        return data

    return _TypeCodec(declared, encode, declared.model_validate_json)


def _secret_base(declared: type) -> str | None:
    names = (base.__name__ for base in declared.__mro__ if base.__module__ == "pydantic.types")
    return next((name for name in names if name in ("SecretStr", "SecretBytes")), None)


def _secret_codec(declared: Any) -> Codec:
    inner = _CODECS[str if _secret_base(declared) == "SecretStr" else bytes]
    return _TypeCodec(
        declared,
        lambda value: inner.encode(value.get_secret_value()),
        lambda data: declared(inner.decode(data)),
    )


def _encode_enum(value: Enum) -> bytes:
    return value.name.encode()


# Times: microseconds on the clock face | 1 for an offset, 2 for fold | the offset's microseconds.


def _encode_zone(value: datetime | time) -> bytes:
    offset = value.utcoffset()
    if offset is None and value.tzinfo is not None:
        raise InvalidValue(
            "A time has a zone whose offset depends on the day.",
            "The offset would be lost.",
            "Give a datetime, or a time with a fixed offset.",
        )
    flags = (offset is not None) | value.fold << 1
    return bytes((flags,)) + ((offset or timedelta()) // _MICROSECOND).to_bytes(5, "big", signed=True)


def _decode_zone(data: bytes) -> tuple[tzinfo | None, int]:
    if len(data) != 6 or data[0] > 3:
        raise ValueError
    offset = int.from_bytes(data[1:], "big", signed=True) * _MICROSECOND
    return (timezone(offset) if data[0] & 1 else None), data[0] >> 1


def _encode_time(value: time) -> bytes:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return (seconds * 1_000_000 + value.microsecond).to_bytes(5, "big") + _encode_zone(value)


def _decode_time(data: bytes) -> time:
    zone, fold = _decode_zone(data[5:])
    seconds, microsecond = divmod(int.from_bytes(data[:5], "big"), 1_000_000)
    minutes, second = divmod(seconds, 60)
    return time(*divmod(minutes, 60), second, microsecond, zone, fold=fold)


def _encode_datetime(value: datetime) -> bytes:
    face = value.replace(tzinfo=None) - datetime.min
    return (face // _MICROSECOND).to_bytes(8, "big") + _encode_zone(value)


def _decode_datetime(data: bytes) -> datetime:
    zone, fold = _decode_zone(data[8:])
    face = datetime.min + int.from_bytes(data[:8], "big") * _MICROSECOND
    return face.replace(tzinfo=zone, fold=fold)


def _decode_timedelta(data: bytes) -> timedelta:
    days, seconds, microseconds = _fixed(">iII", data)
    return timedelta(days, seconds, microseconds)


def _encode_json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    _require_json(value)
    return _encode_text(text)


def _require_json(value: Any) -> None:
    """Refuse what the JSON writer would quietly turn into something else: tuples, and keys that are not text."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidValue(f"A JSON object was given a key of type {type(key).__name__}; keys are str.")
            _require_json(item)
    elif isinstance(value, list):
        for item in value:
            _require_json(item)
    elif not isinstance(value, str | int | float | None):
        raise InvalidValue(f"JSON has no {type(value).__name__}; it would come back as another type.")


def _decode_json(data: bytes) -> Any:
    return json.loads(_decode_text(data))


_json_codec = _TypeCodec(object, _encode_json, _decode_json, name="JSON")
_CODECS: dict[type, Codec] = {
    str: _TypeCodec(str, _encode_text, _decode_text),
    bytes: _TypeCodec(bytes, bytes, bytes),
    bool: _TypeCodec(bool, lambda value: b"\1" if value else b"\0", _decode_bool),
    int: _TypeCodec(int, _encode_int, _decode_int, but_not=(bool,)),
    float: _TypeCodec(float, struct.Struct(">d").pack, lambda data: _fixed(">d", data)[0]),
    Decimal: _TypeCodec(
        Decimal, lambda value: str(value).encode(), lambda data: Decimal(data.decode("ascii"), _STRICT)
    ),
    date: _TypeCodec(
        date,
        lambda value: value.toordinal().to_bytes(4, "big"),
        lambda data: date.fromordinal(_fixed(">I", data)[0]),
        but_not=(datetime,),
    ),
    time: _TypeCodec(time, _encode_time, _decode_time),
    datetime: _TypeCodec(datetime, _encode_datetime, _decode_datetime),
    timedelta: _TypeCodec(
        timedelta,
        lambda value: struct.pack(">iII", value.days, value.seconds, value.microseconds),
        _decode_timedelta,
    ),
    UUID: _TypeCodec(UUID, lambda value: value.bytes, lambda data: UUID(bytes=data)),
}
