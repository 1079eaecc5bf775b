"""Fields of rows that belong to data subjects who were there before privkit, of other types than text, in epochs."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from sqlalchemy import ForeignKey, Numeric, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.pool import NullPool

from privkit import (
    Adopting,
    FileKeyring,
    Personal,
    Plain,
    Privacy,
    data_subject,
    events,
    not_personal,
    owned_by,
)
from tests.databases import raw_rows
from tests.sqlalchemy.rides import Clock

POLICY = """\
privkit: 1
naive_datetimes: UTC
controller: {name: Rides Ltd, contact: privacy@rides.example}
purposes:
  navigation: {description: Drive, legal_basis: contract, keep: {for: P400D, after: recorded, epoch: P1D}}
"""


class Base(DeclarativeBase):
    pass


@data_subject
@not_personal("id", because="row id")
class Rider(Base):
    __tablename__ = "riders"
    id: Mapped[int] = mapped_column(primary_key=True)
    trips: Mapped[list["Trip"]] = relationship(back_populates="rider")


def dual(beside: str) -> Personal:
    adopting = Adopting(Plain(), beside=beside, phase="dual")
    return Personal("user.behavior", purposes={"navigation"}, seal=True, adopting=adopting)


@owned_by("rider")
@events(recorded="at")
@not_personal("id", "at", because="row id and event time")
class Trip(Base):
    __tablename__ = "trips"
    id: Mapped[int] = mapped_column(primary_key=True)
    rider_id: Mapped[int] = mapped_column(ForeignKey("riders.id"))
    rider: Mapped[Rider] = relationship(back_populates="trips")
    day: Mapped[Annotated[date | None, dual("day_sealed")]]
    fare: Mapped[Annotated[Decimal | None, dual("fare_sealed")]] = mapped_column(Numeric(10, 2))
    passengers: Mapped[Annotated[int | None, dual("passengers_sealed")]]
    at: Mapped[datetime]


def test_owned_rows_of_every_day_are_sealed_for_their_owners(database_url: str, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    keys = FileKeyring.create(tmp_path / "keys.json")
    privacy = Privacy(policy=tmp_path / "policy.yaml", models=Base, keys=keys, clock=clock)
    engine = create_engine(database_url, poolclass=NullPool)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    clock.now = datetime(2026, 1, 20, tzinfo=UTC)
    for number in range(1, 6):
        raw_rows(database_url, f"INSERT INTO riders (id) VALUES ({number})")
        raw_rows(
            database_url,
            "INSERT INTO trips (id, rider_id, day, fare, passengers, at) VALUES "
            f"({number}, {number}, '2026-01-0{number}', {number}.50, {number}, '2026-01-0{number} 12:00:00')",
        )
    with privacy.purpose("navigation"), Session(engine) as session:
        session.get(Trip, 1).passengers = 7  # type: ignore[union-attr]
        session.commit()
    for name in ("day", "fare", "passengers"):
        run = privacy.seal(engine, f"trips.{name}", batch=2)
        assert (True, 5, 5) == (run.ok, run.done, run.rows)
    sealed = Trip.__table__.c
    with privacy.purpose("navigation"), Session(engine) as session:
        columns = (sealed.id, sealed.day_sealed, sealed.fare_sealed, sealed.passengers_sealed)
        found = [tuple(row) for row in session.execute(select(*columns).order_by(sealed.id))]
        assert (1, date(2026, 1, 1), Decimal("1.50"), 7) == found[0]
        assert (5, date(2026, 1, 5), Decimal("5.50"), 5) == found[4]
        session.add(Trip(id=9, rider_id=2, day=date(2026, 1, 9), fare=Decimal("9.99"), passengers=1, at=clock.now))
        session.commit()
    assert [(5,)] == raw_rows(database_url, "SELECT count(*) FROM privkit_key")
    epochs = raw_rows(database_url, "SELECT count(DISTINCT number) FROM privkit_epoch WHERE field = 'trips.fare'")
    assert [(6,)] == epochs
    assert privacy.seal(engine, "trips.fare").ok


class Fleet(DeclarativeBase):
    pass


@data_subject
@not_personal("id", "kind", because="row id and class")
class Person(Fleet):
    __tablename__ = "persons"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}


@events(recorded="at")
@not_personal("id", "at", because="row id and event time")
class Driver(Person):
    __tablename__ = "drivers"
    id: Mapped[int] = mapped_column(ForeignKey("persons.id"), primary_key=True)
    licence: Mapped[Annotated[str | None, dual("licence_sealed")]]
    at: Mapped[datetime]
    __mapper_args__ = {"polymorphic_identity": "driver"}


def test_under_joined_inheritance_the_base_table_s_rows_are_given_the_keys(
    database_url: str, tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    keys = FileKeyring.create(tmp_path / "keys.json")
    privacy = Privacy(policy=tmp_path / "policy.yaml", models=Fleet, keys=keys, clock=clock)
    engine = create_engine(database_url, poolclass=NullPool)
    privacy.protect(engine)
    Fleet.metadata.create_all(engine)
    raw_rows(database_url, "INSERT INTO persons (id, kind) VALUES (1, 'driver')")
    raw_rows(database_url, "INSERT INTO drivers (id, licence, at) VALUES (1, 'planted', '2026-01-01 12:00:00')")

    run = privacy.seal(engine, "drivers.licence")
    assert (True, 1) == (run.ok, run.done)
    with privacy.purpose("navigation"), Session(engine) as session:
        assert "planted" == session.get_one(Driver, 1).licence
