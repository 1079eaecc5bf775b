"""The SQL that finds what is due, and what reads show, agree with the one function that decides lifetimes."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from privkit import retention
from privkit.errors import MappingError
from privkit.lifetime import Status
from privkit.sqlalchemy import holds
from privkit.sqlalchemy.states import lifetime_of
from tests.sqlalchemy.rides import SIGN_UP, START, UNTIL, Rider, RideService, rider

EDGES = [
    datetime(2024, 1, 31, 12),
    datetime(2024, 2, 29),
    datetime(2023, 12, 31, 23, 59, 59, 999999),
    datetime(2024, 3, 31, 1, 30),
    datetime(2030, 1, 1),
    None,
]


def test_what_is_due_in_sql_is_what_the_function_says(service: RideService) -> None:
    chance = random.Random(4)
    closings = EDGES + [datetime(2023, 1, 1) + timedelta(seconds=chance.randrange(10**8)) for _ in range(60)]
    service.sign_up(*(rider(number, closed_at=closed, trips=[]) for number, closed in enumerate(closings, start=1)))
    moments = [datetime(2025, 2, 28, 23, 59, 59, 999999, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC), START]
    moments += [closed.replace(tzinfo=UTC) + timedelta(days=30) for closed in closings[6:12]]
    for moment in moments:
        with service.engine.connect() as connection:
            plan = retention.make(service.guard, connection, moment)
        found = {step.field: step.due for step in plan.steps if step.table == "riders"}
        assert found == {
            name: sum(_goes(service, name, closed, moment) for closed in closings)
            for name in ("email", "name", "born", "home")
        }, moment


def _goes(service: RideService, name: str, closed: datetime | None, moment: datetime) -> bool:
    rule = service.guard.rules[f"riders.{name}"]
    events = {"account_closed": closed.replace(tzinfo=UTC) if closed else None}
    return lifetime_of(rule, events, held=False, now=moment).status in (Status.DEIDENTIFY, Status.DELETE)


def test_a_field_s_state_names_the_rule_and_the_instant_it_changes(service: RideService) -> None:
    service.sign_up(rider(1, trips=[]), rider(2, home=None, trips=[]), rider(3, trips=[]))
    with Session(service.engine) as session:
        session.execute(update(Rider).where(Rider.id == 3).values(closed_at=datetime(2025, 12, 31, 18)))
        session.commit()
        one, two, three = session.scalars(select(Rider).order_by(Rider.id)).all()
        assert service.privacy.state(one, "home").word == "set"
        assert service.privacy.state(two, "home").word == "never set"
        closing = service.privacy.state(three, "name")
        assert (closing.word, closing.rule) == ("set", "account")
        assert closing.until == datetime(2026, 1, 30, 18, tzinfo=UTC)
        service.clock.now = datetime(2026, 1, 30, 18, tzinfo=UTC)
        expired = service.privacy.state(three, "name")
        assert (expired.word, expired.stored) == ("expired", True)
        service.clock.now -= timedelta(microseconds=1)
        assert service.privacy.state(three, "name").word == "set"


def test_a_held_field_is_restricted_by_the_hold(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=datetime(2020, 1, 1), trips=[]))
    with service.engine.begin() as connection:
        holds.place(connection, service.guard, reason="claim", by="legal", until=UNTIL, table="riders")
    with Session(service.engine) as session:
        held = service.privacy.state(session.get_one(Rider, 1), "name")
    assert (held.word, held.rule) == ("restricted", "hold")


def test_a_state_is_asked_of_a_marked_field_of_a_loaded_row_only(service: RideService) -> None:
    with pytest.raises(MappingError):
        service.privacy.state(rider(1), "home")
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        session.add(rider(1))
        session.commit()
        with pytest.raises(MappingError):
            service.privacy.state(session.scalars(select(Rider)).one(), "country")
