"""Places from the forms in which others keep them: WKT, GeoJSON, EWKB, GeoAlchemy2's values, and pairs.

WKT, EWKB and GeoJSON put the longitude first (OGC 06-103r4; RFC 7946 section 3.1.1), people who write two numbers
mostly the latitude; so a pair needs its order declared. Where a latitude outside -90 to 90 shows that two were
swapped, it is refused. Only WGS 84 (SRID 4326, or none given) is taken: metres of another grid are no degrees.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NoReturn

from privkit.errors import InvalidValue
from privkit.location.point import GeoPoint
from privkit.location.track import Fix, GeoTrack

Order = Literal["lat,lon", "lon,lat"]
WGS84 = 4326

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_PAIR = re.compile(rf"\s*\(?\s*({_NUMBER})\s*[,; ]\s*({_NUMBER})\s*\)?\s*")
_WKT = re.compile(r"\s*(?:SRID=(\d+)\s*;\s*)?(POINT|LINESTRING)\s*(ZM|Z|M)?\s*\(([^()]*)\)\s*", re.IGNORECASE)
_WGS84_NAMES = {
    f"{prefix}{name}" for prefix in ("", "urn:ogc:def:crs:") for name in ("EPSG:4326", "EPSG::4326", "OGC:1.3:CRS84")
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HAS_Z, _HAS_M, _HAS_SRID = 0x8000_0000, 0x4000_0000, 0x2000_0000


def from_pair(pair: Iterable[Any], *, order: Order) -> GeoPoint:
    """Return the point of two numbers of degrees in the declared ``order``. Raises InvalidValue."""
    first, second = _two(pair)
    if order == "lat,lon":
        return GeoPoint(first, second)
    if order == "lon,lat":
        return GeoPoint(second, first)
    raise InvalidValue("An axis order is one of two.", "", 'Give order="lat,lon" or order="lon,lat".')


def from_text(text: str, *, order: Order) -> GeoPoint:
    """Return the point of text such as ``"51.5, -0.1"`` in the declared ``order``. Raises InvalidValue."""
    match = _PAIR.fullmatch(text)
    if match is None:
        _refuse("text", "two numbers of degrees", "51.5, -0.1")
    return from_pair(map(float, match.groups()), order=order)


def from_pairs(pairs: Iterable[Iterable[Any]], *, order: Order) -> GeoTrack:
    """Return the track of a list of pairs, as a JSON column holds them. Raises InvalidValue."""
    return GeoTrack(from_pair(each, order=order) for each in pairs)


def from_wkt(text: str) -> GeoPoint | GeoTrack:
    """Return the GeoPoint of a POINT, or the GeoTrack of a LINESTRING; ``SRID=4326;`` may stand before it.

    Z is an altitude in metres and M seconds since 1970, as PostGIS has them in a trajectory; a POINT loses both, since
    a GeoPoint has none. Raises InvalidValue for another shape, an empty one, another SRID.
    """
    match = _WKT.fullmatch(text)
    if match is None:
        _refuse("WKT", "a POINT or LINESTRING with coordinates", "POINT(-0.1 51.5)")
    srid, kind, extra, inside = match.groups()
    _require_wgs84(int(srid) if srid else None)
    rows = [_numbers(each.split()) for each in inside.split(",")]
    names = "xy" + (extra or ("z" if len(rows[0]) == 3 else "")).lower()
    if any(len(row) != len(names) for row in rows) or (kind.upper() == "POINT" and len(rows) != 1):
        _refuse("WKT", "as many coordinates as its kind says", "POINT(-0.1 51.5)")
    return _shape(kind, (dict(zip(names, row, strict=True)) for row in rows))


def from_geojson(value: str | Mapping[str, Any]) -> GeoPoint | GeoTrack:
    """Return the GeoPoint of a Point, or the GeoTrack of a LineString, in a Feature or alone, as text or as read.

    A third coordinate is an altitude in metres. Raises InvalidValue for another shape or coordinate system.
    """
    found = _loaded(value) if isinstance(value, str) else value
    while isinstance(found, Mapping) and found.get("type") == "Feature":
        _require_known_crs(found)
        found = found.get("geometry")
    kind = found.get("type") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or kind not in ("Point", "LineString"):
        _refuse("GeoJSON", "a Point or LineString", '{"type": "Point", "coordinates": [-0.1, 51.5]}')
    _require_known_crs(found)
    rows = found.get("coordinates")
    rows = [rows] if kind == "Point" else rows
    if not isinstance(rows, list | tuple) or not all(
        isinstance(row, list | tuple) and 2 <= len(row) <= 3 for row in rows
    ):
        _refuse("GeoJSON", "positions of two or three numbers", '{"type": "Point", "coordinates": [-0.1, 51.5]}')
    return _shape(kind, (dict(zip("xyz", row, strict=False)) for row in rows))


def from_ewkb(value: bytes | memoryview | str) -> GeoPoint | GeoTrack:
    """Return the GeoPoint of a point, or the GeoTrack of a line string, in WKB or EWKB, as bytes or hexadecimal text.

    Z and M are taken as in ``from_wkt``. Raises InvalidValue for bytes that are none, another shape, another SRID.
    """
    kind: str = ""
    rows: list[dict[str, float]] = []
    try:
        kind, rows = _wkb(bytes.fromhex(value) if isinstance(value, str) else bytes(value))
    except InvalidValue:
        raise
    except (ValueError, struct.error, IndexError, KeyError):
        pass
    if not kind:
        _refuse("WKB", "one point or line string", "ST_AsEWKB(column)")
    return _shape(kind, rows)


def from_geoalchemy(value: Any) -> GeoPoint | GeoTrack | None:
    """Return the place in a GeoAlchemy2 WKBElement or WKTElement; None stays None.

    GeoAlchemy2 itself is not needed. Raises InvalidValue for anything else.
    """
    if value is None:
        return None
    data, srid = getattr(value, "data", None), getattr(value, "srid", -1)
    _require_wgs84(None if srid in (-1, 0) else srid)
    if isinstance(data, bytes | bytearray | memoryview):
        return from_ewkb(bytes(data))
    if not isinstance(data, str):
        _refuse("GeoAlchemy2", "a WKBElement or WKTElement", "row.geom")
    return from_ewkb(data) if re.fullmatch(r"[0-9A-Fa-f]+", data) else from_wkt(data)


def _shape(kind: str, rows: Iterable[Mapping[str, Any]]) -> GeoPoint | GeoTrack:
    fixes = [_fix(row) for row in rows]
    return fixes[0].point if kind.lower() == "point" else GeoTrack(fixes)


def _fix(row: Mapping[str, Any]) -> Fix:
    return Fix(GeoPoint(row["y"], row["x"]), _moment(row["m"]) if "m" in row else None, row.get("z"))


def _moment(seconds: float) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        refusal = InvalidValue("An M coordinate is no number of seconds since 1970.", "", "Leave M out: ST_Force2D.")
    raise refusal


def _numbers(words: list[str]) -> list[float]:
    if not words or not all(re.fullmatch(_NUMBER, word) for word in words):
        _refuse("WKT", "numbers", "POINT(-0.1 51.5)")
    return [float(word) for word in words]


def _two(pair: Iterable[Any]) -> tuple[Any, Any]:
    parts = () if isinstance(pair, str | bytes | Mapping) else tuple(pair)
    if len(parts) != 2:
        _refuse("pair", "two numbers of degrees", "(51.5, -0.1)")
    return parts[0], parts[1]


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _wkb(data: bytes) -> tuple[str, list[dict[str, float]]]:
    """Return the kind and the coordinates. Type numbers as in EWKB, with flags, or in ISO WKB, with thousands."""
    end = {0: ">", 1: "<"}[data[0]]
    (code,) = struct.unpack_from(f"{end}I", data, 1)
    at = 5
    if code & _HAS_SRID:
        _require_wgs84(*struct.unpack_from(f"{end}I", data, at))
        at += 4
    thousands, kind = divmod(code & 0x0FFF_FFFF, 1000)
    names = (
        "xy" + ("z" if code & _HAS_Z or thousands in (1, 3) else "") + ("m" if code & _HAS_M or thousands > 1 else "")
    )
    shape = {1: "point", 2: "linestring"}[kind]
    count = 1
    if kind == 2:
        (count,) = struct.unpack_from(f"{end}I", data, at)
        at += 4
    layout = struct.Struct(f"{end}{len(names)}d")
    if thousands > 3 or len(data) - at != count * layout.size:
        raise ValueError
    return shape, [dict(zip(names, row, strict=True)) for row in layout.iter_unpack(data[at:])]


def _require_wgs84(srid: int | None) -> None:
    if srid not in (None, 0, WGS84):
        raise InvalidValue(
            f"Coordinates came with SRID {srid}.",
            "Only degrees of WGS 84 (SRID 4326) are known here; those of another system would be another place.",
            f"Convert them where they are stored: ST_Transform(column, {WGS84}).",
            srid=srid,
        )


def _require_known_crs(value: Mapping[str, Any]) -> None:
    """GeoJSON before RFC 7946 could name another system."""
    crs = value.get("crs")
    if crs is None:
        return
    properties = crs.get("properties") if isinstance(crs, Mapping) else None
    name = properties.get("name") if isinstance(properties, Mapping) else None
    if name not in _WGS84_NAMES:
        _refuse("GeoJSON", 'no other "crs" than WGS 84', "ST_AsGeoJSON(ST_Transform(column, 4326))")


def _refuse(form: str, wanted: str, example: str) -> NoReturn:
    raise InvalidValue(
        f"A place given as {form} is not {wanted}.", "It cannot be told where it is.", f"Give {example}."
    )
