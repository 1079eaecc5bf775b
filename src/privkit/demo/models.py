"""The models of the demonstration: riders, some of them children, and their trips."""

from datetime import date, datetime
from pathlib import Path
from typing import Annotated

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from privkit import (
    AgeBand,
    BirthDate,
    Cell,
    Delete,
    Equality,
    Exact,
    GeoPoint,
    Location,
    Nearby,
    NotPersonal,
    Personal,
    Pseudonymise,
    child_protection,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.policy import packs_folder

POLICY: Path = packs_folder().parent / "rides.yaml"


class Base(DeclarativeBase):
    """The ride service's tables."""


@data_subject
@child_protection(birth_date="born", country="country")
@events(account_closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Rider(Base):
    """A person with an account."""

    __tablename__ = "riders"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[
        Annotated[str, Personal("user.contact.email", purposes={"account", "receipts"}, search=Equality("email"))]
    ]
    name: Mapped[Annotated[str, Personal("user.name", purposes={"account"}, seal=True, then=Pseudonymise("name"))]]
    born: Mapped[Annotated[date | None, BirthDate(purposes={"age_check": AgeBand()})]]
    home: Mapped[
        Annotated[GeoPoint | None, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)}, search=Nearby(8))]
    ]
    country: Mapped[Annotated[str, NotPersonal("two-letter code, population over a million")]]
    closed_at: Mapped[datetime | None]
    trips: Mapped[list["Trip"]] = relationship(back_populates="rider")


@owned_by("rider")
@events(trip_ended="ended_at", account_closed="rider.closed_at")
@expire_row(Delete())
@not_personal("id", "ended_at", because="row id and event time")
class Trip(Base):
    """One ride of a rider."""

    __tablename__ = "trips"
    id: Mapped[int] = mapped_column(primary_key=True)
    rider_id: Mapped[int] = mapped_column(ForeignKey("riders.id"), index=True)
    rider: Mapped[Rider] = relationship(back_populates="trips")
    start: Mapped[Annotated[GeoPoint, Location(purposes={"navigation"})]]
    finish: Mapped[Annotated[GeoPoint, Location(purposes={"navigation"})]]
    ended_at: Mapped[datetime | None]
