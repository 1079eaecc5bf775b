"""One clock, asked once, always aware and in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.clock import as_utc, instant, system_clock
from privkit.errors import ClockError

zones = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones)


@given(moments)
def test_the_instant_is_the_same_and_the_zone_is_utc(moment: datetime) -> None:
    assert (moment, UTC) == (as_utc(moment), as_utc(moment).tzinfo)


@given(moments)
def test_a_clock_of_any_zone_is_asked_for_utc(moment: datetime) -> None:
    assert as_utc(moment) == instant(lambda: moment)


def test_the_system_clock_is_aware_and_does_not_go_back() -> None:
    first, second = instant(system_clock), instant(system_clock)
    assert UTC == first.tzinfo
    assert first <= second


def test_a_clock_without_a_zone_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(ClockError) as refusal:
        instant(lambda: datetime(2025, 1, 1))
    assert "datetime.now(UTC)" in refusal.value.fix
    assert "2025" not in str(refusal.value)
