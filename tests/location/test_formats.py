import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.errors import InvalidValue
from privkit.location import Fix, GeoPoint, GeoTrack, cell
from privkit.location.formats import (
    from_ewkb,
    from_geoalchemy,
    from_geojson,
    from_pair,
    from_pairs,
    from_text,
    from_wkt,
)

PLACE = GeoPoint(37.77, -122.42)
POINT_WITH_SRID = "0101000020E61000007B14AE47E19A5EC0C3F5285C8FE24240"
"""What PostGIS gives for ST_SetSRID(ST_MakePoint(-122.42, 37.77), 4326)."""


class Element:
    """A value of GeoAlchemy2, of which nothing but these two attributes is used."""

    def __init__(self, data: Any, srid: int = -1) -> None:
        self.data, self.srid = data, srid


def wkb(code: int, *numbers: float, count: int | None = None, srid: int | None = None, end: str = "<") -> bytes:
    head = struct.pack(f"{end}BI", end == "<", code)
    parts = b"".join(struct.pack(f"{end}I", each) for each in (srid, count) if each is not None)
    return head + parts + struct.pack(f"{end}{len(numbers)}d", *numbers)


SPELLINGS: dict[str, Any] = {
    "GeoJSON": lambda: from_geojson({"type": "Point", "coordinates": [-122.42, 37.77]}),
    "GeoJSON text": lambda: from_geojson('{"type": "Point", "coordinates": [-122.42, 37.77, 15]}'),
    "GeoJSON feature": lambda: from_geojson(
        {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": (-122.42, 37.77)}}
    ),
    "WKT": lambda: from_wkt("POINT(-122.42 37.77)"),
    "WKT Z": lambda: from_wkt(" point z ( -122.42  37.77 15 ) "),
    "EWKT": lambda: from_wkt("SRID=4326;POINT(-122.42 37.77)"),
    "EWKB hex": lambda: from_ewkb(POINT_WITH_SRID),
    "EWKB bytes": lambda: from_ewkb(bytes.fromhex(POINT_WITH_SRID)),
    "WKB": lambda: from_ewkb(memoryview(wkb(1, -122.42, 37.77))),
    "WKB big-endian": lambda: from_ewkb(wkb(1, -122.42, 37.77, end=">")),
    "WKB ISO ZM": lambda: from_ewkb(wkb(3001, -122.42, 37.77, 1, 2)),
    "EWKB Z": lambda: from_ewkb(wkb(0x8000_0001, -122.42, 37.77, 1)),
    "GeoAlchemy2 WKB": lambda: from_geoalchemy(Element(memoryview(wkb(1, -122.42, 37.77)), 4326)),
    "GeoAlchemy2 EWKB hex": lambda: from_geoalchemy(Element(POINT_WITH_SRID, 4326)),
    "GeoAlchemy2 WKT": lambda: from_geoalchemy(Element("POINT(-122.42 37.77)")),
    "text": lambda: from_text("37.77,-122.42", order="lat,lon"),
    "text in brackets": lambda: from_text("( -122.42; 37.77 )", order="lon,lat"),
    "pair": lambda: from_pair((37.77, -122.42), order="lat,lon"),
    "swapped pair": lambda: from_pair([Decimal("-122.42"), Decimal("37.77")], order="lon,lat"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_c21_every_spelling_of_a_place_gives_one_point_and_one_cell(spelling: str) -> None:
    found = SPELLINGS[spelling]()
    assert PLACE == found
    assert cell(PLACE, 9) == cell(found, 9)


@pytest.mark.parametrize(
    "swapped",
    [
        lambda: from_geojson({"type": "Point", "coordinates": [37.77, -122.42]}),
        lambda: from_wkt("POINT(37.77 -122.42)"),
        lambda: from_ewkb(wkb(1, 37.77, -122.42)),
        lambda: from_text("-122.42,37.77", order="lat,lon"),
        lambda: from_pair((37.77, -122.42), order="lon,lat"),
        lambda: from_pairs([(37.77, -122.42)], order="lon,lat"),
    ],
)
def test_c21_a_latitude_that_is_none_is_refused_as_swapped(swapped: Any) -> None:
    with pytest.raises(InvalidValue, match="look swapped") as caught:
        swapped()
    assert "122" not in str(caught.value)


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_every_place_comes_back_from_every_form(lat: float, lon: float) -> None:
    expected = GeoPoint(lat, lon)
    assert expected == from_wkt(f"POINT({lon!r} {lat!r})")
    assert expected == from_geojson({"type": "Point", "coordinates": [lon, lat]})
    assert expected == from_ewkb(wkb(1, lon, lat).hex())
    assert expected == from_text(f"{lat!r}, {lon!r}", order="lat,lon")


def test_c30_the_same_track_comes_from_a_linestring_a_list_and_geojson() -> None:
    track = GeoTrack([GeoPoint(1, 2), GeoPoint(3, 4)])
    assert track == from_wkt("LINESTRING(2 1, 4 3)")
    assert track == from_ewkb(wkb(2, 2, 1, 4, 3, count=2))
    assert track == from_ewkb(wkb(0x2000_0002, 2, 1, 4, 3, count=2, srid=4326))
    assert track == from_geojson({"type": "LineString", "coordinates": [[2, 1], [4, 3]]})
    assert track == from_pairs([[1, 2], [3, 4]], order="lat,lon")
    assert track == from_pairs([(2, 1), (4, 3)], order="lon,lat")


def test_c30_altitudes_and_times_of_a_track_are_kept() -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    seconds = moment.timestamp()
    timed = GeoTrack([Fix(GeoPoint(1, 2), moment, 30)])
    assert timed == from_wkt(f"LINESTRING ZM(2 1 30 {seconds:.0f})")
    assert timed == from_ewkb(wkb(3002, 2, 1, 30, seconds, count=1))
    assert timed == from_ewkb(wkb(0xC000_0002, 2, 1, 30, seconds, count=1))
    assert GeoTrack([Fix(GeoPoint(1, 2), moment)]) == from_wkt(f"LINESTRING M(2 1 {seconds:.0f})")
    assert GeoTrack([Fix(GeoPoint(1, 2), None, 30)]) == from_geojson(
        {"type": "LineString", "coordinates": [[2, 1, 30]]}
    )


@pytest.mark.parametrize(
    "other",
    [
        lambda: from_wkt("SRID=3857;POINT(1 2)"),
        lambda: from_ewkb(wkb(0x2000_0001, 1, 2, srid=27700)),
        lambda: from_geoalchemy(Element("POINT(1 2)", 3857)),
        lambda: from_geojson({"type": "Point", "coordinates": [1, 2], "crs": {"properties": {"name": "EPSG:27700"}}}),
        lambda: from_geojson(
            {"type": "Feature", "crs": {"type": "link"}, "geometry": {"type": "Point", "coordinates": [1, 2]}}
        ),
    ],
)
def test_degrees_of_another_system_are_refused(other: Any) -> None:
    with pytest.raises(InvalidValue, match="ST_Transform"):
        other()


@pytest.mark.parametrize(
    "broken",
    [
        *(
            lambda text=text: from_wkt(text)
            for text in (
                "",
                "POINT EMPTY",
                "POINT()",
                "POINT(7.125)",
                "POINT(7.125 2, 3 4)",
                "POINT Z(7.125 2)",
                "POINT(7.125 nan)",
                "POLYGON((7.125 2, 3 4, 5 6, 7.125 2))",
                "LINESTRING(7.125 2, 3 4 5)",
                "LINESTRING M(7.125 2 1e300)",
                "POINT(7.125 2 3 4 5)",
                "POINT(7.125 2) x",
            )
        ),
        *(
            lambda value=value: from_geojson(value)
            for value in (
                "",
                "null",
                "[7.125, 2]",
                "{",
                '{"type": "Point"}',
                {"type": "Point", "coordinates": [7.125]},
                {"type": "Point", "coordinates": [7.125, None]},
                {"type": "Point", "coordinates": "7.125"},
                {"type": "LineString", "coordinates": [7.125, 2]},
                {"type": "Polygon", "coordinates": [[[7.125, 2]]]},
                {"type": "Feature", "geometry": None},
                {"type": "Point", "coordinates": ["7.125", "2"]},
            )
        ),
        *(
            lambda data=data: from_ewkb(data)
            for data in (
                b"",
                "",
                "planted",
                "0",
                b"\2" + wkb(1, 7.125, 2)[1:],
                wkb(1, 7.125),
                wkb(1, 7.125, 2) + b"\0",
                wkb(3, 7.125, 2),
                wkb(2, 7.125, 2, count=9),
                wkb(4001, 7.125, 2),
                wkb(1, float("nan"), float("nan")),
                wkb(1001, 7.125, 2),
            )
        ),
        *(
            lambda text=text: from_text(text, order="lat,lon")
            for text in ("", "7.125", "7.125 2 3", "a,b", "nan,nan", "7,125,2,5")
        ),
        *(
            lambda pair=pair: from_pair(pair, order="lat,lon")
            for pair in ((7.125,), "7.125", {7.125: 1, 2: 3}, ("7.125", "2"))
        ),
        *(lambda value=value: from_geoalchemy(value) for value in (7.125, Element(7.125), Element(None))),
        lambda: from_pair((7.125, 2), order="x,y"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_place_is_refused_and_not_repeated(broken: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        broken()
    assert "7.125" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_none_of_geoalchemy_stays_none() -> None:
    assert from_geoalchemy(None) is None
