import math
from pathlib import Path
from typing import Any

import h3.api.basic_int as h3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from privkit.errors import InvalidValue, PurposeError
from privkit.location import (
    MAX_COVER,
    Box,
    GeoPoint,
    Polygon,
    cell_int,
    circle_area,
    cover,
    cover_box,
    cover_cost,
    cover_polygon,
    within_box,
    within_polygon,
)
from privkit.location.cells import EARTH_RADIUS, destination
from tests.sqlalchemy.rides import SIGN_UP, Clock, Rider, ride_service, rider

HALF_THE_EARTH = 2 * math.pi * EARTH_RADIUS**2
hard = st.sampled_from([GeoPoint(90, 0), GeoPoint(-90, 0), GeoPoint(0, 180), GeoPoint(60, 180), GeoPoint(0, 0)])
centres = st.one_of(st.builds(GeoPoint, st.floats(-90, 90), st.floats(-180, 180)), hard)
shares = st.floats(0, 1)


def edge(resolution: int) -> float:
    return float(h3.average_hexagon_edge_length(resolution, unit="m"))


@st.composite
def boxes(draw: st.DrawFn, resolution: int) -> Box:
    centre, degrees = draw(centres), math.degrees(edge(resolution) / EARTH_RADIUS)
    south = max(-90, centre.lat - draw(st.floats(0, 6)) * degrees)
    north = min(90, centre.lat + draw(st.floats(0, 6)) * degrees)
    wide = min(360, draw(st.floats(0, 12)) * degrees / max(0.01, math.cos(math.radians(centre.lat))))
    west = GeoPoint(0, centre.lon).lon
    return Box(south, west, north, math.remainder(west + wide, 360)) if wide < 360 else Box(south, -180, north, 180)


@st.composite
def polygons(draw: st.DrawFn, resolution: int) -> Polygon:
    """Rings round a middle whose corners lie at any distance, so that they are stars, not convex."""
    centre, count = draw(centres), draw(st.integers(3, 8))
    distances = draw(st.lists(st.floats(0.05, 1), min_size=count, max_size=count))
    size = min(draw(st.floats(0.01, 8)) * edge(resolution), EARTH_RADIUS)
    return Polygon(
        destination(centre, share * size, 2 * math.pi * number / count) for number, share in enumerate(distances)
    )


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 15), shares, shares)
def test_every_point_of_a_box_lies_in_a_cell_of_its_cover(data: Any, resolution: int, up: float, along: float) -> None:
    box = data.draw(boxes(resolution))
    inside = GeoPoint(box.south + up * (box.north - box.south), math.remainder(box.west + along * box.width, 360))
    if not box.holds(inside):  # rounded out of it
        inside = box.middle
    assert cell_int(inside, resolution) in cover_box(box, resolution)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 15), shares, st.integers(0, 7), shares)
def test_every_point_of_a_polygon_lies_in_a_cell_of_its_cover(
    data: Any, resolution: int, along: float, side: int, inward: float
) -> None:
    polygon = data.draw(polygons(resolution))
    ring = polygon.corners
    near = between(ring[side % len(ring)], ring[(side + 1) % len(ring)], along)
    inside = between(near, between(ring[0], ring[1], 0.5), inward**4)
    covered = cover_polygon(polygon, resolution)
    assert cell_int(near, resolution) in covered
    assert not polygon.holds(inside) or cell_int(inside, resolution) in covered


def between(a: GeoPoint, b: GeoPoint, share: float) -> GeoPoint:
    """The place on the great circle from ``a`` to ``b``, near enough for what is less than a radian apart."""
    ends = []
    for point in (a, b):
        lat, lon = math.radians(point.lat), math.radians(point.lon)
        ends.append((math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)))
    x, y, z = (one + share * (two - one) for one, two in zip(*ends, strict=True))
    return GeoPoint(math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x)))


@given(st.data(), st.integers(2, 12))
def test_no_cell_of_a_cover_is_far_from_the_region(data: Any, resolution: int) -> None:
    box = data.draw(boxes(resolution))
    limit = math.sin((1.3 * edge(resolution) + 0.5) / EARTH_RADIUS / 2) ** 2
    gap = box.gap()
    assert all(gap(*h3.cell_to_latlng(each)) <= limit for each in cover_box(box, resolution))


