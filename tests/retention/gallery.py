"""A gallery: people with portraits, albums and pictures, whose files lie in a directory. Also a process to kill.

``python -m tests.retention.gallery URL DIR`` purges, and is killed once it has deleted a file.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from sqlalchemy import Engine, ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import (
    Delete,
    DirectoryStore,
    Equality,
    FileKeyring,
    FileStore,
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
from privkit.purposes import internally
from privkit.retention import Run
from privkit.sqlalchemy.tables import LEDGER
from tests.sqlalchemy.rides import Clock

POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  show: {description: "Show", legal_basis: contract, keep: {for: P30D, after: closed}}
  archive: {description: "Archive", legal_basis: contract, keep: {for: P30D, after: closed, epoch: P7D}}
"""
LONG_AGO = datetime(2025, 1, 1)


class Base(DeclarativeBase):
    pass


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Sitter(Base):
    """Rows that stay when their portraits are gone."""

    __tablename__ = "sitters"
    id: Mapped[int] = mapped_column(primary_key=True)
    portrait: Mapped[Annotated[str | None, Personal("user.image", purposes={"show"}, seal=True, file="portraits")]]
    closed_at: Mapped[datetime | None]


@owned_by("sitter_id")
@events(closed="closed_at")
@expire_row(Delete())
@not_personal("id", "sitter_id", "closed_at", because="row ids and event time")
class Picture(Base):
    """Rows that go, with files that several may name."""

    __tablename__ = "pictures"
    id: Mapped[int] = mapped_column(primary_key=True)
    sitter_id: Mapped[int] = mapped_column(ForeignKey("sitters.id"))
    closed_at: Mapped[datetime | None]
    image: Mapped[
        Annotated[str, Personal("user.image", purposes={"show"}, seal=True, file="pictures", search=Equality())]
    ]
    thumbnail: Mapped[Annotated[str | None, Personal("user.image", purposes={"show"}, seal=False, file="pictures")]]


@owned_by("sitter_id")
@events(closed="closed_at")
@not_personal("id", "sitter_id", "closed_at", because="row ids and event time")
class Print(Base):
    """Rows that stay: one value is replaced by a residue, and one is sealed in epochs."""

    __tablename__ = "prints"
    id: Mapped[int] = mapped_column(primary_key=True)
    sitter_id: Mapped[int] = mapped_column(ForeignKey("sitters.id"))
    closed_at: Mapped[datetime | None]
    scan: Mapped[
        Annotated[
            str, Personal("user.image", purposes={"show"}, seal=False, file="pictures", then=Pseudonymise("scan"))
        ]
    ]
    proof: Mapped[Annotated[str | None, Personal("user.image", purposes={"archive"}, seal=True, file="pictures")]]


@dataclass
class Gallery:
    privacy: Privacy
    engine: Engine
    folder: Path

    def add(self, *rows: Base) -> None:
        """Store rows, and make a file for each name in them."""
        with self.privacy.purpose("show", "archive"), Session(self.engine) as session:
            session.add_all(row for row in rows if isinstance(row, Sitter))
            session.flush()
            session.add_all(rows)
            for row in rows:
                for field, store in (("portrait", "portraits"), *((each, "pictures") for each in PICTURES)):
                    if name := getattr(row, field, None):
                        (self.folder / store / name).write_text("planted")
            session.commit()

    def purge(self, *, batch: int | None = None, workers: int = 1) -> Run:
        plan = self.privacy.plan(self.engine)
        return self.privacy.purge(self.engine, plan, batch=batch, workers=workers, yes_this_many=plan.due)

    def files(self, store: str = "pictures") -> set[str]:
        return {each.name for each in (self.folder / store).iterdir()}

    def key_of(self, number: int) -> bytes:
        table = Sitter.__table__
        with internally(), self.engine.connect() as connection:
            return bytes(connection.execute(select(table.c.privkit_key).where(table.c.id == number)).scalar_one())

    def ledger(self, kind: str) -> list[str]:
        """The bodies of the lines of one kind."""
        line = self.privacy.guard.own_table(LEDGER)
        with internally(), self.engine.connect() as connection:
            query = select(line.c.body).where(line.c.kind == kind).order_by(line.c.seq)
            return list(connection.execute(query).scalars())


PICTURES = ("image", "thumbnail", "scan", "proof")


def gallery(
    url: str, folder: Path, clock: Callable[[], datetime] | None = None, *, outside: bool = False, **stores: FileStore
) -> Gallery:
    """Open the gallery as one process does; call ``engine.dispose()`` after the test."""
    policy, path = folder / "gallery.yaml", folder / "gallery-keys.json"
    policy.write_text(POLICY)
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    for name in ("portraits", "pictures"):
        (folder / name).mkdir(exist_ok=True)
        stores.setdefault(name, DirectoryStore(folder / name))
    ledger = LedgerFile(folder / "ledger.jsonl") if outside else None
    privacy = Privacy(policy, Base, keys, clock=clock or Clock(), ledger=ledger, stores=stores)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return Gallery(privacy, engine, folder)


class Killing(DirectoryStore):
    """Its process ends with the first file that was there."""

    def delete(self, name: str) -> None:
        was_there = (self.path / name).exists()
        super().delete(name)
        if was_there:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    gallery(sys.argv[1], place, pictures=Killing(place / "pictures")).purge(batch=3)
