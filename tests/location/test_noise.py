import math
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from statistics import fmean, median
from threading import Barrier, Thread
from typing import Any

import h3.api.basic_int as h3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privkit.errors import BudgetSpent, ClockError, InvalidValue, KeyringError
from privkit.location.budget import Budget, SpendingInMemory
from privkit.location.cells import cell_int, corner_metres, destination, metres_between
from privkit.location.noise import PlanarLaplace, add_budgeted_noise, add_noise
from privkit.location.point import GeoPoint

KEY = bytes(range(32))
HOME = GeoPoint(51.5012345, -0.1012345)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOISE = PlanarLaplace()
QUANTILES = {0.5: 1.678347, 0.9: 3.889720, 0.95: 4.743865}

points = st.builds(GeoPoint, st.floats(-90, 90), st.floats(-180, 180))
noises = st.builds(
    PlanarLaplace,
    st.floats(0.01, 10),
    st.floats(1, 1e5),
    st.one_of(st.none(), st.floats(400, 1e6)),
    st.integers(9, 15),
)


def centre_of(point: GeoPoint, resolution: int = 9) -> GeoPoint:
    return GeoPoint(*h3.cell_to_latlng(cell_int(point, resolution)))


def shown(noise: PlanarLaplace, point: GeoPoint, subject: str = "7", domain: str = "map", key: bytes = KEY) -> GeoPoint:
    return add_noise(noise, point, key=key, domain=domain, subject=subject)


@pytest.mark.parametrize(("share", "expected"), QUANTILES.items())
def test_the_radius_has_the_published_quantiles(share: float, expected: float) -> None:
    assert expected == pytest.approx(PlanarLaplace(level=1, metres=1).radius(share), abs=1e-6)
    assert expected * 250 == pytest.approx(PlanarLaplace(level=2, metres=500).radius(share), rel=1e-6)


@given(st.floats(0, 1, exclude_max=True))
def test_the_radius_inverts_the_distribution_function(share: float) -> None:
    x = PlanarLaplace(level=1, metres=1).radius(share)
    assert share == pytest.approx(-math.expm1(math.log1p(x) - x), abs=1e-12)


@given(st.floats(0, 1, exclude_max=True), noises)
def test_a_bounded_radius_has_the_distribution_on_condition_of_being_within(share: float, noise: PlanarLaplace) -> None:
    def below(metres: float) -> float:
        return -math.expm1(math.log1p(noise.eps * metres) - noise.eps * metres)

    radius = noise.radius(share)
    assert 0 <= radius <= noise.furthest
    whole = 1.0 if math.isinf(noise.furthest) else below(noise.furthest)
    assert share * whole == pytest.approx(below(radius), abs=1e-9)


def test_many_data_subjects_are_spread_as_the_distribution_says() -> None:
    noise = PlanarLaplace(level=math.log(2), metres=500)
    centre = centre_of(HOME)
    distances = sorted(metres_between(centre, shown(noise, HOME, str(each))) * noise.eps for each in range(20_000))
    for share, expected in QUANTILES.items():
        assert expected == pytest.approx(distances[int(share * len(distances))], rel=0.03)
    assert 2 == pytest.approx(fmean(distances), rel=0.03)


def test_many_data_subjects_are_spread_in_every_direction() -> None:
    centre = centre_of(HOME)
    moved = [shown(NOISE, HOME, str(each)) for each in range(4_000)]
    quarters = [(each.lat > centre.lat, each.lon > centre.lon) for each in moved]
    assert all(abs(quarters.count(each) - 1000) < 130 for each in set(quarters))


def test_c23_the_average_of_ten_thousand_reads_is_as_far_away_as_one() -> None:
    reads = [shown(NOISE, HOME) for _ in range(10_000)]
    average = GeoPoint(fmean(each.lat for each in reads), fmean(each.lon for each in reads))
    assert 1 == len(set(reads))
    assert metres_between(HOME, reads[0]) == pytest.approx(metres_between(HOME, average), abs=0.01)
    assert metres_between(HOME, average) > 100


