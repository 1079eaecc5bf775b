"""A hold keeps exactly the rows that it names, from the moment it is placed until it is released or runs out."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import ForeignKey, Table, create_engine, delete, not_, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import (
    FileKeyring,
    GeoPoint,
    Personal,
    Privacy,
    data_subject,
    events,
    not_personal,
    owned_by,
    policy,
    purposes,
)
from privkit.errors import ClockError, InvalidValue, PlanError, PolicyError
from privkit.sqlalchemy import destroy, due, holds, ledger, shred
from privkit.sqlalchemy.due import Target
from tests.databases import raw_rows
from tests.retention.fleet import Driver as FleetDriver
from tests.retention.fleet import fleet
from tests.sqlalchemy.restored import backup
from tests.sqlalchemy.rides import POLICY, START, UNTIL, Clock, Rider, RideService, Trip, rider
from tests.sqlalchemy.rides import Base as Rides
from tests.subjects.clinic import Clinic, clinic, patient
from tests.subjects.clinic import Visit as Consultation

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
        return holds.place(connection, service.guard, **{"reason": REASON, "by": BY, "until": UNTIL} | options)


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
        holds.place(connection, service.guard, reason=REASON, by=BY, table="trips", until=UNTIL)
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


def test_a_hold_on_a_table_that_inherits_covers_the_rest_of_its_rows(shapes: RideService) -> None:
    place(shapes, table="drivers")
    assert ([2, 3], [2, 3]) == (held(shapes, Person), held(shapes, Driver))


# Chosen rows.


def test_a_hold_on_rows_covers_these_and_what_refers_to_them(service: RideService) -> None:
    place(service, table="riders", rows=[1, (3,)])
    assert ([1, 3], [1, 3, 4]) == (held(service, Rider), held(service, Trip))


def test_a_hold_on_rows_leaves_their_parents_free(service: RideService) -> None:
    hold = place(service, table="trips", rows=[2])
    assert ([], [2]) == (held(service, Rider), held(service, Trip))
    release(service, hold)
    assert [] == held(service, Trip)


def test_a_condition_chooses_the_rows_that_meet_it_when_it_is_placed(service: RideService, clock: Clock) -> None:
    place(service, table="trips", where=Trip.rider_id == 3)
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        session.add(Trip(rider_id=3, start=GeoPoint(3, 3)))
        session.commit()
    assert [3, 4] == held(service, Trip)
    clock.now = UNTIL
    assert [] == held(service, Trip)


def test_a_condition_may_name_a_sealed_field_by_its_search(service: RideService) -> None:
    place(service, table="riders", where=Rider.email == "rider2@rides.example")
    assert [2] == held(service, Rider)


def test_rows_of_a_table_that_inherits_are_held_in_every_table_that_they_lie_in(shapes: RideService) -> None:
    place(shapes, table="drivers", rows=[2])
    assert ([2], [2], [1]) == (held(shapes, Person), held(shapes, Driver), held(shapes, Note))
    place(shapes, table="people", rows=[3])
    assert ([2, 3], [2, 3]) == (held(shapes, Person), held(shapes, Driver))


@pytest.mark.parametrize(
    "options",
    [
        {"rows": [1]},
        {"table": "trips", "rows": []},
        {"table": "trips", "rows": [1, 99]},
        {"table": "trips", "rows": [(1, 2)]},
        {"table": "trips", "rows": ["1"]},
        {"table": "trips", "rows": [True]},
        {"table": "trips", "where": Trip.id > 99},
        {"table": "trips", "where": Trip.id > 0, "rows": [1]},
        {"table": "trips", "rows": [1], "subject": b""},
        {"table": "tripz", "rows": [1]},
    ],
)
def test_chosen_rows_that_are_not_there_or_not_named_well_are_refused(
    service: RideService, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValue):
        place(service, **options)
    assert ([], []) == (evidence(service), held(service, Trip))


class Keyed(DeclarativeBase):
    pass


@data_subject
@events(account_closed="closed_at")
@not_personal("shelf", "slot", "closed_at", because="numbers of a shelf, and an event time")
class Locker(Closing, Keyed):
    __tablename__ = "lockers"
    shelf: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"account"})]]


@data_subject
@events(account_closed="closed_at")
@not_personal("closed_at", because="event time")
class Member(Closing, Keyed):
    __tablename__ = "members"
    email: Mapped[Annotated[str, Personal("user.contact.email", purposes={"account"}, seal=False)]] = mapped_column(
        primary_key=True
    )


def test_composite_keys_are_told_apart_and_personal_keys_are_never_written_down(
    database_url: str, tmp_path: Path
) -> None:
    privacy = Privacy(policy=POLICY, models=Keyed, keys=FileKeyring.create(tmp_path / "keyed.json"), clock=Clock())
    engine = create_engine(database_url)
    privacy.protect(engine)
    Keyed.metadata.create_all(engine)
    with privacy.purpose("account"), Session(engine) as session:
        session.add_all([Locker(shelf="a", slot="bc", name="Ada"), Locker(shelf="ab", slot="c", name="Grace")])
        session.add(Member(email="planted@mail.example"))
        session.commit()
    privacy.hold(engine, reason="claim", by="legal", table="lockers", rows=[("ab", "c")], until=UNTIL)
    table: Any = Locker.__table__
    with purposes.internally(), engine.connect() as connection:
        found = holds.held(privacy.guard, table, table, privacy.guard.now)
        assert [("ab", "c")] == list(connection.execute(select(table.c.shelf, table.c.slot).where(found)))
    with pytest.raises(InvalidValue, match="cannot be held") as refused:
        privacy.hold(engine, reason="claim", by="legal", table="members", rows=["planted@mail.example"], until=UNTIL)
    assert "planted" not in str(refused.value)
    engine.dispose()


def test_many_chosen_rows_are_written_down_in_pages_with_their_lines(service: RideService) -> None:
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        session.add_all(Trip(rider_id=1, start=GeoPoint(1, 1)) for _ in range(1100))
        session.commit()
    place(service, table="trips", where=Trip.rider_id == 1)
    assert 1101 == len(held(service, Trip))
    assert [500, 500, 101] == [len(body["rows"]) for kind, body in evidence(service) if kind == "hold_rows"]


def test_while_there_is_no_hold_no_row_is_looked_at(service: RideService) -> None:
    """Counted in steps of SQLite's own machine, which do not depend on how busy this one is."""
    if service.engine.dialect.name == "sqlite":
        with service.privacy.purpose("navigation"), Session(service.engine) as session:
            session.add_all(Trip(rider_id=number % 3 + 1, start=GeoPoint(1, 1)) for number in range(3000))
            session.commit()
    table: Any = Trip.__table__
    free = select(table.c.id).where(not_(holds.held(service.guard, table, table, service.guard.now)))
    with purposes.internally(), service.engine.connect() as connection:
        if service.engine.dialect.name == "sqlite":
            driver: Any = connection.connection.driver_connection
            steps: list[int] = []
            driver.set_progress_handler(lambda: steps.append(1), 100)
            assert 3004 == len(connection.execute(free).all())
            driver.set_progress_handler(None, 0)
            assert 100 * len(steps) < 15 * 3004  # for each row: whether there was a hold, and no more
        else:
            shown = str(raw_plan(connection, free))
            assert shown.count("never executed") >= 3


