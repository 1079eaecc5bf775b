"""Ways round the gates that were found once: each shows that it is closed."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import DDL, ForeignKeyConstraint, create_engine, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, with_loader_criteria
from sqlalchemy.sql.functions import Function

from privkit import (
    Delete,
    FileKeyring,
    Latest,
    Personal,
    Privacy,
    PrivkitError,
    Pseudonymise,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.errors import ConsentRequired, LedgerError, NotProtectedError, PlanError, PurposeError
from privkit.location import cell
from privkit.retention import Plan
from tests.databases import raw_rows
from tests.sqlalchemy.rides import SIGN_UP, UNTIL, Clock, Rider, RideService, Trip, ride_service, rider

POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  serve: {description: Serve, legal_basis: contract, keep: {for: P30D, after: ended}}
  trip: {description: Drive, legal_basis: contract, keep: {for: P1D, after: ended}}
"""


class Shops(DeclarativeBase):
    pass


@data_subject
@events(ended=Latest("visits.ended_at"))
@not_personal("tenant", "id", because="keys")
class Guest(Shops):
    __tablename__ = "guests"
    tenant: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str | None, Personal("user.name", purposes={"serve"}, then=Pseudonymise("name"))]]
    visits: Mapped[list["Visit"]] = relationship(back_populates="guest")


@owned_by("guest_id")
@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "tenant", "ended_at", because="keys and event time")
class Visit(Shops):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    guest_id: Mapped[int]
    note: Mapped[Annotated[str | None, Personal("user.content", purposes={"trip"}, seal=True)]]
    ended_at: Mapped[datetime | None]
    guest: Mapped[Guest] = relationship(back_populates="visits")
    __table_args__ = (ForeignKeyConstraint(["tenant", "guest_id"], ["guests.tenant", "guests.id"]),)


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Any:
    (tmp_path / "shop.yaml").write_text(POLICY)
    clock = Clock(datetime(2026, 1, 1, tzinfo=UTC))
    privacy = Privacy(tmp_path / "shop.yaml", Shops, FileKeyring.create(tmp_path / "shop.json"), clock=clock)
    engine = create_engine(database_url)
    privacy.protect(engine)
    Shops.metadata.create_all(engine)
    with privacy.purpose("serve", "trip"), Session(engine) as session:
        session.add_all([Guest(tenant=1, id=1, name="Ann"), Guest(tenant=2, id=1, name="Bob")])
        session.flush()
        session.add(Visit(id=1, tenant=2, guest_id=1, note="window seat", ended_at=datetime(2026, 1, 2)))
        session.commit()
    yield privacy, engine, clock
    engine.dispose()


def test_rows_that_others_count_from_outlive_them(shop: Any) -> None:
    privacy, engine, clock = shop
    clock.now = datetime(2026, 1, 20, tzinfo=UTC)
    held_back = privacy.plan(engine)
    assert {step.name: (step.due, step.blocked) for step in held_back.steps}["visits"] == (0, 1)
    clock.now = datetime(2026, 3, 1, tzinfo=UTC)
    for _ in range(2):
        assert privacy.purge(engine, privacy.plan(engine)).ok
    with privacy.purpose("serve"), Session(engine) as session:
        assert session.get_one(Guest, (2, 1)).name != "Bob"
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(Visit.__table__)).scalar_one() == 0


def test_a_composite_owner_is_found_by_all_of_its_columns(shop: Any) -> None:
    privacy, engine, _ = shop
    with privacy.purpose("trip"), Session(engine) as session:
        assert session.scalars(select(Visit.note)).all() == ["window seat"]


def test_a_field_that_is_written_again_after_its_end_has_an_end_again(shop: Any) -> None:
    privacy, engine, clock = shop
    clock.now = datetime(2026, 3, 1, tzinfo=UTC)
    for _ in range(2):
        privacy.purge(engine, privacy.plan(engine))
    with privacy.purpose("serve", "trip"), Session(engine) as session:
        session.get_one(Guest, (2, 1)).name = "Bob again"
        session.add(Visit(id=2, tenant=2, guest_id=1, ended_at=datetime(2026, 3, 1)))
        session.commit()
    clock.now = datetime(2027, 1, 1, tzinfo=UTC)
    for _ in range(2):
        assert privacy.purge(engine, privacy.plan(engine)).ok
    with engine.connect() as connection:
        (kept,) = connection.exec_driver_sql("SELECT count(*) FROM guests WHERE tenant = 2 AND id = 1").one()
        assert kept == 1
    url = engine.url.render_as_string(hide_password=False)
    assert ("Bob again",) not in raw_rows(url, "SELECT name FROM guests")


