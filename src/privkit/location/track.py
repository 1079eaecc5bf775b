"""A track as one value: where somebody was, in order, with times, altitudes and accuracies where they are known."""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from privkit.clock import as_utc
from privkit.errors import InvalidValue, SealedError
from privkit.location.point import GeoPoint

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

BLOCK = 32
"""A track is stored in whole blocks of so many fixes: its length tells the number of blocks and no more."""

_HEADER = struct.Struct(">BI")
_FIX = struct.Struct(">16sqdd")
_VERSION = 1
_LARGEST = sys.float_info.max
_UNTIMED = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PARTS = {"lat", "lon", "at", "altitude", "accuracy"}


@dataclass(frozen=True, slots=True, repr=False)
class Fix:
    """One point of a track. ``at`` is an aware datetime, kept in UTC; ``altitude`` and ``accuracy`` are metres.

    Raises InvalidValue for metres that are not finite or an accuracy below 0, ClockError for a time without a zone.
    """

    point: GeoPoint
    at: datetime | None = None
    altitude: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.point, GeoPoint) or not isinstance(self.at, datetime | None):
            raise InvalidValue(
                "A fix needs a GeoPoint, and a datetime or None.", "", "Give Fix(GeoPoint(lat, lon), at)."
            )
        object.__setattr__(self, "at", None if self.at is None else as_utc(self.at))
        object.__setattr__(self, "altitude", _metres(self.altitude, lowest=-_LARGEST))
        object.__setattr__(self, "accuracy", _metres(self.accuracy, lowest=0))

    def __repr__(self) -> str:
        return "Fix(...)"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class GeoTrack:
    """Fixes in the order in which they were given; a bare GeoPoint becomes a fix without a time.

    It is sealed, read and purged as one value, so start, end and shape go together.
    """

    fixes: tuple[Fix, ...]

    def __init__(self, fixes: Iterable[Fix | GeoPoint] = ()) -> None:
        given = tuple(each if isinstance(each, Fix) else Fix(each) for each in fixes)
        object.__setattr__(self, "fixes", given)

    def __repr__(self) -> str:
        return "GeoTrack(...)"

    def __len__(self) -> int:
        return len(self.fixes)

    def __iter__(self) -> Iterator[Fix]:
        return iter(self.fixes)

    @property
    def points(self) -> tuple[GeoPoint, ...]:
        """The places alone."""
        return tuple(each.point for each in self.fixes)

    def pack(self) -> bytes:
        """Return a version, the number of fixes, and the fixes at 40 bytes each, filled up to whole blocks."""
        body = b"".join(_packed(each) for each in self.fixes)
        blocks = max(1, -(-len(self.fixes) // BLOCK))
        return _HEADER.pack(_VERSION, len(self.fixes)) + body.ljust(blocks * BLOCK * _FIX.size, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> GeoTrack:
        """Return the track that ``pack`` wrote. Raises SealedError for bytes that hold none."""
        try:
            _, count = _HEADER.unpack_from(data)
            end = _HEADER.size + count * _FIX.size
            found = cls(_unpacked(each) for each in _FIX.iter_unpack(data[_HEADER.size : end]))
            whole = found.pack() == data
        except (struct.error, ValueError, OverflowError, SealedError):
            whole = False
        if whole:
            return found
        raise SealedError(
            "A stored track does not hold blocks of fixes.",
            "It was damaged, or another field's bytes were put in its place.",
            "Restore the row, or erase the value.",
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            _read, serialization=core_schema.plain_serializer_function_ser_schema(_as_list)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        metres = {"type": ["number", "null"], "description": "Metres"}
        return {
            "title": "GeoTrack",
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "lat": {"type": "number", "minimum": -90, "maximum": 90, "description": "Latitude in degrees"},
                    "lon": {"type": "number", "minimum": -180, "maximum": 180, "description": "Longitude in degrees"},
                    "at": {"type": ["string", "null"], "format": "date-time"},
                    "altitude": metres,
                    "accuracy": {**metres, "minimum": 0},
                },
                "required": ["lat", "lon"],
                "additionalProperties": False,
            },
        }


def _metres(value: float | None, *, lowest: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= _LARGEST:
        raise InvalidValue(
            "An altitude and an accuracy are finite metres, an accuracy 0 or more.",
            "",
            "Give None where it is unknown.",
        )
    return value + 0.0


def _packed(fix: Fix) -> bytes:
    moment = _UNTIMED if fix.at is None else (fix.at - _EPOCH) // _MICROSECOND
    altitude, accuracy = (math.nan if each is None else each for each in (fix.altitude, fix.accuracy))
    return _FIX.pack(fix.point.pack(), moment, altitude, accuracy)


def _unpacked(parts: tuple[bytes, int, float, float]) -> Fix:
    place, moment, *metres = parts
    altitude, accuracy = (None if math.isnan(each) else each for each in metres)
    at = None if moment == _UNTIMED else _EPOCH + moment * _MICROSECOND
    return Fix(GeoPoint.unpack(place), at, altitude, accuracy)


def _read(value: Any) -> GeoTrack:
    """Return the track in a GeoTrack, or in a list of GeoPoints, fixes and mappings with ``lat`` and ``lon``."""
    if isinstance(value, GeoTrack):
        return value
    if isinstance(value, list | tuple) and all(map(_is_fix, value)):
        return GeoTrack(_fix(each) for each in value)
    raise InvalidValue(
        "A track was given in a form that has no known axis order.",
        "Latitude and longitude could be swapped.",
        'Give a GeoTrack, or a list of {"lat": ..., "lon": ...} with "at", "altitude" and "accuracy" where known.',
    )


def _is_fix(value: Any) -> bool:
    return isinstance(value, GeoPoint | Fix) or (isinstance(value, Mapping) and {"lat", "lon"} <= set(value) <= _PARTS)


def _fix(value: Any) -> Fix | GeoPoint:
    if not isinstance(value, Mapping):
        return value  # type: ignore[no-any-return]
    at = value.get("at")
    if isinstance(at, str):
        at = _moment(at)
    return Fix(GeoPoint(value["lat"], value["lon"]), at, value.get("altitude"), value.get("accuracy"))


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        refusal = InvalidValue(
            "A fix has a time that is no ISO 8601 date and time.", "", 'Give "2026-03-01T12:00:00Z".'
        )
    raise refusal  # out here, so that the original error, which holds the text, is not chained


def _as_list(track: GeoTrack) -> list[dict[str, Any]]:
    """The fixes as mappings, with what is known of each."""
    return [
        {
            "lat": fix.point.lat,
            "lon": fix.point.lon,
            **{name: found for name in ("at", "altitude", "accuracy") if (found := getattr(fix, name)) is not None},
        }
        for fix in track
    ]