def raw_plan(connection: Any, query: Any) -> list[Any]:
    text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
    return list(connection.exec_driver_sql(f"EXPLAIN ANALYZE {text}").scalars())


# What depends on a held row, and on what it depends.


def closed(service: RideService, clock: Clock) -> None:
    raw = str(service.engine.url.render_as_string(hide_password=False))
    raw_rows(raw, "UPDATE trips SET ended_at = '2026-01-02 00:00:00'")
    raw_rows(raw, "UPDATE riders SET closed_at = '2026-01-02 00:00:00'")
    clock.now = START + timedelta(days=1200)


def test_b23_held_rows_and_their_dependants_survive_a_dry_run_and_a_real_one(
    service: RideService, clock: Clock, database_url: str
) -> None:
    hold = place(service, table="riders", rows=[1])
    closed(service, clock)
    plan = service.privacy.plan(service.engine)
    steps = {step.name: step for step in plan.steps}
    assert (3, 1) == (steps["trips"].due, steps["trips"].held)
    assert (2, 1) == (steps["riders.name"].due, steps["riders.name"].held)
    assert service.privacy.purge(service.engine, plan, yes_this_many=plan.due).ok
    assert [(1,)] == raw_rows(database_url, "SELECT rider_id FROM trips")
    assert [("Rider 1",)] == raw_rows(database_url, "SELECT name FROM riders WHERE id = 1")
    assert (0,) == raw_rows(database_url, "SELECT count(*) FROM riders WHERE name LIKE 'Rider %' AND id > 1")[0]
    explained = service.privacy.explain(service.engine, Trip, 1)
    assert ((hold, UNTIL),) == explained.holds

    release(service, hold)
    again = service.privacy.plan(service.engine)
    assert {0} == {step.held for step in again.steps}
    assert 1 == next(step for step in again.steps if step.name == "trips").due
    assert service.privacy.purge(service.engine, again, yes_this_many=again.due).ok
    assert [] == raw_rows(database_url, "SELECT id FROM trips")


