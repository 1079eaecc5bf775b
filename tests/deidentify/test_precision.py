from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.deidentify import reduce
from privkit.errors import InvalidValue
from privkit.location import GeoPoint, cell
from privkit.markers import AgeBand, Cell, Exact, Year

TODAY = date(2026, 6, 15)


@pytest.mark.parametrize("precision", [Exact(), Cell(7), Year(), AgeBand()])
def test_c11_none_stays_none_at_every_precision(precision: Any) -> None:
    assert reduce(precision, None, TODAY) is None


@pytest.mark.parametrize("value", ["x", "", 0, False, GeoPoint(0, 0), date(2000, 1, 1)])
def test_exact_changes_nothing(value: Any) -> None:
    assert value is reduce(Exact(), value, TODAY)


def test_c27_a_point_at_zero_is_reduced_to_its_cell() -> None:
    assert cell(GeoPoint(0, 0), 7) == reduce(Cell(7), GeoPoint(0, 0), TODAY)


def test_c17_a_leap_day_has_a_year() -> None:
    assert 2012 == reduce(Year(), date(2012, 2, 29), TODAY)


@pytest.mark.parametrize(
    ("born", "band"),
    [
        (date(2026, 6, 15), "0-12"),
        (date(2013, 6, 16), "0-12"),
        (date(2013, 6, 15), "13-15"),
        (date(2010, 6, 16), "13-15"),
        (date(2010, 6, 15), "16-17"),
        (date(2008, 6, 15), "18-24"),
        (date(1937, 6, 15), "75-89"),
        (date(1936, 6, 16), "75-89"),
        (date(1936, 6, 15), "90+"),
        (date(1901, 1, 1), "90+"),
    ],
)
def test_a_birth_date_becomes_its_band(born: date, band: str) -> None:
    assert band == reduce(AgeBand(), born, TODAY)


def test_c14_the_band_follows_the_day_it_is_asked_on() -> None:
    bands = [reduce(AgeBand(), date(1936, 6, 30), date(year, 7, 1)) for year in (2022, 2026)]
    assert ["75-89", "90+"] == bands


@pytest.mark.parametrize(
    ("today", "band"),
    [
        (date(2025, 2, 27), "0-12"),
        (date(2025, 2, 28), "0-12"),
        (date(2025, 3, 1), "13-15"),
        (date(2028, 2, 29), "16-17"),
    ],
)
def test_d04_a_leap_day_birthday_counts_from_the_first_of_march(today: date, band: str) -> None:
    assert band == reduce(AgeBand(), date(2012, 2, 29), today)


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=13)), timezone(timedelta(hours=-10)), None])
def test_d06_a_birth_time_counts_as_the_date_written_in_it(zone: Any) -> None:
    born = datetime(2013, 6, 15, 0, 0, tzinfo=zone)
    assert "13-15" == reduce(AgeBand(), born, TODAY)
    assert "0-12" == reduce(AgeBand(), born, TODAY - timedelta(days=1))
    assert 2013 == reduce(Year(), datetime(2013, 1, 1, tzinfo=zone), TODAY)


def test_d01_a_birth_date_in_the_future_has_no_age() -> None:
    with pytest.raises(InvalidValue, match="future") as caught:
        reduce(AgeBand(), TODAY + timedelta(days=1), TODAY)
    assert "2026" not in str(caught.value)


@pytest.mark.parametrize(
    ("precision", "value"),
    [
        (Cell(7), "secret"),
        (Cell(7), (1, 2)),
        (Year(), "secret"),
        (Year(), 1987),
        (AgeBand(), 39),
        (Year(), GeoPoint(1, 2)),
    ],
)
def test_a_precision_that_does_not_fit_is_refused_without_the_value(precision: Any, value: Any) -> None:
    with pytest.raises(InvalidValue, match=f"{type(precision).__name__} does not fit") as caught:
        reduce(precision, value, TODAY)
    assert "secret" not in str(caught.value)
    assert "1987" not in str(caught.value)


def test_bands_of_one_year_and_no_bands_read_naturally() -> None:
    assert "13" == reduce(AgeBand((13, 14)), date(2013, 1, 1), TODAY)
    assert "0+" == reduce(AgeBand(()), date(2013, 1, 1), TODAY)


@pytest.mark.parametrize("bounds", [(16, 13), (13, 13), (0, 13), (-1,)])
def test_bounds_that_do_not_rise_are_refused(bounds: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValue, match="rising"):
        reduce(AgeBand(bounds), date(2013, 1, 1), TODAY)


@given(st.dates(date(1900, 1, 1), TODAY), st.dates(TODAY, date(2100, 1, 1)))
def test_nobody_gets_younger(born: date, later: date) -> None:
    bands = ["0-12", "13-15", "16-17", "18-24", "25-34", "35-44", "45-54", "55-64", "65-74", "75-89", "90+"]
    assert bands.index(reduce(AgeBand(), born, TODAY)) <= bands.index(reduce(AgeBand(), born, later))
