from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.errors import ClockError, MappingError
from privkit.lifetime import Clause, Lifetime, Status, expired, field_lifetime, last_end
from privkit.markers import Delete, Generalise, Pseudonymise, Suppress, Technique, Year
from privkit.periods import Period

TICK = timedelta(microseconds=1)
ORDER = {Status.KEEP: 0, Status.RESTRICT: 1, Status.DEIDENTIFY: 2, Status.DELETE: 2}
SUPPRESS = Suppress()
CLOSED = datetime(2026, 1, 31, 12, tzinfo=UTC)


def clause(name: str, period: str | None, event: str = "closed") -> Clause:
    return Clause(name, Period.parse(period) if period else None, event)


def decide(
    purposes: list[Clause],
    now: datetime,
    *,
    duties: list[Clause] | None = None,
    events: Mapping[str, datetime | None] | None = None,
    technique: Technique = SUPPRESS,
    held: bool = False,
) -> Lifetime:
    facts = {"closed": CLOSED} if events is None else events
    return field_lifetime(purposes=purposes, duties=duties or [], events=facts, technique=technique, held=held, now=now)


moments = st.datetimes(datetime(1975, 1, 1), datetime(2075, 1, 1), timezones=st.just(UTC))
periods = st.sampled_from(["PT1S", "PT12H", "P1D", "P30D", "P1M", "P12M", "P1Y", "P7Y", "P1M1D"]).map(Period.parse)
clauses = st.builds(
    Clause,
    st.sampled_from("abcdef"),
    st.none() | periods,
    st.sampled_from(["x", "y", "z"]),
    st.sampled_from(["", "", "z"]),
)
event_times = st.dictionaries(st.sampled_from(["x", "y", "z"]), st.none() | moments)
facts = st.fixed_dictionaries(
    {
        "purposes": st.lists(clauses, min_size=1, max_size=4),
        "duties": st.lists(clauses, max_size=3),
        "events": event_times,
        "technique": st.sampled_from([Suppress(), Delete(), Generalise(Year()), Pseudonymise("d")]),
        "held": st.booleans(),
    }
)


@given(facts, moments, moments)
def test_a_status_never_goes_back(known: dict[str, Any], one: datetime, other: datetime) -> None:
    earlier, later = sorted((one, other))
    before, after = field_lifetime(**known, now=earlier), field_lifetime(**known, now=later)
    assert ORDER[before.status] <= ORDER[after.status]


@given(facts, moments)
def test_until_is_the_exact_instant_of_the_change(known: dict[str, Any], now: datetime) -> None:
    found = field_lifetime(**known, now=now)
    if found.until is not None:
        assert found.until > now
        assert found == field_lifetime(**known, now=found.until - TICK)
        assert found.status is not field_lifetime(**known, now=found.until).status


@given(facts, moments, moments)
def test_without_until_nothing_changes_later_on_the_same_facts(
    known: dict[str, Any], one: datetime, other: datetime
) -> None:
    now, later = sorted((one, other))
    found = field_lifetime(**known, now=now)
    if found.until is None:
        assert found.status is field_lifetime(**known, now=later).status


@given(facts, clauses, moments)
def test_another_purpose_never_shortens_a_life(known: dict[str, Any], extra: Clause, now: datetime) -> None:
    more = {**known, "purposes": [*known["purposes"], extra]}
    assert ORDER[field_lifetime(**more, now=now).status] <= ORDER[field_lifetime(**known, now=now).status]


@given(facts, clauses, moments)
def test_another_duty_never_destroys_earlier(known: dict[str, Any], extra: Clause, now: datetime) -> None:
    more = {**known, "duties": [*known["duties"], extra]}
    assert ORDER[field_lifetime(**more, now=now).status] <= ORDER[field_lifetime(**known, now=now).status]


@given(facts, moments)
def test_a_field_is_kept_exactly_while_some_purpose_has_not_expired(known: dict[str, Any], now: datetime) -> None:
    needed = any(not expired(purpose, known["events"], now) for purpose in known["purposes"])
    assert needed is (field_lifetime(**known, now=now).status is Status.KEEP)