@pytest.mark.parametrize("table", ["badges", "vehicles"])
def test_b23_a_held_row_keeps_the_parent_whose_deletion_would_change_it(
    database_url: str, tmp_path: Path, table: str
) -> None:
    """By a declared cascade badges would go with their driver, and vehicles lose it; neither has a lifetime."""
    engine, guard = fleet(database_url, tmp_path)
    with engine.begin() as connection:
        holds.place(connection, guard, reason="claim", by="legal", table=table, rows=[1], until=UNTIL)
        drivers: Any = FleetDriver.__table__
        with purposes.internally():
            assert 0 == destroy.delete_rows(connection, guard, drivers, [(1,)])
            assert 1 == destroy.delete_rows(connection, guard, drivers, [(2,)])
    assert [(1,)] == raw_rows(database_url, "SELECT id FROM drivers")
    assert [(1, 1)] == raw_rows(database_url, "SELECT id, driver_id FROM badges")
    engine.dispose()


def test_whoever_calls_a_statement_that_destroys_it_leaves_what_is_held(
    service: RideService, database_url: str
) -> None:
    """The rows are named by their keys, as by a caller that forgot to ask."""
    key = key_of(service, 1)
    place(service, subject=key)
    trips: Any = Trip.__table__
    guard, named = service.guard, [(1,), (2,)]
    targets = {str(each.field): each for each in due.field_targets(service.guard) if each.table.name == "riders"}
    with purposes.internally(), service.engine.begin() as connection:
        assert 1 == destroy.delete_rows(connection, guard, trips, named)
        assert 1 == destroy.suppress(connection, guard, targets["email"], named)
        destroy.replace_with_residue(connection, guard, targets["name"], [(each, "gone") for each in named])
        assert 0 == destroy.destroy_where(connection, guard, Target(trips, None, None), trips.c.id == 1)
        with pytest.raises(PlanError, match="A hold keeps"):
            shred.destroy_keys(connection, guard, [key])
    assert [("Rider 1",), ("gone",)] == raw_rows(database_url, "SELECT name FROM riders WHERE id < 3 ORDER BY id")
    assert [(1,), (3,), (4,)] == raw_rows(database_url, "SELECT id FROM trips ORDER BY id")


def test_f14_every_mapped_table_is_under_the_rule_without_being_named_in_it(service: RideService) -> None:
    """A table that is mapped tomorrow is, too: all that is asked is what it is mapped as."""
    assert_every_table_is_held(service)


