"""How values are divided into epochs, and when an epoch is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.errors import InvalidValue
from privkit.periods import Period
from privkit.policy import Keep
from privkit.policy.epochs import Epochs, divided, ended_before

instants = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
widths = st.sampled_from([timedelta(hours=1), timedelta(hours=5), timedelta(days=1), timedelta(days=7)])
periods = st.sampled_from(["P1D", "P30D", "P1M", "P6M", "P1Y", "PT1H"]).map(Period.parse)


def keep(period: str = "P30D", after: str = "recorded", epoch: str | None = None) -> Keep:
    return Keep(Period.parse(period), after, Period.parse(epoch) if epoch else None)


@given(instants, widths)
def test_a_moment_lies_within_its_bucket(moment: datetime, width: timedelta) -> None:
    epochs = Epochs("recorded", width)
    number = epochs.number(moment)

    assert epochs.starts(number) <= moment < epochs.ends(number)
    assert number >= 1


@given(instants, instants, st.lists(periods, min_size=1, max_size=3))
def test_what_happened_before_the_limit_has_ended_and_nothing_else(
    now: datetime, moment: datetime, lengths: list[Period]
) -> None:
    limit = ended_before([Keep(length, "recorded") for length in lengths], now)

    assert limit is not None
    assert (moment < limit) == all(length.after(moment) <= now for length in lengths)


@given(instants, widths, widths)
def test_a_number_keeps_its_beginning_under_every_width(moment: datetime, one: timedelta, other: timedelta) -> None:
    number = Epochs("recorded", one).number(moment)

    assert Epochs("recorded", other).starts(number) == Epochs("recorded", one).starts(number)


def test_what_is_kept_for_ever_never_ends() -> None:
    assert ended_before([keep(), None], datetime(2030, 1, 1, tzinfo=UTC)) is None


def test_a_moment_before_1970_has_no_epoch() -> None:
    with pytest.raises(InvalidValue, match="before 1970"):
        Epochs("recorded", timedelta(days=1)).number(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC))


def test_keeps_that_name_no_epoch_divide_nothing() -> None:
    assert divided([keep(), keep("P1Y")]) is None


def test_one_epoch_serves_all_keeps_of_its_event() -> None:
    assert Epochs("recorded", timedelta(days=1)) == divided([keep(epoch="P1D"), keep("P1Y")])


@pytest.mark.parametrize(
    ("keeps", "reason"),
    [
        ([keep(epoch="P1D"), keep(epoch="P7D")], "different widths"),
        ([keep(epoch="P1D"), keep(after="left")], "left, recorded"),
        ([keep(epoch="P1D"), None], "no event"),
    ],
)
def test_keeps_that_disagree_are_refused(keeps: list[Keep | None], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        divided(keeps)
