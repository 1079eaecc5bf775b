"""What an attacker makes of records in memory, against answers that can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.deidentify.attacks import (
    Recognised,
    alone,
    average,
    home_and_work,
    is_night,
    is_working_time,
    link,
    link_nearest,
    most_visited,
)
from privkit.errors import InvalidValue
from privkit.location import GeoPoint, metres_between
from privkit.location.noise import PlanarLaplace, add_noise

KEY = bytes(range(32))
MONDAY = datetime(2026, 3, 2)
people = st.dictionaries(st.integers(0, 30), st.integers(0, 8))


def at(hour: float, day: int = 0) -> datetime:
    return MONDAY + timedelta(days=day, hours=hour)


def test_who_shares_a_trait_with_nobody_is_alone() -> None:
    assert Recognised(4, 1) == alone({"p1": "a", "p2": "b", "p3": "a", "p4": "a"})
    assert Recognised(10, 2) == alone({"p1": "a", "p2": "b"}, 10)
    assert [0.2, 0.0] == [alone({"p1": "a", "p2": "b"}, 10).share, alone({}).share]


@given(people)
def test_those_who_are_alone_are_those_whom_a_list_of_the_same_people_names(traits: dict[int, int]) -> None:
    found = alone(traits)
    linked = link([(each, trait, each) for each, trait in traits.items()], traits.items(), truth=True)
    assert Recognised(len(traits), found.found, found.found) == linked


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5))), st.lists(st.tuples(st.integers(), st.integers(0, 5))))
def test_a_person_is_found_where_all_traits_that_tell_one_person_tell_the_same(
    released: list[tuple[int, int]], known: list[tuple[int, int]]
) -> None:
    expected = 0
    for person in {person for person, _ in released}:
        told = [{name for name, held in known if held == trait} for each, trait in released if each == person]
        expected += len(set().union(*(names for names in told if len(names) == 1))) == 1
    found = link([(person, trait, None) for person, trait in released], known)
    assert Recognised(len({person for person, _ in released}), expected) == found


def test_a_match_that_is_wrong_is_found_and_not_right() -> None:
    assert Recognised(3, 2, 1) == link(
        [("r1", "a", "Ann"), ("r2", "b", "Bob"), ("r3", None, "Cyd")],
        [("Ann", "a"), ("Dan", "b"), ("Cyd", None)],
        truth=True,
    )


def test_the_nearest_is_taken_and_of_two_that_are_equally_near_none() -> None:
    def apart(a: int, b: int) -> float:
        return abs(a - b)

    assert Recognised(2, 2, 1) == link_nearest({"p": 11, "q": 12}, {"p": 10, "q": 20}, apart)
    assert Recognised(1, 0, 0) == link_nearest({"p": 15}, {"p": 10, "q": 20}, apart)
    assert Recognised(1, 0, 0) == link_nearest({"p": 15}, {}, apart)


def test_home_is_where_most_nights_are_and_work_where_most_working_hours_are() -> None:
    visits = [
        *(("p", "home", at(hour, day)) for day in range(3) for hour in (20, 23, 3)),
        *(("p", "work", at(hour, day)) for day in range(3) for hour in (9, 12, 16)),
        *(("p", "bar", at(hour, day)) for day in range(3) for hour in (18, 19, 21)),
        *(("p", "garden", at(hour, day)) for day in (5, 6) for hour in range(9, 17)),
        ("sleeper", "home", at(22)),
        ("worker", "work", at(10)),
    ]
    assert {"p": ("home", "work")} == home_and_work(visits)


@pytest.mark.parametrize(
    ("moment", "night", "work"),
    [
        (at(20), True, False),
        (at(5.99), True, False),
        (at(6), False, False),
        (at(8.99), False, False),
        (at(9), False, True),
        (at(16.99), False, True),
        (at(17), False, False),
        (at(12, 4), False, True),
        (at(12, 5), False, False),
        (at(12, 6), False, False),
    ],
)
def test_night_and_working_time_begin_and_end_on_the_hour(moment: datetime, night: bool, work: bool) -> None:
    assert (night, work) == (is_night(moment), is_working_time(moment))


def test_hours_count_and_not_how_often_a_device_reports() -> None:
    walk = [("p", "street", at(8 + second / 3600)) for second in range(3600)]
    stay = [("p", "home", at(hour)) for hour in (20, 21)]
    assert {"p": ("home",)} == most_visited(walk + stay, 1)


def test_places_of_equally_many_hours_are_taken_in_the_order_of_their_names() -> None:
    visits = [(person, place, at(8)) for person in "pq" for place in ("c", "a", "b")]
    for given_order in (visits, visits[::-1]):
        assert dict.fromkeys("pq", ("a", "b")) == most_visited(given_order, 2)
    assert dict.fromkeys("pq", ("a", "b", "c")) == most_visited(visits, 9)


PLACES = {("p", number): GeoPoint(-10 + number, 20 * number - 170) for number in range(18)} | {
    ("p", "antimeridian"): GeoPoint(-17.0, 180.0),
    ("p", "pole"): GeoPoint(89.99, 0.0),
}


def reports(noise: PlanarLaplace, n: int, *, fresh: bool) -> Iterator[tuple[tuple[str, object], GeoPoint]]:
    for key, point in PLACES.items():
        for number in range(n):
            yield key, add_noise(noise, point, key=KEY, domain=str(number) if fresh else "once", subject="p")


def test_noise_that_was_drawn_once_does_not_average_away() -> None:
    found = average(reports(PlanarLaplace(), 50, fresh=False), PLACES)
    assert (20, 1000) == (found.places, found.reports)
    assert found.one == pytest.approx(found.mean, rel=1e-6)
    assert found.one > 500


def test_fresh_noise_falls_with_the_square_root_of_the_number_of_reports() -> None:
    fine = PlanarLaplace(resolution=13)
    few, many = (average(reports(fine, n, fresh=True), PLACES) for n in (25, 400))
    # The radius is Gamma(2, 1/eps), of mean 2/eps. Each axis has variance 3/eps^2, so the mean of n reports is about
    # Rayleigh with sigma sqrt(3/n)/eps, of mean sqrt(pi/2) sigma.
    assert 2 / fine.eps == pytest.approx(many.one, rel=0.05)
    for n, found in ((25, few), (400, many)):
        assert math.sqrt(math.pi / 2) * math.sqrt(3 / n) / fine.eps == pytest.approx(found.mean, rel=0.3)
    assert 4 == pytest.approx(few.mean / many.mean, rel=0.3)


def test_the_mean_of_reports_on_both_sides_of_the_antimeridian_is_between_them() -> None:
    truth = GeoPoint(0.0, 180.0)
    sides = [("p", GeoPoint(0.0, 179.99)), ("p", GeoPoint(0.0, -179.99))]
    found = average(sides, {"p": truth})
    assert (0.0, metres_between(sides[0][1], truth)) == (pytest.approx(found.mean, abs=0.01), pytest.approx(found.one))


def test_reports_of_unknown_places_are_left_out_and_without_any_there_is_no_figure() -> None:
    here, there = GeoPoint(1, 1), GeoPoint(50, 50)
    assert 1 == average([("p", here), ("q", there)], {"p": here}).reports
    with pytest.raises(InvalidValue):
        average([("q", there)], {"p": here})