def test_f14_so_are_tables_that_inherit_or_belong_to_nobody(shapes: RideService) -> None:
    assert_every_table_is_held(shapes)


def assert_every_table_is_held(service: RideService) -> None:
    for table in service.guard.tables:
        hold = place(service, table=table.fullname)
        found = holds.held(service.guard, table, table, service.guard.now)
        rows = select(*table.primary_key.columns)
        with purposes.internally(), service.engine.connect() as connection:
            assert [] != connection.execute(rows.where(found)).all()
            assert [] == connection.execute(rows.where(not_(found))).all()
        release(service, hold)


def test_a_hold_survives_the_roll_of_the_keys_and_what_it_keeps_still_opens(service: RideService) -> None:
    place(service, table="trips", rows=[1])
    service.privacy.roll_keys(service.engine)
    service.privacy.reseal(service.engine, subject=key_of(service, 1))
    assert [1] == held(service, Trip)
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        assert GeoPoint(51.5, 0.2) == session.scalars(select(Trip.start).where(Trip.id == 1)).one()


# Who, how long, and once.


def with_rules(service: RideService, tmp_path: Path, rules: str) -> Privacy:
    path = tmp_path / "rules.yaml"
    path.write_text(POLICY.read_text(encoding="utf-8") + f"holds: {rules}\n", encoding="utf-8")
    return Privacy(policy=path, models=Rides, keys=service.guard.keyring, clock=service.clock)


