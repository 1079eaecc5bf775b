"""Contacts whose schema gets in the way: a CHECK, unique keys, a foreign key to a personal column."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from sqlalchemy import CheckConstraint, Engine, ForeignKey, Index, String, create_engine, func, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import (
    FileKeyring,
    Personal,
    Privacy,
    Pseudonymise,
    data_subject,
    events,
    not_personal,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1)
POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  mail: {description: "Send letters", legal_basis: contract, keep: {for: P2Y, after: left}}
"""


class Base(DeclarativeBase): ...


@data_subject
@events(left="left_at")
@not_personal("id", "token", "country", "left_at", because="row id, codes and event time")
class Contact(Base):
    __tablename__ = "contacts"
    __table_args__ = (CheckConstraint("phone IS NOT NULL OR token IS NULL", name="phone_or_token"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[Annotated[str, Personal("user.contact.email", purposes={"mail"}, then=Pseudonymise("mail"))]] = (
        mapped_column(unique=True)
    )
    phone: Mapped[Annotated[str | None, Personal("user.contact.phone_number", purposes={"mail"}, seal=False)]]
    fax: Mapped[Annotated[str | None, Personal("user.contact.phone_number", purposes={"mail"}, seal=False)]]
    login: Mapped[Annotated[str | None, Personal("user.account.username", purposes={"mail"}, seal=False)]] = (
        mapped_column(unique=True)
    )
    token: Mapped[str | None]
    country: Mapped[str]
    left_at: Mapped[datetime | None]


Index("one_fax_each", Contact.__table__.c.country, func.coalesce(Contact.__table__.c.fax, ""), unique=True)


@not_personal("id", "login", because="keys")
class Profile(Base):
    __tablename__ = "profiles"
    id: Mapped[int] = mapped_column(primary_key=True)
    login: Mapped[str | None] = mapped_column(String, ForeignKey("contacts.login"))


def contacts(url: str, folder: Path, count: int, policy: str = POLICY, **fields: object) -> tuple[Engine, Privacy]:
    """Store contacts who left long ago; ``fields`` say what else they have."""
    path, keys = folder / "contacts.yaml", folder / "contacts-keys.json"
    path.write_text(policy)
    keyring = FileKeyring(keys) if keys.exists() else FileKeyring.create(keys)
    privacy = Privacy(path, Base, keyring, clock=lambda: NOW)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    store(engine, privacy, range(1, count + 1), **fields)
    return engine, privacy


def store(engine: Engine, privacy: Privacy, numbers: range, **fields: object) -> None:
    """Store contacts with these numbers."""
    rows = [
        {"id": number, "email": f"n{number}@mail.example", "country": "GB", "fax": f"{number}", "left_at": LONG_AGO}
        | fields
        for number in numbers
    ]
    if rows:
        with privacy.purpose("mail"), engine.begin() as connection:
            connection.execute(insert(Contact), rows)