@given(facts, moments)
def test_nothing_is_destroyed_under_a_hold_or_a_duty(known: dict[str, Any], now: datetime) -> None:
    bound = known["held"] or any(not expired(duty, known["events"], now) for duty in known["duties"])
    assert not (bound and ORDER[field_lifetime(**known, now=now).status] == 2)


@given(periods, moments, moments)
def test_expired_is_the_same_in_sql(period: Period, event: datetime, now: datetime) -> None:
    assert (event <= period.cutoff(now)) is expired(Clause("a", period, "x"), {"x": event}, now)


@given(periods, moments, st.integers(-2, 2))
def test_expired_is_the_same_in_sql_on_the_edge(period: Period, event: datetime, ticks: int) -> None:
    now = period.after(event) + ticks * TICK
    assert (event <= period.cutoff(now)) is expired(Clause("a", period, "x"), {"x": event}, now) is (ticks >= 0)


def test_the_purpose_that_lives_longest_decides() -> None:
    purposes = [clause("pickup", "P1D"), clause("receipts", "P2Y"), clause("account", "P1Y")]
    end = datetime(2028, 1, 31, 12, tzinfo=UTC)
    assert Lifetime(Status.KEEP, "receipts", end) == decide(purposes, CLOSED)
    assert Lifetime(Status.DELETE, "receipts", None) == decide(purposes, end)


@pytest.mark.parametrize("events", [{}, {"closed": None}])
def test_an_event_that_has_not_happened_keeps_the_field(events: dict[str, None]) -> None:
    assert Lifetime(Status.KEEP, "pickup", None) == decide([clause("pickup", "P1D")], CLOSED, events=events)


def test_an_event_in_the_future_has_not_happened() -> None:
    future = {"closed": CLOSED + timedelta(days=400)}
    assert Status.KEEP is decide([clause("pickup", "P1D")], CLOSED, events=future).status
    assert not expired(clause("pickup", "P1D"), future, CLOSED)


def test_for_ever_outlives_an_event_that_has_not_happened() -> None:
    purposes = [clause("pickup", "P1D", "never"), clause("archive", None)]
    assert Lifetime(Status.KEEP, "archive", None) == decide(purposes, CLOSED)


def test_the_first_of_equal_purposes_is_named() -> None:
    assert "b" == decide([clause("b", "P1D"), clause("a", "PT24H")], CLOSED).rule


def test_a_duty_restricts_after_the_last_purpose_and_ends() -> None:
    purposes, duties = [clause("pickup", "P1D")], [clause("audit", "P1Y"), clause("tax", "P7Y")]
    end = datetime(2033, 1, 31, 12, tzinfo=UTC)
    assert Status.KEEP is decide(purposes, CLOSED, duties=duties).status
    assert Lifetime(Status.RESTRICT, "tax", end) == decide(purposes, CLOSED + timedelta(days=1), duties=duties)
    assert Lifetime(Status.DELETE, "pickup", None) == decide(purposes, end, duties=duties)


def test_a_duty_whose_event_has_not_happened_is_active() -> None:
    found = decide([clause("pickup", "P1D")], CLOSED + timedelta(days=1), duties=[clause("tax", "P7Y", "paid")])
    assert Lifetime(Status.RESTRICT, "tax", None) == found


def test_a_hold_restricts_what_would_go_and_never_extends_a_purpose() -> None:
    later = CLOSED + timedelta(days=1)
    assert Lifetime(Status.RESTRICT, "hold", None) == decide([clause("pickup", "P1D")], later, held=True)
    assert Lifetime(Status.KEEP, "pickup", later) == decide([clause("pickup", "P1D")], CLOSED, held=True)


def test_a_duty_under_a_hold_has_no_known_end() -> None:
    found = decide([clause("pickup", "P1D")], CLOSED + timedelta(days=2), duties=[clause("tax", "P7Y")], held=True)
    assert Lifetime(Status.RESTRICT, "tax", None) == found