def test_noise_that_is_drawn_afresh_averages_away() -> None:
    """What C23 is about: here it is done on purpose, with another data subject at each read."""
    reads = [shown(NOISE, HOME, str(each)) for each in range(10_000)]
    average = GeoPoint(fmean(each.lat for each in reads), fmean(each.lon for each in reads))
    assert metres_between(centre_of(HOME), average) < 50
    assert median(metres_between(HOME, each) for each in reads) > 1000


def test_c23_another_process_shows_the_same_place_and_another_key_another() -> None:
    code = (
        "from privkit.location.noise import *; from privkit.location import GeoPoint;"
        "print(add_noise(PlanarLaplace(), GeoPoint(51.5012345, -0.1012345), key=bytes(range(32)),"
        " domain='map', subject='7').pack().hex())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown(NOISE, HOME).pack().hex() == elsewhere.stdout.strip()
    assert shown(NOISE, HOME) != shown(NOISE, HOME, key=bytes(32))


def test_everything_that_says_who_sees_whom_where_draws_another_place() -> None:
    other = GeoPoint(51.6, -0.1)
    places = [
        shown(NOISE, HOME),
        shown(NOISE, HOME, subject="8"),
        shown(NOISE, HOME, domain="mapx"),
        shown(NOISE, HOME, domain="ma", subject="p7"),
        shown(NOISE, other),
    ]
    assert len(set(places)) == len(places)


def test_two_levels_of_noise_cannot_be_solved_for_the_place() -> None:
    # With the same draw at both, the place would lie on the line through them, at the ratio of the levels.
    near, far = (shown(PlanarLaplace(level=level), HOME) for level in (2, 1))
    solved = GeoPoint(2 * near.lat - far.lat, 2 * near.lon - far.lon)
    assert metres_between(solved, centre_of(HOME)) > 50


@given(points, st.integers(9, 12))
def test_where_in_its_cell_a_point_lies_changes_nothing(point: GeoPoint, resolution: int) -> None:
    noise = PlanarLaplace(resolution=resolution)
    assert shown(noise, point) == shown(noise, centre_of(point, resolution))


@pytest.mark.parametrize("lat", [0, 45, 60, 89.9, -90])
def test_c24_no_report_is_farther_away_than_the_bound(lat: float) -> None:
    noise = PlanarLaplace(within=500)
    places = [GeoPoint(lat, -180 + each * 0.36) for each in range(1000)]
    distances = [metres_between(each, shown(noise, each, str(number))) for number, each in enumerate(places)]
    assert max(distances) <= 500
    assert max(distances) > 250


@settings(max_examples=300)
@given(points, noises, st.text(st.characters(), max_size=5))
def test_every_report_is_a_place_within_the_bound(point: GeoPoint, noise: PlanarLaplace, subject: str) -> None:
    distance = metres_between(point, shown(noise, point, subject))
    assert noise.within is None or distance <= noise.within


@given(points, st.floats(0, 1e7), st.floats(0, 2 * math.pi))
def test_a_destination_is_as_far_away_as_asked(start: GeoPoint, metres: float, bearing: float) -> None:
    assert metres == pytest.approx(metres_between(start, destination(start, metres, bearing)), abs=1e-3)


@pytest.mark.parametrize(
    ("bearing", "lat", "lon"), [(0, 1, 179.5), (math.pi / 2, 0, -179.5), (math.pi, -1, 179.5), (-math.pi / 2, 0, 178.5)]
)
def test_a_destination_lies_in_the_direction_of_its_bearing(bearing: float, lat: float, lon: float) -> None:
    degree = metres_between(GeoPoint(0, 0), GeoPoint(0, 1))
    found = destination(GeoPoint(0, 179.5), degree, bearing)
    assert (lat, lon) == (pytest.approx(found.lat, abs=1e-9), pytest.approx(found.lon, abs=1e-9))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"level": each} for each in (0, -1, math.nan, math.inf, True)),
        *({"metres": each} for each in (0, math.inf)),
        *({"within": each} for each in (0, math.nan)),
    ],
)
def test_noise_without_a_positive_size_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidValue, match="above 0"):
        PlanarLaplace(**wrong)


