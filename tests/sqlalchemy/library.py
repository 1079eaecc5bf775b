"""A library whose readers have fields of each kind that matters to SQL text, and books that are about nobody."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import Engine, ForeignKey, create_engine, event, func
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, column_property, mapped_column, relationship

from privkit import (
    Delete,
    Equality,
    Exact,
    FileKeyring,
    Personal,
    Privacy,
    Year,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.sqlalchemy import Guard
from tests.databases import raw_rows
from tests.sqlalchemy.shop import Wire

POLICY = """\
privkit: 1
naive_datetimes: UTC
purposes:
  lend:    {description: Lend books, legal_basis: contract, keep: forever, because: A law of libraries.}
  count:   {description: Count readers, legal_basis: contract, keep: forever, because: A law of libraries.}
  remind:  {description: Ask for books back, legal_basis: contract, keep: {for: P30D, after: left}}
"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Base(DeclarativeBase):
    pass


def kept(**more: Any) -> Personal:
    """An unsealed field that lending needs for ever."""
    return Personal("user.name", purposes={"lend"}, seal=False, **more)


@data_subject
@events(left="left_at")
@not_personal("id", "shelf", "left_at", because="no fact about the reader")
class Reader(Base):
    __tablename__ = "readers"
    id: Mapped[int] = mapped_column(primary_key=True)
    city: Mapped[Annotated[str | None, kept()]] = mapped_column()
    age: Mapped[Annotated[int | None, kept()]]
    born: Mapped[Annotated[date | None, Personal("user", purposes={"lend": Exact(), "count": Year()}, seal=False)]]
    phone: Mapped[Annotated[str | None, Personal("user.contact", purposes={"remind"}, seal=False)]]
    note: Mapped[Annotated[str | None, Personal("user", purposes={"lend"}, seal=True, search=Equality("exact"))]]
    shelf: Mapped[int | None]
    left_at: Mapped[datetime | None]
    loans: Mapped[list["Loan"]] = relationship(back_populates="reader")
    town: Mapped[str | None] = column_property(func.upper(city))

    @hybrid_property
    def grown(self) -> Any:
        """Whether the reader may borrow everything."""
        return self.age >= 18  # type: ignore[operator]


@owned_by("reader")
@events(left="ended_at")
@expire_row(Delete())
@not_personal("id", "ended_at", because="row id and event time")
class Loan(Base):
    __tablename__ = "loans"
    id: Mapped[int] = mapped_column(primary_key=True)
    reader_id: Mapped[int | None] = mapped_column(ForeignKey("readers.id"))
    reader: Mapped[Reader | None] = relationship(back_populates="loans", lazy="joined")
    title: Mapped[Annotated[str | None, Personal("user.content", purposes={"remind"}, seal=False)]]
    ended_at: Mapped[datetime | None]


@not_personal("id", "city", "age", because="about books")
class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    city: Mapped[str | None]
    age: Mapped[int | None]


@dataclass
class Library:
    url: str
    engine: Engine
    privacy: Privacy
    wire: Wire

    @property
    def guard(self) -> Guard:
        return self.privacy.guard

    @property
    def async_url(self) -> str:
        return self.url.replace("sqlite:", "sqlite+aiosqlite:").replace("+psycopg:", "+asyncpg:")


@contextmanager
def open_library(url: str, folder: Path, listener: Any = None) -> Iterator[Library]:
    """Make the tables, three readers, a loan and a book each. ``listener`` sees statements before the gate does."""
    (folder / "library.yaml").write_text(POLICY, encoding="utf-8")
    keys = FileKeyring.create(folder / "library.json")
    privacy = Privacy(folder / "library.yaml", Base, keys, clock=lambda: NOW)
    wire = Wire()
    lite = url.startswith("sqlite")
    engine = create_engine(url, connect_args={"factory": wire.sqlite_connection()} if lite else {})
    if not lite:
        event.listen(engine, "connect", lambda connection, _: wire.listen_to(connection))
    if listener is not None:
        event.listen(engine, "before_cursor_execute", listener)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("lend", "remind"), Session(engine) as session:
        for each in (1, 2, 3):
            session.add(Reader(id=each, city=f"planted city {each}", age=each * 10, born=date(1990 + each, 1, 1),
                               phone=f"planted phone {each}", note=f"planted note {each}", shelf=each))  # fmt: skip
            session.flush()
            session.add(Loan(id=each, reader_id=each, title=f"planted title {each}"))
            session.add(Book(id=each, city=f"city {each}", age=each))
        session.commit()
    yield Library(url, engine, privacy, wire)
    engine.dispose()


VIEWS = (
    "CREATE VIEW cities AS SELECT id, city FROM readers",
    "CREATE VIEW phones AS SELECT id, phone FROM readers",
    "CREATE VIEW phones_of_phones AS SELECT * FROM phones",
    "CREATE VIEW shelves AS SELECT id, shelf FROM readers",
)
POSTGRESQL_VIEWS = (
    "CREATE SCHEMA attic",
    "CREATE VIEW attic.hidden_view AS SELECT id, phone FROM public.readers",
    "CREATE MATERIALIZED VIEW stored_view AS SELECT id, phone FROM readers",
    "CREATE TABLE readers_2026 () INHERITS (readers)",
    "CREATE FUNCTION all_phones() RETURNS SETOF text LANGUAGE sql AS $$ SELECT phone FROM readers $$",
    "CREATE FUNCTION through() RETURNS SETOF text LANGUAGE sql AS $$ SELECT all_phones() $$",
    "CREATE FUNCTION any_table(t text) RETURNS text LANGUAGE plpgsql AS "
    "$$ DECLARE r text; BEGIN EXECUTE 'SELECT max(phone) FROM ' || t INTO r; RETURN r; END $$",
    "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS $$ SELECT n * 2 $$",
)


def add_views(library: Library) -> None:
    """Add, past privkit, what another program may have put over the tables."""
    for sql in VIEWS + (() if library.url.startswith("sqlite") else POSTGRESQL_VIEWS):
        raw_rows(library.url, sql)