@pytest.mark.parametrize(
    "words",
    [
        "SELECT row_to_json(r) FROM riders r",
        "SELECT r FROM riders r",
        "SELECT riders::text FROM riders",
        "SELECT b, c FROM riders AS r(a, b, c)",
        "UPDATE riders SET privkit_adult_on = '0001-01-01'",
        "DELETE FROM privkit_ledger",
        "INSERT INTO privkit_consent (purpose) VALUES ('pickup')",
    ],
)
def test_text_reaches_no_whole_row_and_none_of_privkit_s_own(service: RideService, words: str) -> None:
    service.sign_up(rider(1))
    with service.engine.connect() as connection:
        for run in (connection.exec_driver_sql, lambda words: connection.execute(text(words))):
            with pytest.raises(PrivkitError):
                run(words)


def test_a_whole_row_as_one_value_is_text_too(service: RideService) -> None:
    service.sign_up(rider(1))
    with service.privacy.purpose("account"), service.engine.connect() as connection, pytest.raises(PrivkitError):
        connection.execute(select(Function("row_to_json", Rider.__table__.table_valued())))


def test_a_second_privacy_does_not_take_an_engine_over(service: RideService, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "shop.yaml").write_text(POLICY)
    other = Privacy(tmp_path / "shop.yaml", Shops, FileKeyring.create(tmp_path / "other" / "keys.json"))
    acts: list[Callable[[], Any]] = [
        lambda: other.protect(service.engine),
        lambda: other.plan(service.engine),
        lambda: other.verify_ledger(service.engine),
    ]
    for act in acts:
        with pytest.raises(NotProtectedError):
            act()


def test_nothing_about_a_child_is_changed_or_returned_without_consent(service: RideService) -> None:
    service.sign_up(rider(1, born=date(2018, 1, 2), home=None, trips=[]))
    riders = Rider.__table__
    with service.privacy.purpose("account"), service.engine.connect() as connection:
        with pytest.raises(ConsentRequired):
            connection.execute(update(riders).values(name="Changed"))
        for statement in (
            update(riders).values(country="FR").returning(riders.c.name),
            delete(riders).returning(riders.c.name),
        ):
            with pytest.raises(PrivkitError):
                connection.execute(statement)


def test_a_loaded_object_shows_a_coarser_purpose_the_coarse_value(service: RideService) -> None:
    service.sign_up(rider(1))
    with service.privacy.purpose("pickup"), Session(service.engine, expire_on_commit=False) as session:
        loaded = session.get_one(Rider, 1)
        exact = loaded.home
        with service.privacy.purpose("demand_map"):
            assert loaded.home == cell(exact, 7)
        assert loaded.home == exact


def test_nested_purposes_do_not_lengthen_a_field_s_life(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=datetime(2025, 10, 1)))  # three months ago: account has ended, receipts not
    with Session(service.engine) as session, service.privacy.purpose("receipts"):
        assert session.scalars(select(Rider.email)).all() == ["rider1@rides.example"]
        with service.privacy.purpose("account"):
            assert session.scalars(select(Rider.email)).all() == [None]
    with Session(service.engine) as session, service.privacy.purpose("account"), service.privacy.purpose("receipts"):
        assert session.scalars(select(Rider.email)).all() == [None]


def test_a_plan_with_steps_missing_is_refused(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=datetime(2020, 1, 1)))
    plan = service.privacy.plan(service.engine)
    with pytest.raises(PlanError, match="not whole"):
        service.privacy.purge(service.engine, Plan(plan.as_of, plan.policy_digest, plan.steps[1:]))


