import math
import random
from typing import Any

import h3.api.basic_int as h3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privkit.errors import InvalidValue
from privkit.location.cells import EARTH_RADIUS, MAX_COVER, cell, cell_int, cover, metres_between
from privkit.location.point import GeoPoint

PENTAGONS = [h3.cell_to_latlng(pentagon) for pentagon in h3.get_pentagons(0)]


def moved(start: GeoPoint, metres: float, bearing: float) -> GeoPoint:
    """The place ``metres`` from ``start``, by vectors, so that nothing is shared with the code under test."""
    lat, lon, angle = math.radians(start.lat), math.radians(start.lon), metres / EARTH_RADIUS
    up = (math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat))
    north = (-math.sin(lat) * math.cos(lon), -math.sin(lat) * math.sin(lon), math.cos(lat))
    east = (-math.sin(lon), math.cos(lon), 0.0)
    x, y, z = (
        math.cos(angle) * u + math.sin(angle) * (math.cos(bearing) * n + math.sin(bearing) * e)
        for u, n, e in zip(up, north, east, strict=True)
    )
    return GeoPoint(math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x)))


def near(places: list[tuple[float, float]]) -> st.SearchStrategy[GeoPoint]:
    return st.builds(
        lambda place, metres, bearing: moved(GeoPoint(*place), metres, bearing),
        st.sampled_from(places),
        st.floats(0, 6).map(lambda exponent: 10**exponent - 1),
        st.floats(0, 2 * math.pi),
    )


hard = [(90, 0), (-90, 0), (0, 180), (60, 180), (-45, 179.9999), (0, 0)]
centres = st.one_of(
    st.builds(GeoPoint, st.floats(-90, 90), st.floats(-180, 180)),
    near([(float(lat), float(lon)) for lat, lon in hard]),
    near(PENTAGONS),
)


@settings(max_examples=400, deadline=None)
@given(centres, st.integers(0, 15), st.floats(0, 20), st.floats(0, 1), st.floats(0, 2 * math.pi))
def test_every_point_within_the_radius_lies_in_a_cell_of_the_cover(
    centre: GeoPoint, resolution: int, edges: float, share: float, bearing: float
) -> None:
    metres = edges * h3.average_hexagon_edge_length(resolution, unit="m")
    inside = moved(centre, share * metres, bearing)
    if metres_between(centre, inside) > metres:
        inside = centre
    assert cell_int(inside, resolution) in cover(centre, metres, resolution)


@pytest.mark.parametrize("resolution", range(16))
def test_the_cover_holds_at_pentagons_poles_and_the_antimeridian_on_every_bearing(resolution: int) -> None:
    chance = random.Random(resolution)
    edge = h3.average_hexagon_edge_length(resolution, unit="m")
    for place in [*PENTAGONS, *hard]:
        centre = moved(GeoPoint(*place), chance.uniform(0, 3) * edge, chance.uniform(0, 7))
        metres = chance.uniform(0, 6) * edge
        covered = cover(centre, metres, resolution)
        inside = [
            moved(centre, metres * math.sqrt(chance.random()) * 0.999999, chance.uniform(0, 7)) for _ in range(100)
        ]
        assert set() == {cell_int(point, resolution) for point in inside} - covered


def test_a_circle_that_only_reaches_over_a_corner_gets_the_cell_behind_it() -> None:
    # The largest cells have the farthest corners; among all of resolution 1 is one almost at a face's centre.
    cells = {child for base in h3.get_res0_cells() for child in h3.cell_to_children(base, 1)}
    for found in cells:
        middle = h3.cell_to_latlng(found)
        for corner in h3.cell_to_boundary(found):
            outside, inside = (
                GeoPoint(*(place + share * (m - place) for place, m in zip(corner, middle, strict=True)))
                for share in (-1e-6, 1e-6)
            )
            if abs(middle[1] - corner[1]) < 90 and cell_int(inside, 1) == found:
                assert found in cover(outside, metres_between(outside, inside), 1)


@settings(deadline=None)
@given(centres, st.integers(0, 15), st.floats(0, 10))
def test_no_cell_of_the_cover_is_farther_than_the_radius_and_two_corners(
    centre: GeoPoint, resolution: int, edges: float
) -> None:
    edge = h3.average_hexagon_edge_length(resolution, unit="m")
    spare = 1.3 * edge + 0.5
    for found in cover(centre, edges * edge, resolution):
        assert metres_between(centre, GeoPoint(*h3.cell_to_latlng(found))) <= edges * edge + spare


def test_a_small_circle_needs_few_cells() -> None:
    assert 12 <= len(cover(GeoPoint(51.5, -0.1), 500, 9)) <= 24
    assert len(cover(GeoPoint(51.5, -0.1), 500, 8)) <= 7