def test_c26_a_box_across_the_antimeridian_holds_both_sides_and_not_greenwich() -> None:
    box = Box(south=-1, west=179.99, north=1, east=-179.99)
    assert all(box.holds(GeoPoint(0, lon)) for lon in (179.999, -179.999, 180, -180, 179.996))
    assert not any(box.holds(GeoPoint(0, lon)) for lon in (0, 179.98, -179.98))
    lons = {round(h3.cell_to_latlng(each)[1]) for each in cover_box(box, 6)}
    assert {180, -180} == lons


@pytest.mark.parametrize(("west", "east"), [(-180, -170), (180, -170)])
def test_c26_either_spelling_of_the_antimeridian_is_the_same_edge(west: float, east: float) -> None:
    box = Box(0, west, 1, east)
    assert 10 == box.width
    assert box.holds(GeoPoint(0.5, 180))
    assert not box.holds(GeoPoint(0.5, 179.9))
    assert Box(0, 170, 1, 180).holds(GeoPoint(0.5, -180))


def test_a_box_may_be_a_point_a_line_a_cap_or_the_earth() -> None:
    assert Box(1, 2, 1, 2).holds(GeoPoint(1, 2))
    assert cell_int(GeoPoint(1, 2), 9) in cover_box(Box(1, 2, 1, 2), 9)
    cap = Box(89, -180, 90, 180)
    assert cap.holds(GeoPoint(90, 77))
    assert cap.holds(GeoPoint(89.5, -12))
    assert Box(89, 10, 90, 20).holds(GeoPoint(90, 0))
    assert 842 == len(cover_box(Box(-90, -180, 90, 180), 1))
    assert 2 * HALF_THE_EARTH == pytest.approx(Box(-90, -180, 90, 180).area)


@pytest.mark.parametrize(
    "edges", [(1, 0, 0, 1), (-91, 0, 0, 1), (0, 0, 91, 1), (0, -181, 1, 0), (0, 0, 1, 181), (math.nan, 0, 1, 1)]
)
def test_a_box_that_is_none_is_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(InvalidValue, match="south up to its north"):
        Box(*edges)


def ring(lat: float) -> Polygon:
    return Polygon(GeoPoint(lat, lon) for lon in range(-180, 180, 30))


def test_a_polygon_holds_the_pole_that_it_runs_round_in_either_direction() -> None:
    for polygon in (ring(80), Polygon(reversed(ring(80).corners))):
        assert polygon.holds(GeoPoint(90, 0))
        assert polygon.holds(GeoPoint(85, 179))
        assert not polygon.holds(GeoPoint(79, 15))
        assert not polygon.holds(GeoPoint(-90, 0))
        assert cell_int(GeoPoint(90, 0), 3) in cover_polygon(polygon, 3)
    assert ring(-80).holds(GeoPoint(-90, 0))


def test_c26_a_polygon_across_the_antimeridian_holds_both_sides_and_not_greenwich() -> None:
    polygon = Polygon([GeoPoint(-1, 179), GeoPoint(-1, -179), GeoPoint(1, -179), GeoPoint(1, 179)])
    assert polygon.holds(GeoPoint(0, 180))
    assert polygon.holds(GeoPoint(0, -179.5))
    assert polygon.holds(GeoPoint(0, 179.5))
    assert not polygon.holds(GeoPoint(0, 0))
    assert not polygon.holds(GeoPoint(0, 178))


def test_what_a_ring_leaves_open_is_not_inside() -> None:
    letter_c = [(0, 0), (0, 3), (1, 3), (1, 1), (2, 1), (2, 3), (3, 3), (3, 0)]
    polygon = Polygon(GeoPoint(*each) for each in letter_c)
    assert polygon.holds(GeoPoint(1.5, 0.5))
    assert polygon.holds(GeoPoint(0.5, 2.5))
    assert not polygon.holds(GeoPoint(1.5, 2))


