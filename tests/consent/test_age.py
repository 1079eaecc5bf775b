from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.consent.age import (
    OF_AGE,
    PLACEHOLDERS,
    AgeFacts,
    cautious_today,
    consent_age_reached_on,
    is_child,
    known,
    latest_birth,
    of_age_on,
    reached_on,
)
from privkit.deidentify import reduce
from privkit.errors import ClockError, InvalidValue
from privkit.markers import AgeBand
from privkit.policy import AgeRule, load

TODAY = date(2026, 6, 15)
NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)
RIDES = load(Path(__file__).resolve().parents[2] / "policies" / "rides.yaml")
THIRTEEN = (AgeRule("GB", 13, "A", "s"),)
RAISED_ON = date(2027, 3, 1)
RAISED = (*THIRTEEN, AgeRule("GB", 16, "A", "s", RAISED_ON))
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


@pytest.mark.parametrize("place", sorted(RIDES.ages))
def test_every_countrys_row_holds_on_the_day_before_the_birthday_on_it_and_after_it(place: str) -> None:
    country, _, region = place.partition("-")
    row = RIDES.ages[place][-1]
    age = max(row.age, 16) if row.status == "U" else row.age
    birthday = date(2010 + age, 6, 15)
    told = []
    for days in (-1, 0, 1):
        noon = datetime(birthday.year, 6, 15, 12, tzinfo=UTC) + timedelta(days=days)
        told.append(consent_age_reached_on(RIDES, date(2010, 6, 15), country, region or None, now=noon))
    assert [birthday, OF_AGE, OF_AGE] == told


@pytest.mark.parametrize(
    ("value", "latest"),
    [
        (2013, date(2013, 12, 31)),
        ("2013", date(2013, 12, 31)),
        ("2013-05", date(2013, 5, 31)),
        ("2012-02", date(2012, 2, 29)),
        ("2013-05-06", date(2013, 5, 6)),
        ("2013-05-06T23:30:00-10:00", date(2013, 5, 6)),
        (datetime(2013, 5, 6, 0, tzinfo=timezone(timedelta(hours=13))), date(2013, 5, 6)),
        (1970, date(1970, 12, 31)),
        (2026, date(2026, 12, 31)),
    ],
)
def test_d03_a_part_of_a_birth_date_is_the_latest_day_in_it(value: object, latest: date) -> None:
    assert latest == latest_birth(value, TODAY)


@pytest.mark.parametrize(
    "value",
    [None, 0, 1, 1900, 9999, "", "0", "1970-01", "1900-01", "1970-01-01T00:00:00Z", "2013-13", "13", True, 20.13],
)
def test_d01_what_tells_no_birth_is_unknown(value: object) -> None:
    assert latest_birth(value, TODAY) is None
    assert of_age_on(AgeFacts((value,)), THIRTEEN, TODAY) is None


@pytest.mark.parametrize("value", [2027, "2026-07", date(2026, 6, 18), "2026-06-18"])
def test_d01_a_birth_that_lies_wholly_in_the_future_is_refused(value: object) -> None:
    with pytest.raises(InvalidValue, match="future") as caught:
        latest_birth(value, TODAY)
    assert "2026" not in str(caught.value)


def test_d06_somebody_born_today_where_the_day_begins_first_is_not_born_in_the_future() -> None:
    kiribati = datetime(2026, 6, 17, 0, 30, tzinfo=timezone(timedelta(hours=14)))
    assert date(2026, 6, 17) == latest_birth(date(2026, 6, 17), cautious_today(kiribati))


@pytest.mark.parametrize(
    ("band", "of_age"),
    [
        ("13-15", True),
        (" 13 to 15 ", True),
        ("13\u201315", True),
        ("18+", True),
        ("18 and over", True),
        ("12-14", False),
    ]
    + [(unknown, False) for unknown in ("under 13", "<13", "adult", "", "13", "-18", "018-", None, 18)],
)
def test_d03_an_age_band_counts_as_its_lowest_age_and_what_is_none_as_a_childs(band: object, of_age: bool) -> None:
    assert (OF_AGE if of_age else None) == of_age_on(AgeFacts(band=band), THIRTEEN, TODAY)


