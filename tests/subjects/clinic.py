"""A clinic: patients, with fields of every kind of ending, and rows that belong to them in every way."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from sqlalchemy import Engine, ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    Delete,
    Equality,
    FileKeyring,
    LedgerFile,
    Personal,
    Privacy,
    Pseudonymise,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from tests.sqlalchemy.rides import Clock

POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  care: {description: "Treat", legal_basis: contract, keep: {for: P30D, after: left}}
duties:
  tax: {citation: "Tax Code s.12", keep: {for: P7Y, after: paid}}
"""
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
PAID = datetime(2025, 6, 1)


class Base(DeclarativeBase):
    pass


@data_subject
@events(left="left_at", paid="paid_at")
@not_personal("id", "kind", "left_at", "paid_at", because="row id, kind and event times")
class Patient(Base):
    __tablename__ = "patients"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "patient"}
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    email: Mapped[
        Annotated[str, Personal("user.contact.email", purposes={"care"}, seal=True, search=Equality("email"))]
    ]
    name: Mapped[Annotated[str, Personal("user.name", purposes={"care"}, then=Pseudonymise("name"))]]
    alias: Mapped[Annotated[str | None, Personal("user.name", purposes={"care"}, then=Pseudonymise("name"))]]
    bill: Mapped[Annotated[str | None, Personal("user.financial", purposes={"care"}, duties=frozenset({"tax"}))]]
    left_at: Mapped[datetime | None]
    paid_at: Mapped[datetime | None]
    visits: Mapped[list["Visit"]] = relationship(back_populates="patient")
    letters: Mapped[list["Letter"]] = relationship(back_populates="patient")


@not_personal("id", "ward", because="keys")
class Inpatient(Patient):
    """A data subject whose row lies in two tables."""

    __tablename__ = "inpatients"
    __mapper_args__ = {"polymorphic_identity": "inpatient"}
    id: Mapped[int] = mapped_column(ForeignKey("patients.id"), primary_key=True)
    ward: Mapped[int | None]
    bed: Mapped[Annotated[str | None, Personal("user.location", purposes={"care"}, seal=True)]]


@owned_by("patient")
@events(left="patient.left_at")
@expire_row(Delete())
@not_personal("id", "patient_id", because="keys")
class Visit(Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"))
    patient: Mapped[Patient] = relationship(back_populates="visits")
    notes: Mapped[Annotated[str, Personal("user.health", purposes={"care"}, seal=True)]]


@owned_by("patient")
@events(left="patient.left_at")
@not_personal("id", "patient_id", because="keys")
class Letter(Base):
    """Rows that stay when what they say is gone."""

    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"))
    patient: Mapped[Patient] = relationship(back_populates="letters")
    text: Mapped[Annotated[str | None, Personal("user.health", purposes={"care"}, seal=False)]]


@dataclass
class Clinic:
    privacy: Privacy
    engine: Engine

    def admit(self, *patients: Patient) -> None:
        with self.privacy.purpose("care"), Session(self.engine) as session:
            session.add_all(patients)
            session.commit()

    def key_of(self, number: int) -> bytes:
        table = Patient.__table__
        with self.engine.connect() as connection:
            return bytes(connection.execute(select(table.c.privkit_key).where(table.c.id == number)).scalar_one())

    def email(self, number: int) -> str | None:
        with self.privacy.purpose("care"), Session(self.engine) as session:
            return session.scalar(select(Patient.email).where(Patient.id == number))

    def bill(self, number: int) -> str | None:
        with self.privacy.purpose("care"), Session(self.engine) as session:
            return session.scalar(select(Patient.bill).where(Patient.id == number))


def clinic(url: str, folder: Path, clock: Callable[[], datetime] | None = None, *, outside: bool = True) -> Clinic:
    """Open the clinic as one process does; call ``engine.dispose()`` after the test."""
    policy = folder / "clinic.yaml"
    policy.write_text(POLICY)
    path = folder / "clinic-keys.json"
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    ledger = LedgerFile(folder / "ledger.jsonl") if outside else None
    privacy = Privacy(policy, Base, keys, clock=clock or Clock(), ledger=ledger)
    engine = create_engine(url)
    privacy.protect(engine)
    try:
        Base.metadata.create_all(engine)
        engine.connect().close()
    except BaseException:
        engine.dispose()
        raise
    return Clinic(privacy, engine)


def patient(number: int, *, bill: str | None = None, letters: int = 0) -> Patient:
    """A patient with two visits."""
    return Patient(
        id=number,
        email=f"planted{number}@clinic.example",
        name=f"Planted {number}",
        alias=f"Planted alias {number}",
        bill=bill,
        paid_at=PAID if bill else None,
        visits=[Visit(notes="planted notes"), Visit(notes="planted notes")],
        letters=[Letter(text=f"planted letter {number}") for _ in range(letters)],
    )
