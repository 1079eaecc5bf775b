"""One table with one unsealed field that is due in every row: the smallest service that a purge has work in."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import FileKeyring, Personal, Privacy, data_subject, events, not_personal

PLANTED = "planted"
COUNT = 400
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  mail: {description: "Send letters", legal_basis: contract, keep: {for: P2Y, after: left}}
"""
KEPT = POLICY + "backups: P35D\n"


class Base(DeclarativeBase): ...


@data_subject
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Contact(Base):
    __tablename__ = "contacts"
    id: Mapped[int] = mapped_column(primary_key=True)
    phone: Mapped[Annotated[str | None, Personal("user.contact.phone_number", purposes={"mail"}, seal=False)]]
    left_at: Mapped[datetime | None]


@contextmanager
def planted(url: str, folder: Path, policy: str = KEPT, count: int = COUNT) -> Iterator[tuple[Engine, Privacy]]:
    """Contacts who left long ago, with phone numbers that are not sealed, and due."""
    path = folder / "contacts.yaml"
    path.write_text(policy)
    privacy = Privacy(path, Base, FileKeyring.create(folder / "keys.json"), clock=lambda: NOW)
    engine = create_engine(url)
    privacy.protect(engine)
    try:
        Base.metadata.create_all(engine)
        store(engine, privacy, range(1, count + 1))
        yield engine, privacy
    finally:
        engine.dispose()


def store(engine: Engine, privacy: Privacy, numbers: range) -> None:
    """Store contacts with these numbers, each with three planted texts in its phone number."""
    rows = [{"id": number, "phone": f"{PLANTED}{number:06}" * 3, "left_at": datetime(2020, 1, 1)} for number in numbers]
    with privacy.purpose("mail"), engine.begin() as connection:
        connection.execute(insert(Contact), rows)
