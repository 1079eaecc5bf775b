"""A place on earth as one value: validated, comparable, 16 bytes wide, and silent in every text form."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

from privkit.errors import InvalidValue, SealedError

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

_PACKED = struct.Struct(">dd")
_RANGE = "A location needs a latitude from -90 to 90 and a longitude from -180 to 180, both finite degrees."


@dataclass(frozen=True, slots=True, init=False, repr=False)
class GeoPoint:
    """A latitude and a longitude in degrees (WGS 84), latitude first.

    Each place has one spelling: -0.0 is 0.0, longitude -180 is 180, and a pole has longitude 0. Raises
    InvalidValue for what is not a place on earth. (0, 0) is a place like any other.
    """

    lat: float
    lon: float

    def __init__(self, lat: float | Decimal, lon: float | Decimal) -> None:
        lat, lon = _degrees(lat), _degrees(lon)
        if not (-90 <= lat <= 90 and -180 <= lon <= 180):
            raise _outside(lat, lon)
        if abs(lat) == 90:
            lon = 0.0
        elif lon == -180:
            lon = 180.0
        # Adding 0.0 turns -0.0 into 0.0, and changes nothing else.
        object.__setattr__(self, "lat", lat + 0.0)
        object.__setattr__(self, "lon", lon + 0.0)

    def __repr__(self) -> str:
        return "GeoPoint(...)"

    def pack(self) -> bytes:
        """Return the 16 bytes of this point: two big-endian IEEE 754 doubles, latitude first."""
        return _PACKED.pack(self.lat, self.lon)

    @classmethod
    def unpack(cls, data: bytes) -> GeoPoint:
        """Return the point that ``pack`` wrote. Raises SealedError for bytes that hold no place."""
        try:
            return cls(*_PACKED.unpack(data))
        except (struct.error, InvalidValue):
            raise SealedError(
                "A stored location does not hold 16 bytes of latitude and longitude.",
                "It was damaged, or another field's bytes were put in its place.",
                "Restore the row, or erase the value.",
            ) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            _read, serialization=core_schema.plain_serializer_function_ser_schema(_as_mapping)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {
            "title": "GeoPoint",
            "type": "object",
            "properties": {
                "lat": {"type": "number", "minimum": -90, "maximum": 90, "description": "Latitude in degrees"},
                "lon": {"type": "number", "minimum": -180, "maximum": 180, "description": "Longitude in degrees"},
            },
            "required": ["lat", "lon"],
            "additionalProperties": False,
        }


def _degrees(value: Any) -> float:
    """Return ``value`` as a float; NaN, which no range admits, for what is not a number of degrees."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _outside(lat: float, lon: float) -> InvalidValue:
    if abs(lon) <= 90 < abs(lat) <= 180:
        return InvalidValue(
            _RANGE,
            "The two look swapped: GeoJSON and WKT put the longitude first, GeoPoint the latitude.",
            "Give GeoPoint(lat, lon), or by name: GeoPoint(lat=..., lon=...).",
        )
    return InvalidValue(_RANGE, "", "Give GeoPoint(lat, lon) in degrees, as numbers; None where the place is unknown.")


def _read(value: Any) -> GeoPoint:
    """Return the point in a GeoPoint, a mapping with ``lat`` and ``lon``, or a (lat, lon) pair."""
    if isinstance(value, GeoPoint):
        return value
    if isinstance(value, Mapping) and set(value) == {"lat", "lon"}:
        return GeoPoint(value["lat"], value["lon"])
    if isinstance(value, tuple | list) and len(value) == 2:
        return GeoPoint(*value)
    raise InvalidValue(
        "A location was given in a form that has no known axis order.",
        "Latitude and longitude could be swapped.",
        'Give a GeoPoint, {"lat": ..., "lon": ...} or a (lat, lon) pair of numbers.',
    )


def _as_mapping(point: GeoPoint) -> dict[str, float]:
    return {"lat": point.lat, "lon": point.lon}