def test_d22_a_verified_date_wins_and_otherwise_the_youngest_does() -> None:
    adult, child, younger = date(2008, 1, 1), date(2015, 1, 2), date(2016, 1, 3)
    found = [
        of_age_on(AgeFacts(births), THIRTEEN, TODAY)
        for births in [(child, adult), (adult, child), (None, adult, younger, child), (date(1970, 1, 1), child)]
    ]
    assert [date(2028, 1, 2), date(2021, 1, 1), date(2029, 1, 3), date(2028, 1, 2)] == found


def test_the_day_of_age_counts_where_no_birth_date_does_and_a_band_where_neither_does() -> None:
    day = date(2027, 5, 5)
    assert date(2028, 1, 2) == of_age_on(AgeFacts((date(2015, 1, 2),), day, "18+"), THIRTEEN, TODAY)
    assert day == of_age_on(AgeFacts((None,), day, "18+"), THIRTEEN, TODAY)
    assert OF_AGE == of_age_on(AgeFacts((None,), date(1970, 1, 1), "18+"), THIRTEEN, TODAY)


@pytest.mark.parametrize("placeholder", sorted(PLACEHOLDERS))
def test_d01_a_placeholder_in_the_day_of_age_is_unknown(placeholder: date) -> None:
    assert of_age_on(AgeFacts(reached_on=placeholder), THIRTEEN, TODAY) is None


@pytest.mark.parametrize(
    ("born", "day"),
    [
        (date(2013, 5, 1), date(2029, 5, 1)),  # 13 already, and a child again on the day: not of age before 16
        (date(2013, 9, 1), date(2029, 9, 1)),  # 13 before the day
        (date(2011, 3, 1), date(2024, 3, 1)),  # 16 on the day itself: never a child again
        (date(2011, 3, 2), date(2027, 3, 2)),  # 16 on the day after it
        (date(2008, 1, 1), date(2021, 1, 1)),
    ],
)
def test_d19_who_would_be_a_child_again_is_one_until_the_age_that_is_to_come(born: date, day: date) -> None:
    assert day == of_age_on(AgeFacts((born,)), RAISED, TODAY)


def test_d19_an_age_that_is_lowered_frees_nobody_before_its_day() -> None:
    lowered = (AgeRule("X", 16, "A", "s"), AgeRule("X", 13, "A", "s", RAISED_ON))
    assert RAISED_ON == of_age_on(AgeFacts((date(2013, 1, 1),)), lowered, TODAY)
    assert date(2028, 1, 1) == of_age_on(AgeFacts((date(2015, 1, 1),)), lowered, TODAY)


def test_d19_a_band_has_to_reach_every_age_that_is_to_come() -> None:
    assert [None, OF_AGE] == [of_age_on(AgeFacts(band=band), RAISED, TODAY) for band in ("13-15", "16-17")]


@given(births, st.integers(1, 21), st.integers(1, 21), st.dates(TODAY, date(2040, 1, 1)), st.integers(0, 9000))
def test_d19_nobody_of_age_is_below_any_age_that_holds_later(
    born: date, age: int, later: int, changed: date, days: int
) -> None:
    rules = (AgeRule("X", age, "A", "s"), AgeRule("X", later, "A", "s", changed))
    reached = of_age_on(AgeFacts((born,)), rules, TODAY)
    assert reached is not None
    day = max(reached, TODAY) + timedelta(days=days)
    assert not is_child(born, later if day >= changed else age, day)


def test_a_birth_date_need_not_be_kept() -> None:
    assert date(2028, 1, 2) == consent_age_reached_on(RIDES, date(2015, 1, 2), "GB", now=NOON)
    assert OF_AGE == consent_age_reached_on(RIDES, date(1990, 1, 2), "GB", now=NOON)
    assert date(2029, 1, 2) == consent_age_reached_on(RIDES, date(2015, 1, 2), "CA", "QC", now=NOON)
    assert consent_age_reached_on(RIDES, None, "GB") is None
    assert OF_AGE <= cautious_today(NOON)
    assert OF_AGE not in PLACEHOLDERS