def test_a_ring_that_is_closed_by_its_first_corner_is_the_same() -> None:
    corners = [GeoPoint(0, 0), GeoPoint(0, 1), GeoPoint(1, 1)]
    assert Polygon(corners) == Polygon([*corners, corners[0]])


@pytest.mark.parametrize(
    "corners",
    [[], [(0, 0)], [(0, 0), (1, 1), (0, 0)], [(0, 0), (0, 120), (0, -120)], [(0, 0), (0, 90), (0, 170), (9, 90)]],
)
def test_a_ring_without_an_inside_or_too_wide_is_refused(corners: list[tuple[float, float]]) -> None:
    with pytest.raises(InvalidValue, match="80 degrees"):
        Polygon(GeoPoint(*each) for each in corners)


def test_areas_are_those_of_the_sphere() -> None:
    octant = Polygon([GeoPoint(0, 0), GeoPoint(0, 90), GeoPoint(90, 0)])
    assert HALF_THE_EARTH / 4 == pytest.approx(octant.area)
    assert HALF_THE_EARTH / 4 == pytest.approx(Box(0, 0, 90, 90).area)
    assert HALF_THE_EARTH == pytest.approx(circle_area(math.pi * EARTH_RADIUS / 2))
    assert math.pi * 500**2 == pytest.approx(circle_area(500), rel=1e-6)


def test_no_region_shows_where_it_is() -> None:
    assert ("Box(...)", "Polygon(...)") == (repr(Box(1, 2, 3, 4)), repr(ring(80)))


@pytest.mark.parametrize("covering", [lambda: cover_box(Box(0, 0, 5, 5), 8), lambda: cover_polygon(ring(80), 7)])
def test_a_region_that_needs_too_many_cells_is_refused_with_a_resolution_that_would_do(covering: Any) -> None:
    with pytest.raises(InvalidValue, match=f"{MAX_COVER} cells") as caught:
        covering()
    coarser = caught.value.data["coarser"]
    assert 0 < len(cover_box(Box(0, 0, 5, 5), coarser)) <= MAX_COVER


def test_the_cost_of_a_cover_states_its_cells_its_excess_and_what_it_tells() -> None:
    cells = cover(GeoPoint(51.5, -0.1), 500, 9)
    cost = cover_cost(cells, circle_area(500))
    assert len(cells) == cost.cells
    assert sum(h3.cell_area(each, unit="m^2") for each in cells) / circle_area(500) == pytest.approx(cost.excess)
    assert 1.5 < cost.excess < 4
    assert math.log2(4_842_432_842 / len(cells)) == pytest.approx(cost.bits)
    whole = cover_cost(cover_box(Box(-90, -180, 90, 180), 1), 2 * HALF_THE_EARTH)
    assert (842, 0.0) == (whole.cells, whole.bits)
    assert 1 == pytest.approx(whole.excess, rel=1e-5)
    assert math.inf == cover_cost(cells, 0).excess


def test_rows_are_found_by_box_and_polygon_across_the_antimeridian(tmp_path: Path) -> None:
    service = ride_service(f"sqlite:///{tmp_path}/rides.db", tmp_path, Clock())
    homes = [GeoPoint(0.001, 179.999), GeoPoint(0.001, -179.999), GeoPoint(0.001, 179.9), GeoPoint(0.001, 0)]
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        session.add_all([rider(number, id=number, home=home) for number, home in enumerate(homes, 1)])
        session.add(rider(9, id=9, home=None))
        session.commit()
    box = Box(south=0, west=179.99, north=0.01, east=-179.99)
    polygon = Polygon(GeoPoint(lat, lon) for lat, lon in ((0, 179.99), (0, -179.99), (0.01, -179.99), (0.01, 179.99)))
    numbers = select(Rider.id).order_by(Rider.id.desc())
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        assert [2, 1] == within_box(session, numbers, Rider.home, box)
        assert [2, 1] == within_polygon(session, numbers, Rider.home, polygon)
        assert [] == within_box(session, numbers, Rider.home, Box(10, 10, 10.01, 10.01))
    with service.privacy.purpose("demand_map"), Session(service.engine) as session, pytest.raises(PurposeError):
        within_box(session, numbers, Rider.home, box)
    service.engine.dispose()
