"""A hold keeps exactly the rows that it names, from the moment it is placed until it is released or runs out."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import ForeignKey, Table, create_engine, delete, not_, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import FileKeyring, GeoPoint, Personal, Privacy, data_subject, events, not_personal, owned_by, purposes
from privkit.errors import ClockError, InvalidValue
from privkit.sqlalchemy import holds, ledger
from tests.databases import raw_rows
from tests.sqlalchemy.rides import POLICY, START, Clock, Rider, RideService, Trip, rider

REASON = "Court order 7/26 about Ada Lovelace"
BY = "counsel@rides.example"


@pytest.fixture
def service(service: RideService) -> RideService:
    """Three riders: the first and the second with a trip, the third with two."""
    service.sign_up(rider(1), rider(2), rider(3, trips=[Trip(start=GeoPoint(1, 1)), Trip(start=GeoPoint(2, 2))]))
    return service


def key_of(service: RideService, number: int) -> bytes:
    table = Rider.__table__
    with service.engine.connect() as connection:
        return bytes(connection.execute(select(table.c.privkit_key).where(table.c.id == number)).scalar_one())


def place(service: RideService, **options: Any) -> int:
    with service.engine.begin() as connection:
        return holds.place(connection, service.guard, **{"reason": REASON, "by": BY} | options)


def release(service: RideService, hold: int) -> None:
    with service.engine.begin() as connection:
        holds.release(connection, service.guard, hold, by=BY)


def held(service: RideService, model: Any, now: Callable[[], datetime] | None = None) -> list[int]:
    """The ids of the held rows. The others must be the rest: a row that is neither would be lost to every run."""
    table: Table = model.__table__
    found = holds.held(service.guard, table, table, now or service.guard.now)
    with purposes.internally(), service.engine.connect() as connection:
        ids = list(connection.execute(select(table.c.id).where(found).order_by(table.c.id)).scalars())
        others = list(connection.execute(select(table.c.id).where(not_(found))).scalars())
        everything = list(connection.execute(select(table.c.id)).scalars())
    assert sorted(everything) == sorted(ids + others)
    return ids


def evidence(service: RideService) -> list[tuple[str, dict[str, Any]]]:
    with service.engine.connect() as connection:
        return [(entry.kind, json.loads(entry.body)) for entry in ledger.entries(connection, service.guard)]


def test_nothing_is_held_where_nothing_was_placed(service: RideService) -> None:
    assert ([], []) == (held(service, Rider), held(service, Trip))


def test_a_hold_on_a_data_subject_covers_all_rows_of_that_person(service: RideService) -> None:
    place(service, subject=key_of(service, 3))
    assert ([3], [3, 4]) == (held(service, Rider), held(service, Trip))


def test_a_hold_on_a_table_covers_its_rows_and_no_others(service: RideService) -> None:
    place(service, table="trips")
    assert ([], [1, 2, 3, 4]) == (held(service, Rider), held(service, Trip))


def test_a_hold_on_a_data_subject_in_a_table_covers_just_these_rows(service: RideService) -> None:
    place(service, subject=key_of(service, 2), table="trips")
    assert ([], [2]) == (held(service, Rider), held(service, Trip))


def test_several_holds_add_up_and_each_is_released_alone(service: RideService) -> None:
    first = place(service, subject=key_of(service, 1))
    second = place(service, subject=key_of(service, 1), table="trips")
    place(service, subject=key_of(service, 2))
    assert ([1, 2], [1, 2]) == (held(service, Rider), held(service, Trip))
    release(service, first)
    assert ([2], [1, 2]) == (held(service, Rider), held(service, Trip))
    release(service, second)
    assert ([2], [2]) == (held(service, Rider), held(service, Trip))


def test_a_row_that_comes_later_is_held_too(service: RideService) -> None:
    place(service, subject=key_of(service, 1))
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        session.add(Trip(rider_id=1, start=GeoPoint(3, 3)))
        session.commit()
    assert [1, 5] == held(service, Trip)


def test_an_alias_is_held_as_its_table_is(service: RideService) -> None:
    place(service, subject=key_of(service, 3))
    alias = Trip.__table__.alias()
    found = holds.held(service.guard, Trip.__table__, alias, service.guard.now)  # type: ignore[arg-type]
    with purposes.internally(), service.engine.connect() as connection:
        assert {3, 4} == set(connection.execute(select(alias.c.id).where(found)).scalars())


def test_a_delete_spares_what_is_held(service: RideService) -> None:
    place(service, subject=key_of(service, 3))
    place(service, subject=key_of(service, 1), table="trips")
    table: Any = Trip.__table__
    with purposes.internally(), service.engine.begin() as connection:
        free = not_(holds.held(service.guard, table, table, service.guard.now))
        assert 1 == connection.execute(delete(table).where(free)).rowcount
        assert {1, 3, 4} == set(connection.execute(select(table.c.id)).scalars())


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-11, minutes=-30))])
def test_a_hold_runs_out_at_its_instant_whatever_the_zone(service: RideService, clock: Clock, zone: timezone) -> None:
    end = datetime(2026, 3, 1, 0, 0, 0, 1, tzinfo=UTC)
    place(service, table="trips", until=end.astimezone(zone))
    for moment, expected in [
        (START, 4),
        (end - timedelta(microseconds=1), 4),
        (end, 0),
        (end + timedelta(microseconds=1), 0),
        (end + timedelta(days=400), 0),
    ]:
        assert expected == len(held(service, Trip, lambda moment=moment: moment.astimezone(zone)))  # type: ignore[misc]
        clock.now = moment
        assert expected == len(held(service, Trip))


def test_the_clock_is_asked_when_the_statement_runs(service: RideService, clock: Clock) -> None:
    place(service, table="trips", until=START + timedelta(hours=1))
    table = Trip.__table__
    found = select(table.c.id).where(holds.held(service.guard, table, table, service.guard.now))  # type: ignore[arg-type]
    with purposes.internally(), service.engine.connect() as connection:
        assert 4 == len(connection.execute(found).all())
        clock.now = START + timedelta(hours=1)
        assert 0 == len(connection.execute(found).all())


def test_a_released_hold_stays_on_record(service: RideService, database_url: str) -> None:
    hold = place(service, subject=key_of(service, 1))
    release(service, hold)
    rows = raw_rows(database_url, "SELECT id, reason, placed_by, released_at IS NULL FROM privkit_hold")
    assert [(hold, REASON, BY, 0)] == rows


def test_placing_and_releasing_are_in_the_ledger_without_the_words(service: RideService, database_url: str) -> None:
    hold = place(service, subject=key_of(service, 1), table="trips", until=START + timedelta(days=1))
    release(service, hold)
    (placed, first), (released, second) = evidence(service)
    assert ("hold_placed", "hold_released") == (placed, released)
    assert (hold, "trips", key_of(service, 1).hex(), "2026-01-02T12:00:00+00:00") == (
        first["hold"],
        first["table"],
        first["subject"],
        first["until"],
    )
    assert hold == second["hold"]
    assert first["by"] == second["by"]
    stored = str(raw_rows(database_url, "SELECT body FROM privkit_ledger"))
    for planted in (REASON, "Ada", BY, "counsel"):
        assert planted not in stored


def test_a_hold_rolls_back_with_its_line(service: RideService) -> None:
    with service.engine.connect() as connection:
        holds.place(connection, service.guard, reason=REASON, by=BY, table="trips")
        connection.rollback()
    assert ([], []) == (held(service, Trip), evidence(service))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"table": "trips", "reason": ""},
        {"table": "trips", "reason": " \n"},
        {"table": "trips", "reason": None},
        {"table": "trips", "by": " "},
        {"table": "tripz"},
        {"table": "privkit_key"},
        {"subject": bytes(16)},
        {"subject": b"short"},
        {"table": "trips", "until": START},
        {"table": "trips", "until": START - timedelta(days=1)},
    ],
)
def test_a_hold_that_would_hold_nothing_is_refused(service: RideService, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        place(service, **options)
    assert [] == evidence(service)


def test_an_end_without_a_zone_is_refused(service: RideService) -> None:
    with pytest.raises(ClockError):
        place(service, table="trips", until=datetime(2030, 1, 1))


def test_a_data_subject_without_a_living_key_cannot_be_held(service: RideService, database_url: str) -> None:
    key = key_of(service, 1)
    raw_rows(database_url, "UPDATE privkit_key SET wrapped = NULL")
    with pytest.raises(InvalidValue) as refusal:
        place(service, subject=key)
    assert key.hex() not in str(refusal.value)


def test_a_hold_is_released_once(service: RideService) -> None:
    hold = place(service, table="trips")
    release(service, hold)
    for number in (hold, hold + 1):
        with pytest.raises(InvalidValue):
            release(service, number)
    with pytest.raises(InvalidValue), service.engine.begin() as connection:
        holds.release(connection, service.guard, hold, by="")
    assert ["hold_placed", "hold_released"] == [kind for kind, _ in evidence(service)]


# Tables of other shapes.


class Base(DeclarativeBase):
    pass


class Closing:
    closed_at: Mapped[datetime | None]


@data_subject
@events(account_closed="closed_at")
@not_personal("id", "kind", "closed_at", because="row id, class name and event time")
class Person(Closing, Base):
    __tablename__ = "people"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[Annotated[str, Personal("user.name", purposes={"account"})]]


@not_personal("id", because="row id")
class Driver(Person):
    __tablename__ = "drivers"
    __mapper_args__ = {"polymorphic_identity": "driver"}
    id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    licence: Mapped[Annotated[str, Personal("user.government_id", purposes={"account"}, seal=True)]]


@owned_by("person_id")
@events(account_closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Note(Closing, Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))
    text: Mapped[Annotated[str, Personal("user.content", purposes={"account"}, seal=False)]]


@events(account_closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Visit(Closing, Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[Annotated[str, Personal("user.device.ip_address", purposes={"account"}, seal=False)]]


@pytest.fixture
def shapes(database_url: str, tmp_path: Path) -> Iterator[RideService]:
    privacy = Privacy(policy=POLICY, models=Base, keys=FileKeyring.create(tmp_path / "shapes.json"), clock=Clock())
    engine = create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("account"), Session(engine) as session:
        session.add(Person(id=1, name="Ada"))
        session.add_all([Driver(id=2, name="Grace", licence="L2"), Driver(id=3, name="Joan", licence="L3")])
        session.add_all([Visit(id=1, address="192.0.2.1"), Visit(id=2, address="192.0.2.2")])
        session.flush()
        session.add_all([Note(id=1, person_id=2, text="a"), Note(id=2, person_id=None, text="b")])
        session.commit()
    yield RideService(privacy, engine, Clock())
    engine.dispose()


def person_key(service: RideService, number: int) -> bytes:
    table = Person.__table__
    with service.engine.connect() as connection:
        return bytes(connection.execute(select(table.c.privkit_key).where(table.c.id == number)).scalar_one())


def test_a_table_without_an_owner_is_held_by_its_name(shapes: RideService) -> None:
    place(shapes, subject=person_key(shapes, 2))
    assert [] == held(shapes, Visit)
    place(shapes, table="visits")
    assert [1, 2] == held(shapes, Visit)


def test_a_row_without_an_owner_yet_is_free_of_holds_on_people(shapes: RideService) -> None:
    place(shapes, subject=person_key(shapes, 2))
    assert [1] == held(shapes, Note)
    place(shapes, table="notes")
    assert [1, 2] == held(shapes, Note)


def test_a_hold_on_a_person_covers_the_rows_of_every_table_it_lies_in(shapes: RideService) -> None:
    place(shapes, subject=person_key(shapes, 2))
    assert ([2], [2]) == (held(shapes, Person), held(shapes, Driver))


def test_a_hold_on_a_base_table_covers_what_inherits_from_it(shapes: RideService) -> None:
    place(shapes, table="people")
    assert ([1, 2, 3], [2, 3]) == (held(shapes, Person), held(shapes, Driver))


def test_a_data_subject_in_a_table_without_an_owner_is_no_hold(shapes: RideService) -> None:
    with pytest.raises(InvalidValue):
        place(shapes, subject=person_key(shapes, 2), table="visits")