def test_a_radius_of_nothing_still_covers_its_centre() -> None:
    assert cell_int(GeoPoint(0, 0), 9) in cover(GeoPoint(0, 0), 0, 9)


def test_half_the_circumference_covers_the_earth() -> None:
    assert set(h3.get_res0_cells()) == cover(GeoPoint(12, 34), math.pi * EARTH_RADIUS, 0)
    assert 842 == len(cover(GeoPoint(12, 34), 10**400, 1))


@pytest.mark.parametrize("metres", [-1, -0.001, math.nan, math.inf, True, "500", None])
def test_a_radius_that_is_no_length_is_refused(metres: Any) -> None:
    with pytest.raises(InvalidValue, match="finite number of metres"):
        cover(GeoPoint(0, 0), metres, 9)


def test_a_radius_that_needs_too_many_cells_is_refused_with_the_limit_and_a_way_out() -> None:
    with pytest.raises(InvalidValue, match="4096 cells of resolution 9") as caught:
        cover(GeoPoint(51.5, -0.1), 50_000, 9)
    assert f"about {caught.value.data['limit']:.0f} m" in str(caught.value)
    assert len(cover(GeoPoint(51.5, -0.1), 50_000, caught.value.data["coarser"])) <= MAX_COVER
    assert "51.5" not in str(caught.value)


@pytest.mark.parametrize("resolution", [2, 3, 9, 15])
def test_the_limit_that_the_refusal_names_is_accepted_everywhere(resolution: int) -> None:
    with pytest.raises(InvalidValue) as caught:
        cover(GeoPoint(0, 0), 2e7, resolution)
    for place in [*PENTAGONS[:3], *hard[:3]]:
        assert len(cover(GeoPoint(*place), caught.value.data["limit"], resolution)) <= MAX_COVER


@pytest.mark.parametrize("resolution", [-1, 16, 7.0, True, None, "7"])
def test_a_resolution_that_h3_lacks_is_refused(resolution: Any) -> None:
    for use in (cell, cell_int, lambda point, level: cover(point, 1, level)):
        with pytest.raises(InvalidValue, match="whole number from 0"):
            use(GeoPoint(0, 0), resolution)


@pytest.mark.parametrize(
    ("point", "resolution", "published"),
    [
        (GeoPoint(40.689167, -74.044444), 10, "8a2a1072b59ffff"),  # H3's README
        (GeoPoint(37.769377, -122.388903), 9, "89283082e73ffff"),  # h3-py's README
    ],
)
def test_a_cell_is_the_hexadecimal_id_that_h3_publishes(point: GeoPoint, resolution: int, published: str) -> None:
    assert published == cell(point, resolution)


@given(centres, st.integers(0, 15))
def test_both_forms_of_a_cell_agree(point: GeoPoint, resolution: int) -> None:
    assert cell_int(point, resolution) == int(cell(point, resolution), 16)
    assert resolution == h3.get_resolution(cell_int(point, resolution))


def test_c27_a_point_at_zero_has_a_cell() -> None:
    assert "8075fffffffffff" == cell(GeoPoint(0, 0), 0)


def test_c26_both_sides_of_the_antimeridian_are_close() -> None:
    assert metres_between(GeoPoint(0, 179.999), GeoPoint(0, -179.999)) == pytest.approx(222.39, abs=0.01)
    assert 0 == metres_between(GeoPoint(5, 180), GeoPoint(5, -180))
    assert cell(GeoPoint(5, 180), 9) == cell(GeoPoint(5, -180), 9)


def test_distances_known_in_closed_form() -> None:
    assert metres_between(GeoPoint(90, 0), GeoPoint(-90, 0)) == pytest.approx(math.pi * EARTH_RADIUS)
    assert metres_between(GeoPoint(0, 0), GeoPoint(0, 90)) == pytest.approx(math.pi * EARTH_RADIUS / 2)
    assert metres_between(GeoPoint(0, 0), GeoPoint(1, 0)) == pytest.approx(math.radians(1) * EARTH_RADIUS)
    assert metres_between(GeoPoint(60, 0), GeoPoint(60, 180)) == pytest.approx(math.radians(60) * EARTH_RADIUS)


@given(centres, centres)
def test_distance_is_symmetric_and_never_beyond_the_antipode(a: GeoPoint, b: GeoPoint) -> None:
    assert metres_between(a, b) == pytest.approx(metres_between(b, a))
    assert 0 <= metres_between(a, b) <= math.pi * EARTH_RADIUS * (1 + 1e-15)
    assert 0 == metres_between(a, a)
