import math
from collections import defaultdict
from typing import Any

import h3.api.basic_str as h3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.errors import InvalidValue
from privkit.location import GeoPoint, cell, metres_between
from privkit.location.grouping import centroid, group_cells, persons_of

TOWN = cell(GeoPoint(51.5, -0.1), 7)
STREETS = sorted(h3.cell_to_children(TOWN, 9))
FARM = STREETS[0]


def at(cell_id: str) -> GeoPoint:
    return GeoPoint(*h3.cell_to_latlng(cell_id))


def living(people: dict[str, int]) -> list[tuple[Any, GeoPoint]]:
    return [((place, number), at(place)) for place, count in people.items() for number in range(count)]


def members(places: list[tuple[Any, GeoPoint]], published: Any, finest: int) -> dict[str, set[Any]]:
    """Who is published under each cell, from the places themselves."""
    found: dict[str, set[Any]] = defaultdict(set)
    for person, point in places:
        shown = published[cell(point, finest)]
        if shown is not None:
            found[shown].add(person)
    return found


def test_c29_one_person_is_not_published_beside_five_thousand() -> None:
    places = living({FARM: 1, STREETS[1]: 5000})
    found = group_cells(persons_of(places, 9), k=10, finest=9)
    assert {FARM: None, STREETS[1]: STREETS[1]} == found.published
    assert (5000, 1) == (found.smallest, found.withheld)


def test_c29_a_cell_climbs_until_enough_of_those_who_climb_are_there() -> None:
    parent = h3.cell_to_parent(FARM, 8)
    beside = [each for each in STREETS if h3.cell_to_parent(each, 8) == parent]
    far = next(each for each in STREETS if h3.cell_to_parent(each, 8) != parent)
    places = living({beside[0]: 4, beside[1]: 6, beside[2]: 50, far: 3})
    found = group_cells(persons_of(places, 9), k=10, finest=9, coarsest=7)
    assert {beside[0]: parent, beside[1]: parent, beside[2]: beside[2], far: None} == found.published
    assert 10 == found.smallest


def test_c29_persons_are_counted_and_not_rows() -> None:
    places = living({FARM: 1}) * 1000
    assert {FARM: None} == group_cells(persons_of(places, 9), k=2, finest=9).published


def test_somebody_in_two_cells_makes_no_group_of_two() -> None:
    twice = [("x", at(FARM)), ("x", at(STREETS[1])), *living({STREETS[1]: 9})]
    found = group_cells(persons_of(twice, 9), k=2, finest=9)
    assert {FARM: None, STREETS[1]: STREETS[1]} == found.published


@given(
    st.lists(st.tuples(st.integers(0, 25), st.sampled_from(STREETS)), max_size=120),
    st.integers(2, 6),
    st.integers(4, 9),
)
def test_every_published_group_has_k_different_persons(pairs: Any, k: int, coarsest: int) -> None:
    places = [(person, at(street)) for person, street in pairs]
    found = group_cells(persons_of(places, 9), k=k, finest=9, coarsest=coarsest)
    groups = members(places, found.published, 9)
    assert {cell(point, 9) for _, point in places} == set(found.published)
    assert all(len(group) >= k for group in groups.values())
    assert (found.smallest is None) == (not groups)
    assert found.smallest is None or k <= found.smallest <= min(map(len, groups.values()))
    for each, shown in found.published.items():
        assert shown is None or shown == h3.cell_to_parent(each, h3.get_resolution(shown))
        assert shown is None or h3.get_resolution(shown) >= coarsest


def test_nobody_gives_no_groups() -> None:
    found = group_cells(persons_of([], 9), k=5, finest=9)
    assert ({}, None, 0) == (found.published, found.smallest, found.withheld)


@pytest.mark.parametrize(("k", "finest", "coarsest"), [(1, 9, 0), (5, 16, 0), (5, 9, 10), (5, 9, -1)])
def test_a_group_of_one_and_a_climb_down_are_refused(k: int, finest: int, coarsest: int) -> None:
    with pytest.raises(InvalidValue):
        group_cells(persons_of([], 9), k=k, finest=finest, coarsest=coarsest)


def test_counts_that_lack_a_parent_are_refused_without_the_cell() -> None:
    with pytest.raises(InvalidValue, match="resolution 8") as caught:
        group_cells(lambda resolution: {FARM: 1} if resolution == 9 else {}, k=5, finest=9)
    assert FARM not in str(caught.value)


@pytest.mark.parametrize(("lat", "spread"), [(0, 0.01), (60, 0.5), (-89.9, 3)])
def test_c26_the_middle_of_a_group_across_the_antimeridian_is_near_it(lat: float, spread: float) -> None:
    points = [GeoPoint(lat, 180 - spread), GeoPoint(lat, -180 + spread), GeoPoint(lat, 180), GeoPoint(lat, -180)]
    middle = centroid(points)
    assert 180 - abs(middle.lon) < 1e-9
    assert metres_between(middle, GeoPoint(lat, 180)) < metres_between(points[0], GeoPoint(lat, 180))


def test_c26_the_middle_of_a_ring_round_a_pole_is_the_pole() -> None:
    middle = centroid(GeoPoint(89, lon) for lon in (-180, -90, 0, 90))
    assert math.isclose(90, middle.lat, abs_tol=1e-6)


@pytest.mark.parametrize("points", [[], [GeoPoint(0, 0), GeoPoint(0, 180)], [GeoPoint(90, 0), GeoPoint(-90, 0)]])
def test_places_without_a_middle_are_refused(points: list[GeoPoint]) -> None:
    with pytest.raises(InvalidValue, match="no middle"):
        centroid(points)
