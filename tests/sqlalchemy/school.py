"""A school: pupils, who may be children, notes about them, and parents who are data subjects themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import Engine, ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from privkit import (
    BirthDate,
    FileKeyring,
    NotPersonal,
    Personal,
    Privacy,
    child_protection,
    data_subject,
    events,
    not_personal,
    owned_by,
)

POLICY = """\
privkit: 1
extends: [gdpr]
naive_datetimes: UTC
controller: {name: School, contact: privacy@school.example, regions: [eu-west-1]}
purposes:
  check: {description: Know who is a child, legal_basis: contract, keep: {for: P30D, after: left}, children: allowed}
  play: {description: Play, legal_basis: contract, keep: {for: P30D, after: left}, consent: {valid: P120D}}
  letters: {description: Write letters, legal_basis: consent, keep: {for: P30D, after: left}, disclosure: true}
  adverts: {description: Advertise, legal_basis: consent, keep: {for: P30D, after: left}, children: never}
  lessons: {description: Teach, legal_basis: contract, keep: {for: P30D, after: left}, children: by_law}
notices:
  v1: {texts: {en: "1111111111111111111111111111111111111111111111111111111111111111"}, purposes: [play]}
  v2:
    texts: {en: "2222222222222222222222222222222222222222222222222222222222222222"}
    material: true
    from: 2026-03-01
    purposes: [play]
child:
  offered_in: [GB, ES, IE]
  age_of_digital_consent:
    rows:
      GB: {age: 13, status: A, source: s}
      "NO": {age: 13, status: U, source: s}
      ES: [{age: 14, status: A, source: s}, {age: 16, status: A, source: s, from: 2027-06-01}]
      IE: [{age: 16, status: A, source: s}, {age: 13, status: A, source: s, from: 2026-09-01}]
"""
Seen = Personal("user.name", purposes={"check", "play", "letters", "adverts", "lessons"}, seal=True)


class Base(DeclarativeBase):
    pass


@data_subject
@child_protection(birth_date="born", country="country")
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Pupil(Base):
    __tablename__ = "pupils"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Seen]]
    born: Mapped[Annotated[date | None, BirthDate(purposes={"check"})]]
    country: Mapped[Annotated[str | None, NotPersonal("two-letter code, population over a million")]]
    left_at: Mapped[datetime | None]
    notes: Mapped[list["Note"]] = relationship(back_populates="pupil")


@owned_by("pupil")
@events(left="pupil.left_at")
@not_personal("id", because="row id")
class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    pupil_id: Mapped[int] = mapped_column(ForeignKey("pupils.id"))
    pupil: Mapped[Pupil] = relationship(back_populates="notes")
    said: Mapped[Annotated[str, Seen]]


@data_subject
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Parent(Base):
    __tablename__ = "parents"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"check"})]]
    left_at: Mapped[datetime | None]


@dataclass
class School:
    """One protected engine and what protects it."""

    url: str
    engine: Engine
    privacy: Privacy
    clock: Any


def open_school(url: str, folder: Path, clock: Callable[[], datetime], policy: str = POLICY) -> School:
    """Make the tables, without anybody in them."""
    (folder / "school.yaml").write_text(policy, encoding="utf-8")
    privacy = Privacy(folder / "school.yaml", Base, FileKeyring.create(folder / "school.json"), clock)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return School(url, engine, privacy, clock)
