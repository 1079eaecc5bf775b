import copy
import math
import pickle
import subprocess
import sys
from decimal import Decimal
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from privkit.errors import InvalidValue, SealedError
from privkit.location.point import GeoPoint

points = st.builds(GeoPoint, st.floats(-90, 90), st.floats(-180, 180))


class Stop(BaseModel):
    place: GeoPoint
    other: Annotated[GeoPoint | None, "marker"] = None


@given(points)
def test_a_point_survives_packing_pickling_and_copying(point: GeoPoint) -> None:
    assert point == GeoPoint.unpack(point.pack())
    assert point == pickle.loads(pickle.dumps(point))  # noqa: S301
    assert point == copy.deepcopy(copy.copy(point))


@given(points)
def test_every_point_packs_to_sixteen_bytes(point: GeoPoint) -> None:
    assert 16 == len(point.pack())


def test_packing_is_two_big_endian_doubles_latitude_first() -> None:
    assert bytes.fromhex("3ff0000000000000c000000000000000") == GeoPoint(1, -2).pack()


@given(points)
def test_equal_points_have_equal_hashes(point: GeoPoint) -> None:
    assert hash(point) == hash(GeoPoint(point.lat, point.lon))
    assert {point} == {GeoPoint(point.lat, point.lon)}


@pytest.mark.parametrize("text", [repr, str, "{}".format, "%s".__mod__, "%r".__mod__])
def test_no_text_form_shows_the_place(text: Any) -> None:
    assert "GeoPoint(...)" == text(GeoPoint(51.5, -0.1))


def test_a_point_cannot_be_changed() -> None:
    point = GeoPoint(1, 2)
    with pytest.raises(AttributeError):
        point.lat = 3.0  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        point.note = "x"  # type: ignore[attr-defined]


@pytest.mark.parametrize("lat", [0, 0.0, -0.0, Decimal("0")])
@pytest.mark.parametrize("lon", [0, 0.0, -0.0, Decimal("-0")])
def test_c27_zero_is_a_place_and_minus_zero_is_zero(lat: Any, lon: Any) -> None:
    point = GeoPoint(lat, lon)
    assert GeoPoint(0.0, 0.0) == point
    assert bytes(16) == point.pack()
    assert point


@pytest.mark.parametrize("place", [(0, 36.8), (51.5, 0), (Decimal("51.5"), Decimal(0)), (-90, 0), (90, 180)])
def test_c27_one_zero_is_a_place_too(place: tuple[Any, Any]) -> None:
    assert GeoPoint(*place) == GeoPoint.unpack(GeoPoint(*place).pack())


@pytest.mark.parametrize(
    "bad",
    [math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), 10**400, True, "1", None, 1j],
)
def test_c27_what_is_not_a_finite_number_is_refused(bad: Any) -> None:
    for place in ((bad, 1.0), (1.0, bad)):
        with pytest.raises(InvalidValue):
            GeoPoint(*place)


@pytest.mark.parametrize("place", [(90.0001, 0), (-91, 0), (0, 180.0001), (0, -181), (200, 200)])
def test_what_lies_off_the_earth_is_refused(place: tuple[float, float]) -> None:
    with pytest.raises(InvalidValue, match="latitude from -90 to 90"):
        GeoPoint(*place)


def test_c21_swapped_order_is_named_and_no_coordinate_is() -> None:
    with pytest.raises(InvalidValue, match="swapped") as caught:
        GeoPoint(-122.4375, 37.7749)
    assert "122" not in str(caught.value)
    assert "37" not in str(caught.value)
    assert {} == caught.value.data


def test_c26_both_longitudes_of_the_antimeridian_are_one_place() -> None:
    assert GeoPoint(12, 180) == GeoPoint(12, -180)
    assert 180.0 == GeoPoint(12, -180).lon


@given(st.floats(-180, 180))
def test_a_pole_has_one_longitude(lon: float) -> None:
    assert GeoPoint(90, 0) == GeoPoint(90, lon)
    assert GeoPoint(-90, 0) == GeoPoint(-90, lon)


@pytest.mark.parametrize(
    "data", [b"", bytes(15), bytes(17), b"\xff" * 16, GeoPoint(9, 9).pack()[:8] + b"\x40\x80" + bytes(6)]
)
def test_bytes_that_hold_no_place_do_not_open(data: bytes) -> None:
    with pytest.raises(SealedError):
        GeoPoint.unpack(data)


@pytest.mark.parametrize("given_form", [GeoPoint(1, 2), {"lat": 1, "lon": 2}, (1, 2), [1.0, 2.0]])
def test_pydantic_reads_a_point_a_mapping_and_a_pair(given_form: Any) -> None:
    assert GeoPoint(1, 2) == Stop(place=given_form, other=given_form).other


def test_pydantic_writes_latitude_and_longitude_by_name() -> None:
    stop = Stop(place=GeoPoint(1, 2))
    assert {"place": {"lat": 1.0, "lon": 2.0}, "other": None} == stop.model_dump()
    assert '{"place":{"lat":1.0,"lon":2.0},"other":null}' == stop.model_dump_json()


@given(points)
def test_pydantic_json_round_trips(point: GeoPoint) -> None:
    assert point == Stop.model_validate_json(Stop(place=point).model_dump_json()).place


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_pydantic_has_a_json_schema(mode: Any) -> None:
    schema = Stop.model_json_schema(mode=mode)["properties"]["place"]
    assert ["lat", "lon"] == schema["required"]
    assert (-90, 180) == (schema["properties"]["lat"]["minimum"], schema["properties"]["lon"]["maximum"])


@pytest.mark.parametrize(
    "bad",
    ["51.4321,-0.9876", {"lat": 51.4321}, {"lat": 1, "lon": 2, "x": 51.4321}, (1, 2, 51.4321), (951.4321, 2), 51.4321],
)
def test_pydantic_refuses_other_forms_in_words_without_the_value(bad: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Stop(place=bad)
    (error,) = caught.value.errors(include_input=False)
    assert "PK501" in error["msg"]
    assert "4321" not in error["msg"]
    assert "4321" not in str(error["ctx"])


def test_a_point_needs_no_pydantic_to_be_imported() -> None:
    code = "import sys, privkit.location; sys.exit('pydantic' in sys.modules or 'pydantic_core' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
