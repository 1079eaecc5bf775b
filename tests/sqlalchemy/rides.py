"""A ride service with the models of the README, for storage tests: riders, who may be children, and their trips."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import Engine, ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    AgeBand,
    BirthDate,
    Cell,
    Delete,
    Equality,
    Exact,
    FileKeyring,
    GeoPoint,
    Location,
    Nearby,
    NotPersonal,
    Personal,
    Privacy,
    Pseudonymise,
    child_protection,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.sqlalchemy import Guard

POLICY = Path(__file__).resolve().parents[2] / "policies" / "rides.yaml"
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
UNTIL = datetime(2099, 1, 1, tzinfo=UTC)
"""When holds end that are to outlast a test."""
SIGN_UP = ("account", "receipts", "age_check", "pickup", "demand_map", "navigation")
"""All purposes that collect something, as in a sign-up form."""


class Base(DeclarativeBase):
    pass


@data_subject
@child_protection(birth_date="born", country="country")
@events(account_closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Rider(Base):
    __tablename__ = "riders"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[
        Annotated[str, Personal("user.contact.email", purposes={"account", "receipts"}, search=Equality("email"))]
    ]
    name: Mapped[Annotated[str, Personal("user.name", purposes={"account"}, then=Pseudonymise("name"))]]
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
    __tablename__ = "trips"
    id: Mapped[int] = mapped_column(primary_key=True)
    rider_id: Mapped[int] = mapped_column(ForeignKey("riders.id"))
    rider: Mapped[Rider] = relationship(back_populates="trips")
    start: Mapped[Annotated[GeoPoint, Location(purposes={"navigation"})]]
    ended_at: Mapped[datetime | None]


@dataclass
class Clock:
    """A clock that stands still until a test sets it."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class RideService:
    privacy: Privacy
    engine: Engine
    clock: Callable[[], datetime]

    @property
    def guard(self) -> Guard:
        return self.privacy.guard

    def sign_up(self, *riders: Rider) -> None:
        """Store riders and their trips under every purpose, in a session of their own."""
        with self.privacy.purpose(*SIGN_UP), Session(self.engine) as session:
            session.add_all(riders)
            session.commit()


def ride_service(url: str, tmp_path: Path, clock: Callable[[], datetime]) -> RideService:
    """Return a protected engine on ``url`` with the tables made; call ``engine.dispose()`` after the test.

    The keyring is made in ``tmp_path``, or used where it stands: a second call is a second process.
    """
    path = tmp_path / "keys.json"
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    privacy = Privacy(policy=POLICY, models=Base, keys=keys, clock=clock)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return RideService(privacy, engine, clock)


def rider(number: int, **fields: Any) -> Rider:
    """Return a new adult rider of Great Britain, with one trip; ``fields`` say otherwise."""
    given = {
        "email": f"rider{number}@rides.example",
        "name": f"Rider {number}",
        "born": date(1990, 1, 15),
        "home": GeoPoint(51.5, 0.1),
        "country": "GB",
        "trips": [Trip(start=GeoPoint(51.5, 0.2))],
    }
    return Rider(**given | fields)
