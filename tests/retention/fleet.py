"""Rows that depend on a data subject: badges by a declared cascade, vehicles by SET NULL, fines by neither."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from sqlalchemy import Engine, ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import Delete, FileKeyring, Personal, Privacy, data_subject, events, expire_row, not_personal
from privkit.sqlalchemy import Guard

POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  duty: {description: "Plan shifts", legal_basis: contract, keep: {for: P30D, after: left}}
"""


class Base(DeclarativeBase):
    pass


@data_subject
@events(left="left_at")
@expire_row(Delete())
@not_personal("id", "left_at", because="row id and event time")
class Driver(Base):
    __tablename__ = "drivers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"duty"}, seal=True)]]
    left_at: Mapped[datetime | None]


@not_personal("id", "driver_id", because="keys")
class Badge(Base):
    __tablename__ = "badges"
    id: Mapped[int] = mapped_column(primary_key=True)
    driver_id: Mapped[int] = mapped_column(ForeignKey("drivers.id", ondelete="CASCADE"))


@not_personal("id", "driver_id", because="keys")
class Vehicle(Base):
    __tablename__ = "vehicles"
    id: Mapped[int] = mapped_column(primary_key=True)
    driver_id: Mapped[int | None] = mapped_column(ForeignKey("drivers.id", ondelete="SET NULL"))


@not_personal("id", "driver_id", because="keys")
class Fine(Base):
    __tablename__ = "fines"
    id: Mapped[int] = mapped_column(primary_key=True)
    driver_id: Mapped[int] = mapped_column(ForeignKey("drivers.id"))


def fleet(url: str, folder: Path, *, fines: int = 0, leavers: int = 0) -> tuple[Engine, Guard]:
    """Store two drivers, of whom the first left long ago, each with a badge and a vehicle.

    ``leavers``: how many more drivers who left, numbered from 10 on, with neither.
    """
    policy = folder / "fleet.yaml"
    policy.write_text(POLICY)
    clock = datetime(2026, 1, 1, tzinfo=UTC)
    privacy = Privacy(policy, Base, FileKeyring.create(folder / "fleet-keys.json"), clock=lambda: clock)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("duty"), Session(engine) as session:
        session.add_all([Driver(id=1, name="One", left_at=datetime(2020, 1, 1)), Driver(id=2, name="Two")])
        session.flush()
        session.add_all([Badge(driver_id=1), Badge(driver_id=2), Vehicle(driver_id=1), Vehicle(driver_id=2)])
        session.add_all([Fine(driver_id=1) for _ in range(fines)])
        session.add_all([Driver(id=10 + number, name="One", left_at=datetime(2020, 1, 1)) for number in range(leavers)])
        session.commit()
    return engine, privacy.guard
