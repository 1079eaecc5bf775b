from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.consent.age import PLACEHOLDERS, cautious_today, is_child, known, reached_on
from privkit.deidentify import reduce
from privkit.errors import ClockError, InvalidValue
from privkit.markers import AgeBand

TODAY = date(2026, 6, 15)
births = st.dates(date(1901, 1, 1), TODAY).filter(lambda day: day not in PLACEHOLDERS)


@pytest.mark.parametrize("born", [None, *sorted(PLACEHOLDERS)])
def test_d01_an_unknown_age_is_a_childs(born: date | None) -> None:
    assert is_child(born, 13, TODAY) is True
    assert known(born, TODAY) is False
    assert reached_on(born, 13) is None


@pytest.mark.parametrize("year", [1, 1900, 1970, 9999])
def test_d01_a_placeholder_stays_one_as_a_datetime(year: int) -> None:
    born = datetime(year, 12, 31, tzinfo=UTC) if year == 9999 else datetime(year, 1, 1)
    assert is_child(born, 18, TODAY) is True


def test_d01_a_birth_date_in_the_future_is_refused() -> None:
    tomorrow = TODAY + timedelta(days=1)
    assert known(tomorrow, TODAY) is False
    with pytest.raises(InvalidValue, match="future") as caught:
        is_child(tomorrow, 13, TODAY)
    assert "2026" not in str(caught.value)


def test_an_age_is_reached_on_the_birthday_itself() -> None:
    assert date(2026, 6, 15) == reached_on(date(2013, 6, 15), 13)
    assert [True, False] == [is_child(date(2013, 6, day), 13, TODAY) for day in (16, 15)]


@pytest.mark.parametrize(
    ("today", "child"), [(date(2025, 2, 27), True), (date(2025, 2, 28), True), (date(2025, 3, 1), False)]
)
def test_d04_a_leap_day_birthday_is_the_first_of_march(today: date, child: bool) -> None:
    assert child is is_child(date(2012, 2, 29), 13, today)


def test_d04_a_leap_day_birthday_in_a_leap_year_is_itself() -> None:
    assert date(2028, 2, 29) == reached_on(date(2012, 2, 29), 16)


@pytest.mark.parametrize("zone", [None, UTC, timezone(timedelta(hours=13)), timezone(timedelta(hours=-10))])
@pytest.mark.parametrize("hour", [0, 23])
def test_d06_a_birth_time_counts_as_the_date_written_in_it(zone: Any, hour: int) -> None:
    born = datetime(2013, 6, 15, hour, tzinfo=zone)
    assert date(2026, 6, 15) == reached_on(born, 13)
    assert type(reached_on(born, 13)) is date
    assert [True, False] == [is_child(born, 13, TODAY - timedelta(days=days)) for days in (1, 0)]


def test_d07_a_child_stays_one_until_the_birthday_has_begun_everywhere() -> None:
    begins_last = datetime(2026, 6, 15, 0, tzinfo=timezone(timedelta(hours=-12)))
    assert date(2026, 6, 15) == cautious_today(begins_last)
    assert date(2026, 6, 14) == cautious_today(begins_last - timedelta(microseconds=1))
    auckland = datetime(2026, 6, 15, 0, tzinfo=timezone(timedelta(hours=13)))
    assert is_child(date(2013, 6, 15), 13, cautious_today(auckland)) is True


def test_a_cautious_day_needs_a_zone() -> None:
    with pytest.raises(ClockError):
        cautious_today(datetime(2026, 6, 15))


@pytest.mark.parametrize("age", [-1, 9000])
def test_an_age_outside_the_calendar_is_refused(age: int) -> None:
    with pytest.raises(InvalidValue):
        reached_on(date(2013, 6, 15), age)


@given(births, st.integers(1, 100), st.dates(TODAY, date(2200, 1, 1)))
def test_the_child_decision_and_the_age_band_never_disagree(born: date, age: int, today: date) -> None:
    assert (reduce(AgeBand((age,)), born, today) != f"{age}+") is is_child(born, age, today)


@given(births, st.integers(0, 100), st.dates(TODAY, date(2200, 1, 1)), st.integers(0, 400))
def test_nobody_becomes_a_child_again(born: date, age: int, today: date, days: int) -> None:
    assert is_child(born, age, today) >= is_child(born, age, today + timedelta(days=days))


@given(births, st.integers(0, 30), st.integers(0, 30), st.dates(TODAY, date(2200, 1, 1)))
def test_a_stricter_age_never_makes_an_adult(born: date, age: int, more: int, today: date) -> None:
    assert is_child(born, age, today) <= is_child(born, age + more, today)
