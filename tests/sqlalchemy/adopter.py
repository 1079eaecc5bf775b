"""A service that has stored e-mail addresses for years, and each build of it on its way to sealed storage."""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from privkit import (
    Adopting,
    Equality,
    FileKeyring,
    Personal,
    Plain,
    Privacy,
    data_subject,
    events,
    not_personal,
)
from privkit.sqlalchemy import adoption
from tests.databases import Row, raw_rows
from tests.sqlalchemy.rides import Clock

POLICY = """\
privkit: 1
naive_datetimes: UTC
controller: {name: Rides Ltd, contact: privacy@rides.example}
purposes:
  account: {description: Run the account, legal_basis: contract, keep: {for: P30D, after: account_closed}}
"""

UNTIL = date(2026, 6, 30)
PLANTED = "planted{}@secret.example"


@dataclass(frozen=True)
class Build:
    """One build of the service, on one database."""

    privacy: Privacy
    engine: Engine
    model: Any
    url: str

    def purpose(self) -> Any:
        return self.privacy.purpose("account")

    def emails(self) -> dict[int, str | None]:
        """What the application reads."""
        with self.purpose(), Session(self.engine) as session:
            return {each.id: each.email for each in session.scalars(select(self.model).order_by(self.model.id))}

    def add(self, number: int, email: str | None) -> None:
        with self.purpose(), Session(self.engine) as session:
            session.add(self.model(id=number, email=email))
            session.commit()

    def change(self, number: int, email: str | None) -> None:
        with self.purpose(), Session(self.engine) as session:
            session.get(self.model, number).email = email
            session.commit()

    def found(self, *emails: str) -> list[int]:
        """Whom a search by e-mail finds."""
        with self.purpose(), Session(self.engine) as session:
            query = select(self.model.id).where(self.model.email.in_(emails)).order_by(self.model.id)
            return list(session.scalars(query))

    def raw(self, sql: str) -> list[Row]:
        return raw_rows(self.url, sql)

    def stored(self, column: str = "email_sealed") -> list[bytes | None]:
        found = self.raw(f"SELECT {column} FROM riders ORDER BY id")
        return [None if value is None else bytes(value) for (value,) in found]


def build(
    url: str,
    folder: Path,
    clock: Clock,
    adopting: Adopting | None,
    column: str = "email",
    kind: Any = None,
    **marker: Any,
) -> Build:
    """Make one build: ``adopting`` and ``column`` are what its developer wrote; keys are made on first use."""

    class Base(DeclarativeBase):
        pass

    given = {"purposes": {"account"}, "seal": True, "search": Equality("email"), "adopting": adopting} | marker

    @data_subject
    @events(account_closed="closed_at")
    @not_personal("id", "closed_at", because="row id and event time")
    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str | None, Personal("user.contact.email", **given)]] = mapped_column(
            column, *([kind] if kind is not None else [])
        )
        closed_at: Mapped[datetime | None]

    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
    path = folder / "keys.json"
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    privacy = Privacy(policy=folder / "policy.yaml", models=Base, keys=keys, clock=clock)
    engine = create_engine(url, poolclass=NullPool)
    privacy.protect(engine)
    return Build(privacy, engine, Rider, url)


def dual(url: str, folder: Path, clock: Clock, **marker: Any) -> Build:
    """The first deploy: both columns are written, the old one is read."""
    return build(url, folder, clock, Adopting(Plain(), beside="email_sealed", phase="dual"), "email", **marker)


def sealed(url: str, folder: Path, clock: Clock, until: date | None = None, **marker: Any) -> Build:
    """The second deploy: both columns are written, the sealed one is read."""
    return build(url, folder, clock, Adopting(Plain(), beside="email", until=until), "email_sealed", **marker)


def finished(url: str, folder: Path, clock: Clock, **marker: Any) -> Build:
    """The third deploy: the sealed column alone is written."""
    adopting = Adopting(Plain(), beside="email", phase="finished")
    return build(url, folder, clock, adopting, "email_sealed", **marker)


def old_table(url: str, rows: int) -> None:
    """Make the table as it was before anybody had heard of privkit."""
    raw_rows(url, "CREATE TABLE riders (id INTEGER PRIMARY KEY, email VARCHAR(200), closed_at TIMESTAMP)")
    for number in range(1, rows + 1):
        old_build_adds(url, number, PLANTED.format(number))


def old_build_adds(url: str, number: int, email: str | None) -> None:
    raw_rows(url, f"INSERT INTO riders (id, email) VALUES ({number}, {_literal(email)})")


def old_build_changes(url: str, number: int, email: str | None) -> None:
    raw_rows(url, f"UPDATE riders SET email = {_literal(email)} WHERE id = {number}")


def _literal(email: str | None) -> str:
    return "NULL" if email is None else f"'{email}'"


def migrate(made: Build) -> None:
    """Run the first deploy's migration: privkit's tables, a key column, the sealed column and what watches the old."""
    made.model.metadata.create_all(made.engine)
    binary = "BLOB" if made.engine.dialect.name == "sqlite" else "BYTEA"
    made.raw(f"ALTER TABLE riders ADD COLUMN privkit_key {binary}")
    made.raw("CREATE UNIQUE INDEX ix_riders_privkit_key ON riders (privkit_key)")
    for statement in adoption.migration(made.privacy.guard, made.engine, "riders.email"):
        made.raw(statement)