@pytest.mark.parametrize(
    ("technique", "status"),
    [
        (Suppress(), Status.DELETE),
        (Delete(), Status.DELETE),
        (Generalise(Year()), Status.DEIDENTIFY),
        (Pseudonymise("d"), Status.DEIDENTIFY),
    ],
)
def test_what_leaves_a_residue_is_de_identified(technique: Technique, status: Status) -> None:
    found = decide([clause("pickup", "P1D")], CLOSED + timedelta(days=1), technique=technique)
    assert Lifetime(status, "pickup", None) == found


@pytest.mark.parametrize(("own", "end"), [(None, 30), (3, 3), (400, 400)])
def test_b07_a_row_s_own_end_replaces_the_period_and_none_leaves_it(own: int | None, end: int) -> None:
    events = {"closed": CLOSED, "expires": None if own is None else CLOSED + timedelta(days=own)}
    one = Clause("pickup", Period.parse("P30D"), "closed", "expires")
    assert Lifetime(Status.KEEP, "pickup", CLOSED + timedelta(days=end)) == decide([one], CLOSED, events=events)


def test_b07_a_row_s_own_end_counts_without_the_event_and_never_ends_what_is_for_ever() -> None:
    events = {"closed": None, "expires": CLOSED}
    assert expired(Clause("pickup", Period.parse("P30D"), "closed", "expires"), events, CLOSED)
    assert not expired(Clause("archive", None, "closed", "expires"), events, CLOSED)


def test_the_last_end_is_unknown_while_one_clause_has_none() -> None:
    known, open_ended = clause("pickup", "P1D"), clause("tax", "P1Y", "paid")
    assert CLOSED + timedelta(days=1) == last_end([known], {"closed": CLOSED})
    assert last_end([known, open_ended], {"closed": CLOSED}) is None


def test_a_field_without_a_purpose_is_an_error() -> None:
    with pytest.raises(MappingError, match="no purpose"):
        decide([], CLOSED)


def test_b01_an_instant_without_a_zone_is_refused() -> None:
    naive = datetime(2026, 1, 1)
    for period in ("P30D", None):
        one = clause("pickup", period)
        with pytest.raises(ClockError):
            decide([one], CLOSED, events={"closed": naive})
        with pytest.raises(ClockError):
            expired(one, {"closed": naive}, CLOSED)
        with pytest.raises(ClockError):
            decide([one], naive)
        with pytest.raises(ClockError):
            expired(one, {"closed": CLOSED}, naive)


@pytest.mark.parametrize("hours", [-8, 0, 9, 13])
def test_b01_the_zone_of_an_instant_does_not_move_the_window(hours: int) -> None:
    zone, one = timezone(timedelta(hours=hours)), clause("pickup", "P30D")
    end = CLOSED + timedelta(days=30)
    facts_there = {"closed": CLOSED.astimezone(zone)}
    assert expired(one, facts_there, end.astimezone(zone))
    assert not expired(one, facts_there, (end - TICK).astimezone(zone))
    assert end == decide([one], CLOSED, events=facts_there).until


@pytest.mark.parametrize(
    ("anchor", "period", "end"),
    [
        ("2026-01-31", "P1M", "2026-03-01"),
        ("2026-01-29", "P1M", "2026-03-01"),
        ("2024-02-29", "P12M", "2025-03-01"),
        ("2024-02-29", "P1M", "2024-03-29"),
        ("2026-04-30", "P1M", "2026-05-30"),
    ],
)
def test_b04_a_period_is_never_shorter_than_declared(anchor: str, period: str, end: str) -> None:
    start, last = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (anchor, end))
    one = clause("pickup", period)
    days = [start + timedelta(days=number) for number in range(400)]
    assert [day for day in days if day >= last] == [day for day in days if expired(one, {"closed": start}, day)]


def test_b05_one_definition_serves_the_decision_and_the_sql_cutoff() -> None:
    anchor, one = datetime(2021, 3, 31, tzinfo=UTC), clause("pickup", "P3M")
    for day, gone in ((datetime(2021, 6, 30, tzinfo=UTC), False), (datetime(2021, 7, 1, tzinfo=UTC), True)):
        assert one.period is not None
        assert gone is expired(one, {"closed": anchor}, day) is (anchor <= one.period.cutoff(day))
        assert gone is (decide([one], day, events={"closed": anchor}).status is Status.DELETE)