def test_the_policy_names_who_may_place_and_release_and_for_how_long(service: RideService, tmp_path: Path) -> None:
    privacy = with_rules(service, tmp_path, "{place: [legal], release: [legal, dpo], longest: P1Y}")
    engine = create_engine(service.engine.url)
    what: dict[str, Any] = {"reason": REASON, "by": BY, "table": "trips"}
    for refused in ({}, {"role": "dpo"}, {"role": " "}, {"role": "legal", "until": START + timedelta(days=366)}):
        with pytest.raises(InvalidValue):
            privacy.hold(engine, **what, **refused)
    hold = privacy.hold(engine, **what, role="legal")
    (placed,) = privacy.holds(engine)
    assert ("legal", datetime(2027, 1, 1, 12, tzinfo=UTC), True) == (placed.role, placed.until, placed.active)
    with pytest.raises(InvalidValue):
        privacy.release(engine, hold, by=BY)
    assert [] == privacy.release(engine, hold, by=BY, role="dpo")
    assert ["legal", "dpo"] == [body["role"] for _, body in evidence(service)]
    engine.dispose()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("{place: [legal]}", "holds has no 'release'"),
        ("{place: [], release: [dpo]}", "holds.place names nobody"),
        ("{place: legal, release: [dpo]}", "holds.place must be a list"),
        ("{place: [legal], release: [dpo], longest: ever}", "holds.longest is 'ever'"),
        ("{place: [legal], release: [dpo], until: P1Y}", "unknown key 'until'"),
    ],
)
def test_rules_for_holds_that_are_wrong_are_told_of_with_the_policy(tmp_path: Path, rules: str, said: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(POLICY.read_text(encoding="utf-8") + f"holds: {rules}\n", encoding="utf-8")
    with pytest.raises(PolicyError, match=said):
        policy.load(path)


def test_without_such_a_rule_a_hold_says_itself_when_it_ends(service: RideService) -> None:
    with pytest.raises(InvalidValue, match="needs an end"):
        place(service, table="trips", until=None)


def test_a_hold_of_the_same_reference_is_placed_once(service: RideService) -> None:
    hold = place(service, table="trips", reference="Planted 7/26")
    assert hold == place(service, table="trips", reference="Planted 7/26")
    assert 1 == len(evidence(service))
    assert "Planted" not in str(evidence(service))
    with pytest.raises(InvalidValue, match="something else"):
        place(service, table="riders", reference="Planted 7/26")
    release(service, hold)
    with pytest.raises(InvalidValue, match="has ended"):
        place(service, table="trips", reference="Planted 7/26")


def test_a_list_of_holds_tells_all_and_shows_no_words(service: RideService) -> None:
    place(service, subject=key_of(service, 1), reference="Planted")
    release(service, place(service, table="trips", rows=[1, 2]))
    first, second = service.privacy.holds(service.engine)
    assert (key_of(service, 1), None, None, True) == (first.subject, first.table, first.rows, first.active)
    assert (None, "trips", 2, False) == (second.subject, second.table, second.rows, second.active)
    assert (REASON, BY, "Planted") == (first.reason, first.placed_by, first.reference)
    assert not any(word in repr(first) for word in ("Ada", "counsel", "Planted"))


# Erasures that wait.


@pytest.fixture
def place_of_care(database_url: str, tmp_path: Path) -> Iterator[Clinic]:
    found = clinic(database_url, tmp_path)
    found.admit(patient(1), patient(2))
    yield found
    found.engine.dispose()


def test_e18_an_erasure_that_waits_for_a_hold_is_done_once_the_hold_ends(
    place_of_care: Clinic, database_url: str
) -> None:
    privacy, engine, key = place_of_care.privacy, place_of_care.engine, place_of_care.key_of(1)
    hold = privacy.hold(engine, reason="a court", by="counsel", table="visits", rows=[1], until=UNTIL)
    for _ in range(2):
        waits = privacy.erase(engine, key, by="Planted", defer=True)
        assert (True, 0, 0) == (waits.deferred, waits.fields, waits.rows)
    assert ([], [key]) == privacy.deferred(engine)
    assert [] == privacy.erase_deferred(engine)
    assert place_of_care.email(1) is not None

    assert [key] == privacy.release(engine, hold, by="counsel")
    (done,) = privacy.erase_deferred(engine)
    assert (key.hex(), 3, False) == (done.subject, done.rows, done.deferred)
    assert [(2,)] == raw_rows(database_url, "SELECT id FROM patients")
    assert ([], []) == privacy.deferred(engine)
    kinds = [kind for (kind,) in raw_rows(database_url, "SELECT kind FROM privkit_ledger ORDER BY seq")]
    assert ["erasure_deferred", "erased"] == [kind for kind in kinds if kind.startswith("eras")]
    assert "Planted" not in str(raw_rows(database_url, "SELECT body FROM privkit_ledger"))


def test_e18_waiting_erasures_and_held_rows_outlive_a_restored_backup_and_a_fresh_key(
    place_of_care: Clinic, database_url: str, tmp_path: Path
) -> None:
    place_of_care.engine.dispose()
    with backup(database_url) as restore:
        privacy, engine = place_of_care.privacy, place_of_care.engine
        privacy.hold(engine, reason="a court", by="counsel", table="visits", rows=[1], until=UNTIL, reference="7/26")
        privacy.erase(engine, place_of_care.key_of(1), by="Ada", defer=True)
        engine.dispose()
        restore()
    again = clinic(database_url, tmp_path)
    privacy, engine, key = again.privacy, again.engine, again.key_of(1)
    assert ([], [key]) == privacy.deferred(engine)
    table: Any = Consultation.__table__
    with purposes.internally(), engine.connect() as connection:
        found = holds.held(privacy.guard, table, table, privacy.guard.now)
        assert [1] == list(connection.execute(select(table.c.id).where(found)).scalars())
    same: dict[str, Any] = {"reason": "a court", "by": "counsel", "until": UNTIL, "reference": "7/26"}
    assert 1 == privacy.hold(engine, table="visits", rows=[1], **same)

    privacy.reseal(engine, subject=key)
    fresh = again.key_of(1)
    assert fresh != key
    assert ([], [fresh]) == privacy.deferred(engine)
    again.engine.dispose()
