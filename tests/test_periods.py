"""Periods in calendar arithmetic: never shorter than declared, and exactly invertible."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privkit.errors import ClockError
from privkit.periods import Period

TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)

moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
fields = st.tuples(*(st.integers(0, 40) for _ in range(6)))


@st.composite
def periods(draw: st.DrawFn) -> Period:
    years, months, days, hours, minutes, seconds = draw(fields.filter(any))
    time = f"T{hours}H{minutes}M{seconds}S" if hours or minutes or seconds else ""
    return Period.parse(f"P{years}Y{months}M{days}D{time}")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("start", "period", "end"),
    [
        (utc(2025, 1, 28, 10), "P1M", utc(2025, 2, 28, 10)),
        (utc(2025, 1, 31, 10), "P1M", utc(2025, 3, 1)),
        (utc(2024, 1, 31, 10), "P1M", utc(2024, 3, 1)),
        (utc(2024, 1, 29, 10), "P1M", utc(2024, 2, 29, 10)),
        (utc(2025, 1, 29), "P1M", utc(2025, 3, 1)),
        (utc(2024, 2, 29, 10), "P1Y", utc(2025, 3, 1)),
        (utc(2024, 2, 29, 10), "P4Y", utc(2028, 2, 29, 10)),
        (utc(2024, 2, 29), "P2Y6M", utc(2026, 8, 29)),
        (utc(2025, 11, 30), "P3M", utc(2026, 3, 1)),
        (utc(2025, 12, 31, 23), "P1M", utc(2026, 1, 31, 23)),
        (utc(2025, 8, 31), "P1M1D", utc(2025, 10, 2)),
        (utc(2025, 3, 29, 12), "P2D", utc(2025, 3, 31, 12)),
        (utc(2025, 3, 29, 12), "PT36H", utc(2025, 3, 31)),
        (utc(2025, 1, 1), "P2W", utc(2025, 1, 15)),
    ],
)
def test_a_period_ends_on_the_same_day_or_with_the_month(start: datetime, period: str, end: datetime) -> None:
    assert end == Period.parse(period).after(start)


def test_a_month_back_from_31_march_2024_reaches_every_moment_of_29_february() -> None:
    assert utc(2024, 3, 1) - TICK == Period.parse("P1M").cutoff(utc(2024, 3, 31))


def test_a_start_in_another_zone_is_the_same_instant() -> None:
    kathmandu = timezone(timedelta(hours=5, minutes=45))
    start = utc(2025, 1, 31, 22)
    assert Period.parse("P1M").after(start) == Period.parse("P1M").after(start.astimezone(kathmandu))


@given(periods(), moments, moments)
@example(Period.parse("P1M"), utc(2025, 1, 30, 23), utc(2025, 1, 31))
@example(Period.parse("P1Y"), utc(2024, 2, 29, 23), utc(2024, 3, 1))
def test_a_later_start_never_ends_earlier(period: Period, one: datetime, other: datetime) -> None:
    first, second = sorted((one, other))
    assert period.after(first) <= period.after(second)


@given(periods(), moments)
@example(Period.parse("P1M"), utc(2025, 1, 31, 10))
@example(Period.parse("P1M"), utc(2024, 1, 31))
@example(Period.parse("P1Y"), utc(2024, 2, 29, 10))
def test_a_period_is_never_shorter_than_its_days(period: Period, start: datetime) -> None:
    assert period.after(start) - start >= period.rest + 28 * DAY * min(period.months, 1)
    assert period.after(start) - start >= period.rest + 365 * DAY * (period.months // 12)


@given(periods(), moments)
@example(Period.parse("P1M"), utc(2025, 2, 28, 23, 59, 59))
@example(Period.parse("P1M"), utc(2025, 3, 1))
@example(Period.parse("P1M"), utc(2024, 3, 31))
@example(Period.parse("P1Y"), utc(2025, 2, 28, 12))
@example(Period.parse("P1Y"), utc(2025, 3, 1))
@example(Period.parse("P4Y"), utc(2028, 2, 29))
def test_the_cutoff_is_the_latest_start_whose_period_has_passed(period: Period, now: datetime) -> None:
    cutoff = period.cutoff(now)
    assert period.after(cutoff) <= now < period.after(cutoff + TICK)


@given(periods(), moments, moments)
def test_comparing_with_the_cutoff_is_asking_whether_the_period_has_passed(
    period: Period, event: datetime, now: datetime
) -> None:
    assert (period.after(event) <= now) == (event <= period.cutoff(now))


@given(periods(), moments)
@example(Period.parse("P1M"), utc(2025, 1, 31))
def test_asking_at_the_very_end_includes_the_start(period: Period, start: datetime) -> None:
    assert start <= period.cutoff(period.after(start))


def test_a_period_beyond_the_calendar_stops_at_its_last_instant() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    assert last == Period.parse("P1000Y").after(utc(9500, 1, 1))
    assert last == Period.parse("P1M").after(utc(9999, 12, 31))
    assert last == Period.parse("P10D").after(utc(9999, 12, 30))


def test_before_the_calendar_nothing_has_passed_but_its_first_instant() -> None:
    assert datetime.min.replace(tzinfo=UTC) == Period.parse("P1000Y").cutoff(utc(500, 1, 1))


@pytest.mark.parametrize(
    ("text", "months", "rest"),
    [
        ("P1D", 0, DAY),
        ("P2Y6M", 30, timedelta()),
        ("P1Y2M3W4DT5H6M7S", 14, timedelta(days=25, hours=5, minutes=6, seconds=7)),
        ("PT1M", 0, timedelta(minutes=1)),
        ("P1000Y", 12_000, timedelta()),
    ],
)
def test_a_duration_is_read_part_by_part_and_printed_as_written(text: str, months: int, rest: timedelta) -> None:
    period = Period.parse(text)
    assert (months, rest, text) == (period.months, period.rest, str(period))


@pytest.mark.parametrize(
    "text",
    [
        *("", "P", "PT", "P1", "1D", "P1DT", "P-1D", "P1.5D", "P1H", "PT1D", "P1D ", " P1D", "P1D\n", "p1d", "P1M1Y"),
        *("30 days", "P\N{ARABIC-INDIC DIGIT ONE}D", "P0D", "P0Y0M", "PT0S"),
        *("P1001Y", "P400000D", "P999999999999D"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ISO 8601|zero length|longer than"):
        Period.parse(text)


@pytest.mark.parametrize("ask", [Period.parse("P1M").after, Period.parse("P1M").cutoff])
def test_an_instant_without_a_zone_is_refused(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(ClockError, match=r"^PK602: "):
        ask(datetime(2025, 1, 1))