def test_a_run_needs_transactions(database_url: str, tmp_path: Path) -> None:
    service = ride_service(database_url, tmp_path, Clock())
    autocommit = create_engine(database_url, isolation_level="AUTOCOMMIT")
    with pytest.raises(PlanError, match="AUTOCOMMIT"):
        service.privacy.purge(autocommit, service.privacy.plan(autocommit))
    service.engine.dispose()
    autocommit.dispose()


@pytest.mark.parametrize("driver", [False, True])
def test_what_destroys_or_holds_needs_transactions(sqlite_url: str, tmp_path: Path, driver: bool) -> None:
    service = ride_service(sqlite_url, tmp_path, Clock())
    service.sign_up(rider(1))
    ((key_id,),) = raw_rows(sqlite_url, "SELECT privkit_key FROM riders")
    options: Any = {"connect_args": {"isolation_level": None}} if driver else {"isolation_level": "AUTOCOMMIT"}
    loose, privacy = create_engine(sqlite_url, **options), service.privacy
    calls: list[Callable[[], Any]] = [
        lambda: privacy.erase(loose, key_id, by="ada"),
        lambda: privacy.reseal(loose, subject=key_id),
        lambda: privacy.roll_keys(loose),
        lambda: privacy.hold(loose, reason="case", by="ada", table="riders", until=UNTIL),
    ]
    for call in calls:
        with pytest.raises(LedgerError, match="AUTOCOMMIT"):
            call()
    assert [(1,)] == raw_rows(sqlite_url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NOT NULL")
    service.engine.dispose()
    loose.dispose()


def test_rows_that_go_in_one_run_stand_in_its_plan_together(service: RideService) -> None:
    service.sign_up(
        rider(1, closed_at=datetime(2020, 1, 1), trips=[Trip(start=rider(1).home, ended_at=datetime(2020, 1, 1))])
    )
    plan = service.privacy.plan(service.engine)
    run = service.privacy.purge(service.engine, plan)
    assert [step.due for step in plan.steps] == [outcome.done for outcome in run.outcomes]


def test_a_driver_s_message_does_not_quote_the_row(pg_url: str, tmp_path: Path) -> None:
    service = ride_service(pg_url, tmp_path, Clock())
    raw_rows(pg_url, "CREATE UNIQUE INDEX one_name ON riders (name)")
    service.sign_up(rider(1, name="Planted Name"))
    row = {"name": "Planted Name", "email": "x", "country": "GB"}
    with (
        service.privacy.purpose(*SIGN_UP),
        service.engine.connect() as connection,
        pytest.raises(IntegrityError) as caught,
    ):
        connection.execute(insert(Rider), row)
    shown = f"{caught.value} {caught.value.orig} {caught.value!r} {caught.value.params}"
    assert "one_name" in shown
    assert "Planted" not in shown
    service.engine.dispose()


@pytest.mark.parametrize(
    "words",
    [
        "SELECT name FROM riders",
        "/* a change of the schema */ SELECT name FROM riders",
        "-- a change\nWITH r AS (SELECT name FROM riders) SELECT * FROM r",
        "UPDATE riders SET name = 'planted'",
    ],
)
def test_rows_are_not_reached_by_a_construct_for_changes_of_the_schema(service: RideService, words: str) -> None:
    service.sign_up(rider(1))
    with service.engine.connect() as connection, pytest.raises(PrivkitError):
        connection.execute(DDL(words))


def test_a_change_of_the_schema_is_none_of_the_gates_business(service: RideService) -> None:
    with service.engine.begin() as connection:
        connection.execute(DDL("CREATE TABLE elsewhere (id INTEGER)"))
        connection.execute(DDL("ALTER TABLE elsewhere ADD COLUMN other INTEGER"))
        connection.execute(DDL("DROP TABLE elsewhere"))


def test_a_criterion_of_the_application_s_own_uses_the_fields_that_it_names(service: RideService) -> None:
    service.sign_up(rider(1, name="One"))
    criterion = with_loader_criteria(Rider, Rider.name == "One")
    counted = select(func.count()).select_from(Rider)
    with service.privacy.purpose("account"), Session(service.engine) as session:
        assert session.scalar(counted.options(criterion)) == 1
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        assert session.scalar(counted) == 1
        with pytest.raises(PurposeError):
            session.scalar(counted.options(criterion))