def test_a_bound_within_the_cell_itself_is_refused_with_a_way_out() -> None:
    with pytest.raises(InvalidValue, match="resolution=10"):
        PlanarLaplace(within=corner_metres(9))
    assert PlanarLaplace(within=corner_metres(9), resolution=10).furthest > 0


@pytest.mark.parametrize("share", [-0.1, 1, math.nan])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(InvalidValue, match="share"):
        NOISE.radius(share)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(KeyringError):
        shown(NOISE, HOME, key=b"short")


# Budgets


def asked(spending: SpendingInMemory, point: GeoPoint, now: datetime = NOW, places: float = 3) -> GeoPoint:
    budget = Budget(places * NOISE.eps, timedelta(days=1))
    return add_budgeted_noise(
        NOISE, point, key=KEY, domain="map", subject="7", budget=budget, spending=spending, now=now
    )


def way(number: int) -> GeoPoint:
    return GeoPoint(51.5 + number / 10, -0.1)


def test_a_new_place_costs_once_and_the_budget_ends() -> None:
    spending = SpendingInMemory()
    first = [asked(spending, way(each)) for each in (0, 1, 2, 0, 1, 2)]
    assert first[:3] == first[3:] == [shown(NOISE, way(each)) for each in range(3)]
    with pytest.raises(BudgetSpent, match="no room for one more place") as caught:
        asked(spending, way(3))
    assert "51.8" not in str(caught.value)
    assert first[0] == asked(spending, way(0))


def test_a_period_later_the_budget_is_there_again() -> None:
    spending = SpendingInMemory()
    for each in range(3):
        asked(spending, way(each), NOW + timedelta(hours=each))
    with pytest.raises(BudgetSpent):
        asked(spending, way(3), NOW + timedelta(hours=23, minutes=59))
    asked(spending, way(3), NOW + timedelta(hours=24))
    with pytest.raises(BudgetSpent):
        asked(spending, way(4), NOW + timedelta(hours=24))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40)), max_size=40))
def test_in_no_period_are_more_places_shown_than_the_budget_allows(steps: list[tuple[int, int]]) -> None:
    spending, shown_at, now = SpendingInMemory(), [], NOW
    for place, minutes in steps:
        now += timedelta(minutes=36 * minutes)
        try:
            asked(spending, way(place), now)
        except BudgetSpent:
            continue
        shown_at.append((now, place))
    for start, _ in shown_at:
        within = {place for at, place in shown_at if start <= at < start + timedelta(days=1)}
        # One more window may hold repeats of places that were paid for shortly before it began.
        assert len(within) <= 2 * 3
    assert not shown_at or len({place for at, place in shown_at if at < NOW + timedelta(days=1)}) <= 3


def test_the_last_of_a_budget_is_spent_once_by_many_threads() -> None:
    spending, start, done = SpendingInMemory(), Barrier(8), []

    def ask(number: int) -> None:
        start.wait()
        with suppress(BudgetSpent):
            done.append(asked(spending, way(number)))

    threads = [Thread(target=ask, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert 3 == len(done)


def test_what_is_remembered_names_no_place_and_can_be_forgotten() -> None:
    spending = SpendingInMemory()
    asked(spending, HOME, places=1)
    assert "SpendingInMemory(...)" == repr(spending)
    (token,) = spending._made["7"]
    assert cell_int(HOME, 9).to_bytes(8, "big") not in token
    spending.forget("7")
    asked(spending, way(1), places=1)


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(ClockError):
        asked(SpendingInMemory(), HOME, datetime(2026, 3, 1))


@pytest.mark.parametrize(("eps", "days"), [(0, 1), (-1, 1), (math.nan, 1), (math.inf, 1), (1, 0), (1, -1)])
def test_a_budget_of_nothing_is_refused(eps: float, days: int) -> None:
    with pytest.raises(InvalidValue):
        Budget(eps, timedelta(days=days))
