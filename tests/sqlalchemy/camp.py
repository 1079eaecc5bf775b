"""A summer camp whose policy switches places and phone numbers off for children, sealed or not, in owned rows too."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import Engine, ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    BirthDate,
    Cell,
    Exact,
    FileKeyring,
    GeoPoint,
    Location,
    Nearby,
    Personal,
    Privacy,
    child_protection,
    data_subject,
    events,
    not_personal,
    owned_by,
)
from privkit.ledger import OutsideLedger

POLICY = """\
privkit: 1
naive_datetimes: UTC
purposes:
  check: {description: Know who is a child, legal_basis: contract, keep: {for: P1D, after: left}, children: allowed}
  play:  {description: Play, legal_basis: contract, keep: {for: P1D, after: left}, children: allowed}
  find:  {description: Find a camper, legal_basis: contract, keep: {for: P1D, after: left}}
  map:   {description: Draw a map, legal_basis: contract, keep: {for: P1D, after: left}}
  call:  {description: Call, legal_basis: contract, keep: forever, because: A law of camps, children: allowed}
duties:
  register: {citation: Camps Act s.1, keep: {for: P1Y, after: left}}
categories:
  user.location: {child: off}
  user.contact.phone_number: {child: off}
child:
  default_age: 16
"""
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HERE, PHONE = GeoPoint(51.5, 0.1), "020 7946 0000"
CHILD, ADULT, UNKNOWN, OTHER = 1, 2, 3, 4
BORN = {CHILD: date(2015, 5, 5), ADULT: date(1990, 1, 15), UNKNOWN: None, OTHER: date(2016, 6, 6)}


class Base(DeclarativeBase):
    pass


@data_subject
@child_protection(birth_date="born")
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Camper(Base):
    __tablename__ = "campers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"play", "find", "map", "call"})]]
    born: Mapped[Annotated[date | None, BirthDate(purposes={"check"})]]
    place: Mapped[
        Annotated[
            GeoPoint | None,
            Location(purposes={"find": Exact(), "map": Cell(7)}, search=Nearby(8), duties=frozenset({"register"})),
        ]
    ]
    phone: Mapped[Annotated[str | None, Personal("user.contact.phone_number", purposes={"call"})]]
    left_at: Mapped[datetime | None]
    sightings: Mapped[list["Sighting"]] = relationship(back_populates="camper")


@owned_by("camper")
@events(left="camper.left_at")
@not_personal("id", because="row id")
class Sighting(Base):
    __tablename__ = "sightings"
    id: Mapped[int] = mapped_column(primary_key=True)
    camper_id: Mapped[int | None] = mapped_column(ForeignKey("campers.id"))
    camper: Mapped[Camper | None] = relationship(back_populates="sightings")
    spot: Mapped[Annotated[GeoPoint | None, Location(purposes={"find"})]]
    rang: Mapped[Annotated[str | None, Personal("user.contact.phone_number", purposes={"call"})]]


@dataclass
class Clock:
    """A clock that stands still until a test sets it."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class Camp:
    privacy: Privacy
    engine: Engine
    url: str

    def run(self, work: Callable[[Session], Any], *names: str) -> Any:
        """Work in a session under purposes, and commit."""
        with self.privacy.purpose(*names), Session(self.engine) as session:
            found = work(session)
            session.commit()
            return found

    def rows(self, statement: Any, *names: str) -> list[Any]:
        """What a statement returns under purposes; single columns as they are."""
        rows = self.run(lambda session: [tuple(row) for row in session.execute(statement)], *names)
        return [row[0] if len(row) == 1 else row for row in rows]

    def consent(self, number: int = CHILD, *names: str, withdraw: bool = False) -> None:
        """A guardian says yes, or takes it back."""
        with self.privacy.purpose("check"), Session(self.engine) as session:
            said = {"subject": session.get_one(Camper, number), "purposes": set(names), "guardian": "g-17"}
            if withdraw:
                self.privacy.consent.withdraw(session, **said)
            else:
                self.privacy.consent.grant(session, **said, method="signed_form")
            session.commit()

    def switch(self, on: bool, number: int = CHILD, *names: str, **options: Any) -> Any:
        """Switch on, or off again. Returns until when."""
        with self.privacy.purpose("check"), Session(self.engine) as session:
            one, consent = session.get_one(Camper, number), self.privacy.consent
            turn = consent.switch_on if on else consent.switch_off
            found = turn(session, subject=one, purposes=set(names) or None, **options)  # type: ignore[arg-type]
            session.commit()
            return found


def camp(url: str, folder: Path, clock: Callable[[], datetime], outside: OutsideLedger | None = None) -> Camp:
    """Return the camp on ``url``; a second call is a second process. Call ``engine.dispose()`` after the test."""
    keys, path = folder / "keys.json", folder / "policy.yaml"
    path.write_text(POLICY)
    keyring = FileKeyring(keys) if keys.exists() else FileKeyring.create(keys)
    privacy = Privacy(path, Base, keyring, clock, outside)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return Camp(privacy, engine, url)


def fill(camp: Camp) -> None:
    """Four campers with all fields set. They said that they are adults, and told the truth afterwards."""
    with camp.privacy.purpose("check", "play", "find", "map", "call"), Session(camp.engine) as session:
        for number in BORN:
            one = Camper(id=number, name=f"Camper {number}", born=BORN[ADULT], place=HERE, phone=PHONE)
            one.sightings = [Sighting(id=number, spot=HERE, rang=PHONE)]
            session.add(one)
        session.commit()
    with camp.privacy.purpose("check"), Session(camp.engine) as session:
        for one in session.scalars(select(Camper)):
            one.born = BORN[one.id]
        session.commit()
