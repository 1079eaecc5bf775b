"""A club with members and notes about them, nobody of whom can be a child, under ``enforce`` or ``observe``."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

from sqlalchemy import ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from privkit import (
    Cell,
    Delete,
    Equality,
    Exact,
    FileKeyring,
    GeoPoint,
    Location,
    Personal,
    Privacy,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from tests.sqlalchemy.rides import RideService

POLICY = """\
privkit: 1
enforcement: {enforcement}
naive_datetimes: UTC
purposes:
  account: {{description: "Run the account", legal_basis: contract, keep: {{for: P30D, after: left}}}}
  visits: {{description: "Visit", legal_basis: contract, keep: {{for: P1D, after: left}}}}
  map: {{description: "Plan", legal_basis: contract, keep: {{for: P1D, after: left}}}}
  minutes: {{description: "Remember", legal_basis: contract, keep: {{for: P1D, after: archived}}}}
  letters: {{description: "Advertise", legal_basis: consent, prohibited: true, keep: {{for: P1D, after: left}}}}
"""
JOIN = ("account", "visits", "map", "minutes")


class Base(DeclarativeBase):
    pass


@data_subject
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"account"})]]
    email: Mapped[
        Annotated[str, Personal("user.contact.email", purposes={"account"}, seal=True, search=Equality("email"))]
    ]
    home: Mapped[Annotated[GeoPoint | None, Location(purposes={"visits": Exact(), "map": Cell(7)})]]
    left_at: Mapped[datetime | None]
    notes: Mapped[list["Note"]] = relationship(back_populates="member")


@owned_by("member")
@events(archived="archived_at", left="member.left_at")
@expire_row(Delete())
@not_personal("id", "archived_at", because="row id and event time")
class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int | None] = mapped_column(ForeignKey("members.id"))
    member: Mapped[Member] = relationship(back_populates="notes")
    said: Mapped[Annotated[str, Personal("user.content", purposes={"minutes"})]]
    archived_at: Mapped[datetime | None]


def club(url: str, folder: Path, clock: Callable[[], datetime], enforcement: str) -> RideService:
    """Return the club on ``url``; a second call is a second process, perhaps under another enforcement."""
    keys, path = folder / "keys.json", folder / "policy.yaml"
    said = POLICY.format(enforcement=enforcement)
    if not path.exists() or path.read_text() != said:  # else another process may be reading it
        path.write_text(said)
    privacy = Privacy(path, Base, FileKeyring(keys) if keys.exists() else FileKeyring.create(keys), clock)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return RideService(privacy, engine, clock)


def member(number: int) -> Member:
    """Return a new member with one note."""
    email, home = f"member{number}@club.example", GeoPoint(51.5, 0.1)
    return Member(name=f"Member {number}", email=email, home=home, notes=[Note(said=f"Said {number}")])
