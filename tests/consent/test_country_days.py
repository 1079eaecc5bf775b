"""Every row of the ages of digital consent, on the day before the birthday, on it and on the day after."""

from calendar import isleap
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from sqlalchemy import select
from sqlalchemy.orm import Session

from privkit.consent.age import AgeFacts, of_age_on
from privkit.policy import load
from tests.sqlalchemy.rides import POLICY, Clock, Rider, ride_service, rider

PACK = Path(__file__).resolve().parents[2] / "policies" / "packs" / "consent-ages.yaml"
FACTS: dict[str, Any] = YAML(typ="safe").load(PACK.read_text(encoding="utf-8"))["child"]["age_of_digital_consent"]
RIDES = load(POLICY)
DAY = date(2026, 11, 25)


def holding(place: str, day: date) -> int:
    """The age of a row on a day, as the facts say it: an uncertain one is no lower than the default."""
    row = FACTS["rows"][place]
    entries = row if isinstance(row, list) else [row]
    entry = [each for each in entries if str(each.get("from", "0001-01-01")) <= day.isoformat()][-1]
    return max(entry["age"], FACTS["default"]["age"]) if entry["status"] == "U" else int(entry["age"])


def is_of_age(place: str, born: date, today: date) -> bool:
    country, _, region = place.partition("-")
    found = of_age_on(AgeFacts((born,)), RIDES.ages_of_consent(country, region or None, today), today)
    return found is not None and found <= today


@pytest.mark.parametrize("place", sorted(FACTS["rows"]))
def test_the_day_before_the_birthday_is_a_child_s_and_the_day_itself_is_not(place: str) -> None:
    for day in (DAY, date(2027, 3, 1), date(2030, 12, 31)):
        born = day.replace(year=day.year - holding(place, day))
        around = [day - timedelta(days=1), day, day + timedelta(days=1)]
        assert [False, True, True] == [is_of_age(place, born, today) for today in around], day


@pytest.mark.parametrize("place", sorted(FACTS["rows"]))
def test_d04_who_was_born_on_a_29_february_comes_of_age_on_1_march_of_a_year_without_one(place: str) -> None:
    born = date(2012, 2, 29)
    year = born.year + holding(place, date(2027, 1, 1))
    reached = date(year, 2, 29) if isleap(year) else date(year, 3, 1)
    assert holding(place, reached) == year - born.year  # the same age holds by then
    around = [reached - timedelta(days=1), reached, reached + timedelta(days=1)]
    assert [False, True, True] == [is_of_age(place, born, today) for today in around]


def test_storage_shows_in_each_country_who_has_had_the_birthday_and_nobody_else(
    database_url: str, tmp_path: Path
) -> None:
    clock = Clock(datetime(2026, 11, 25, 12, tzinfo=UTC))  # noon: the day has begun everywhere
    service, expected, riders = ride_service(database_url, tmp_path, clock), set(), []
    for place in (each for each in sorted(FACTS["rows"]) if "-" not in each):
        born = DAY.replace(year=DAY.year - holding(place, DAY))
        for days in (-1, 0, 1):  # had it yesterday, has it today, has it tomorrow
            number = len(riders) + 1
            riders.append(rider(number, born=born + timedelta(days=days), country=place, trips=[], home=None))
            expected |= {number} if days < 1 else set()
    service.sign_up(*riders)
    with service.privacy.purpose("account"), Session(service.engine) as session:
        assert expected == set(session.scalars(select(Rider.id)))
    clock.now += timedelta(days=1)
    with service.privacy.purpose("account"), Session(service.engine) as session:
        assert len(riders) == len(session.scalars(select(Rider.id)).all())
    service.engine.dispose()
