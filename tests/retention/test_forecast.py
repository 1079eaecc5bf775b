"""A forecast is the plan of each day to come."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from privkit.errors import InvalidValue
from privkit.retention import Expected, Forecast
from tests.retention.lattice import club, fill
from tests.retention.test_lattice import EDGES
from tests.sqlalchemy.rides import START, Clock, RideService, Trip, rider
from tests.sqlalchemy.rides import GeoPoint as Place


def by_name(forecast: Forecast) -> dict[str, Expected]:
    return {each.name: each for each in forecast.expected}


def test_a_field_falls_due_on_the_day_on_which_its_period_ends(service: RideService) -> None:
    service.sign_up(
        rider(1, closed_at=datetime(2026, 1, 1), trips=[]),
        rider(2, closed_at=datetime(2025, 12, 10), trips=[]),
        rider(3, trips=[]),
    )
    found = by_name(service.privacy.forecast(service.engine, days=40))
    assert {number: count for number, count in enumerate(found["riders.name"].falling) if count} == {8: 1, 30: 1}
    assert found["riders.born"].falling[:2] == (1, 1)  # what is due already, and the first day
    assert sum(found["riders.home"].falling) == 0  # for the demand map it is kept a year
    assert found["riders.name"].due == (*[0] * 8, *[1] * 22, *[2] * 11)
    assert found["riders.name"].rule == "account: P30D after account_closed"


def test_a_forecast_changes_nothing(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=datetime(2020, 1, 1), trips=[]))
    before = service.privacy.plan(service.engine).due
    service.privacy.forecast(service.engine, days=3)
    assert service.privacy.plan(service.engine).due == before
    assert service.privacy.status(service.engine).last is None


def test_a_forecast_of_each_day_is_the_plan_of_that_day(database_url: str, tmp_path: Path, clock: Clock) -> None:
    """Events of every kind, several of them a field, with rows that go as a whole later than their fields."""
    with club(database_url, tmp_path, clock, "America/New_York") as made:
        fill(made, Random(3), 20, EDGES)
        clock.now = datetime.fromisoformat("2024-02-25T09:00:00+00:00")
        forecast = made.privacy.forecast(made.engine, days=6)
        for number, instant in enumerate(forecast.instants):
            planned = {step.name: step.due for step in made.privacy.plan(made.engine, at=instant).steps}
            assert planned == {each.name: each.due[number] for each in forecast.expected}, instant
        assert sum(forecast.falling[1:]) > 0
        found = by_name(forecast)
        for name in ("bookings", "members.name", "members.email"):  # these go to no other step
            falling, due = found[name].falling, found[name].due
            assert [sum(falling[: number + 1]) for number in range(len(falling))] == list(due), name


def test_with_a_run_a_day_what_falls_due_is_what_each_run_destroys(service: RideService, clock: Clock) -> None:
    service.sign_up(
        *(rider(number, closed_at=datetime(2025, 12, 1 + number), trips=[]) for number in range(3)),
        rider(7, trips=[Trip(start=Place(51.5, 0.2), ended_at=datetime(2025, 12, 31, 18))]),
    )
    forecast = service.privacy.forecast(service.engine, days=2)
    done = []
    for instant in forecast.instants:
        clock.now = instant
        run = service.privacy.purge(service.engine, service.privacy.plan(service.engine))
        assert run.ok
        done.append(run.done)
    assert tuple(done) == forecast.falling


def test_more_than_a_hundred_days_are_told_by_the_week(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=datetime(2026, 1, 1), trips=[]))
    forecast = service.privacy.forecast(service.engine, days=367)
    assert {later - sooner for sooner, later in zip(forecast.instants, forecast.instants[1:-1], strict=False)} == {
        timedelta(days=7)
    }
    assert forecast.instants[-1] == START + timedelta(days=367)
    home = by_name(forecast)["riders.home"].falling
    assert [number for number, count in enumerate(home) if count] == [len(home) - 1]


def test_a_forecast_is_json_without_a_value(service: RideService) -> None:
    service.sign_up(rider(1, email="planted@secret.example", closed_at=datetime(2026, 1, 1), trips=[]))
    text = service.privacy.forecast(service.engine, days=2).json()
    body = json.loads(text)
    assert body["instants"][0] == START.isoformat()
    assert {each["table"] for each in body["expected"]} == {"riders", "trips"}
    assert "planted" not in text


@pytest.mark.parametrize("days", [0, 701])
def test_a_forecast_of_no_day_or_of_too_many_is_refused(service: RideService, days: int) -> None:
    with pytest.raises(InvalidValue, match="1 to 700"):
        service.privacy.forecast(service.engine, days=days)
