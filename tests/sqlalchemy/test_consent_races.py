"""A withdrawal that commits while others write: nothing that commits later rests on what was withdrawn."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from privkit import GeoPoint, purposes
from privkit.errors import ConsentRequired
from privkit.sqlalchemy import consents
from tests.databases import raw_rows
from tests.sqlalchemy.rides import START, Rider, RideService, Trip, rider

CHILD, ADULT = 1, 2
Write = Callable[[Connection], Any]


def upsert(connection: Connection) -> None:
    make: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = make(Trip).values(id=1, rider_id=CHILD, start=GeoPoint(2, 2))
    set_ = {"start": statement.excluded.start}
    connection.execute(statement.on_conflict_do_update(index_elements=[Trip.__table__.c.id], set_=set_))


WRITES: dict[str, Write] = {
    "upsert": upsert,
    "insert": lambda connection: connection.execute(insert(Trip), [{"rider_id": CHILD, "start": GeoPoint(2, 2)}]),
    "update": lambda connection: connection.execute(
        update(Trip).where(Trip.rider_id == CHILD).values(start=GeoPoint(2, 2))
    ),
}


@pytest.fixture
def service(service: RideService) -> RideService:
    """A child whose guardian consented to navigation, and an adult, each with a trip."""
    service.sign_up(rider(CHILD), rider(ADULT))
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        child = session.get_one(Rider, CHILD)
        child.born = date(2015, 5, 5)
        given: dict[str, Any] = {"guardian": "mother", "method": "signed_form"}
        service.privacy.consent.grant(session, subject=child, purposes={"navigation"}, **given)
        service.privacy.consent.switch_on(session, subject=child, purposes={"navigation"})  # off for children
        session.commit()
    return service


def withdraw(service: RideService) -> None:
    with service.engine.begin() as connection:
        key = connection.execute(
            select(Rider.__table__.c.privkit_key).where(Rider.__table__.c.id == CHILD)
        ).scalar_one()
        consents.withdraw(connection, service.guard, bytes(key), ["navigation"])


def starts(database_url: str) -> list[Any]:
    return raw_rows(database_url, "SELECT id, start FROM trips ORDER BY id")


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("isolation", [None, "REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_began_before_the_withdrawal_writes_nothing(
    service: RideService, database_url: str, isolation: str | None, write: str
) -> None:
    if isolation == "REPEATABLE READ" and service.engine.dialect.name == "sqlite":
        isolation = None  # it has no such level: what it has is stricter
    before, engine = starts(database_url), service.engine.execution_options(**_level(isolation))
    with service.privacy.purpose("navigation"), engine.connect() as connection:
        assert 2 == connection.scalar(select(func.count()).select_from(Rider.__table__).where(Rider.__table__.c.id > 0))
        withdraw(service)
        with pytest.raises((ConsentRequired, OperationalError)) as refused:
            WRITES[write](connection)
        assert isolation is not None or isinstance(refused.value, ConsentRequired)
    assert before == starts(database_url)


def _level(isolation: str | None) -> dict[str, Any]:
    return {} if isolation is None else {"isolation_level": isolation}


@pytest.mark.parametrize("write", WRITES)
def test_a_withdrawal_between_the_question_and_the_lock_is_seen(
    service: RideService, database_url: str, write: str
) -> None:
    before, slipped = starts(database_url), []

    @event.listens_for(service.engine, "before_cursor_execute")
    def slip_in(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not slipped and ("FOR SHARE" in statement or statement.startswith("UPDATE privkit_key")):
            slipped.append(True)
            withdraw(service)

    with service.privacy.purpose("navigation"), pytest.raises(ConsentRequired), service.engine.begin() as connection:
        WRITES[write](connection)
    assert [True] == slipped
    assert before == starts(database_url)


@pytest.mark.parametrize("write", WRITES)
def test_a_withdrawal_waits_for_a_write_that_rests_on_the_consent(
    service: RideService, database_url: str, write: str
) -> None:
    before = starts(database_url)
    with ThreadPoolExecutor(1) as pool:
        with service.privacy.purpose("navigation"), service.engine.begin() as connection:
            WRITES[write](connection)
            withdrawal = pool.submit(withdraw, service)
            assert not wait([withdrawal], timeout=0.3).done
            assert [(1,)] == raw_rows(database_url, "SELECT count(*) FROM privkit_consent")
        withdrawal.result()
    assert before != starts(database_url)
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        assert {ADULT} == set(session.scalars(select(Trip.rider_id)))


def test_a_write_for_an_adult_locks_nothing(service: RideService) -> None:
    seen: list[str] = []
    event.listen(service.engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
    with service.privacy.purpose("navigation"), service.engine.begin() as connection:
        connection.execute(insert(Trip), [{"rider_id": ADULT, "start": GeoPoint(2, 2)}])
    assert [] == [each for each in seen if "FOR SHARE" in each or each.startswith("UPDATE")]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_withdrawal_while_a_purge_runs_ends_reading_at_once_and_the_purge_ends_well(
    service: RideService, isolation: str
) -> None:
    """The reader's transaction began before the withdrawal, the purge's batches commit before and after it."""
    old = START - timedelta(days=3)
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        session.add_all([Trip(rider_id=ADULT, start=GeoPoint(1, 1), ended_at=old) for _ in range(6)])
        session.commit()
    sqlite, batches = service.engine.dialect.name == "sqlite", 0
    reading = (
        service.engine.execution_options() if sqlite else service.engine.execution_options(isolation_level=isolation)
    )
    with service.privacy.purpose("navigation"), Session(reading) as reader:
        if not sqlite:  # there an open reader would keep the file from its writers
            assert {CHILD, ADULT} == set(reader.scalars(select(Trip.rider_id)))

        def between(*_: Any) -> None:
            nonlocal batches
            batches += 1
            if batches == 2:
                withdraw(service)

        with purposes.internally():
            run = service.privacy.purge(service.engine, service.privacy.plan(service.engine), batch=2, progress=between)
        assert batches > 2
        assert run.ok
        assert run.done == 6
        if not sqlite:
            reader.add(Trip(rider_id=CHILD, start=GeoPoint(2, 2)))
            with pytest.raises((ConsentRequired, OperationalError)):
                reader.commit()
            reader.rollback()
        assert {ADULT} == set(reader.scalars(select(Trip.rider_id)))
