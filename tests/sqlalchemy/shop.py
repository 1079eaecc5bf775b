"""A small shop whose models have every shape that can be mapped, a policy for it, and a protected engine to attack."""

from __future__ import annotations

import enum
import sqlite3
import struct
import uuid
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import psycopg
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Engine,
    ForeignKey,
    Integer,
    Numeric,
    String,
    Table,
    TypeDecorator,
    create_engine,
    event,
    func,
    make_url,
)
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    column_property,
    composite,
    deferred,
    mapped_column,
    query_expression,
    relationship,
    synonym,
)

from privkit import (
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
    Year,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from tests.databases import libpq, raw_rows

POLICY = """\
privkit: 1
enforcement: enforce
naive_datetimes: UTC
controller: {name: Shop Ltd, contact: privacy@shop.example, regions: [eu-west-1]}
purposes:
  care:    {description: Serve the person, legal_basis: contract, keep: {for: P30D, after: closed}}
  rough:   {description: See what is roughly true, legal_basis: contract, keep: {for: P30D, after: closed}}
  survey:  {description: Ask how it was, legal_basis: contract, keep: {for: P30D, after: closed}}
  archive: {description: Never forget, legal_basis: contract, keep: forever, because: The law of this shop.}
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
CLOSED = datetime(2026, 1, 2, tzinfo=UTC)
KEPT_UNTIL = CLOSED + timedelta(days=30)


class Mood(enum.Enum):
    """How a person is."""

    GOOD = "planted-mood-good"
    PLANTED_BAD = "planted-mood-bad"


class Loud(TypeDecorator[str]):
    """Text that is stored in capitals and read in small letters."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.upper()

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.lower()


class Base(DeclarativeBase):
    """The base of everything that is annotated where it is declared."""


def sealed(category: str = "user.contact", **more: Any) -> Personal:
    """A sealed field for care."""
    return Personal(category, purposes={"care"}, seal=True, **more)


def plain(category: str = "user.name", **more: Any) -> Personal:
    """An unsealed field for care."""
    return Personal(category, purposes={"care"}, seal=False, **more)


NAMED_ON = Personal("user.name", purposes={"care": Exact(), "rough": Year()}, seal=False)
ANSWER = Personal("user.behavior", purposes={"survey"}, seal=False)
HOME = Location(purposes={"care": Exact(), "rough": Cell(7)}, search=Nearby(8))


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", "rank", because="no fact about the person")
class Person(Base):
    """A data subject with a field of every type, sealed and not."""

    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[Annotated[str | None, sealed(search=Equality("email"))]]
    note: Mapped[Annotated[str | None, sealed()]]
    photo: Mapped[Annotated[bytes | None, sealed()]]
    steps: Mapped[Annotated[int | None, sealed()]]
    weight: Mapped[Annotated[float | None, sealed()]]
    salary: Mapped[Annotated[Decimal | None, sealed()]] = mapped_column(Numeric(12, 3))
    born: Mapped[Annotated[date | None, sealed()]]
    seen_at: Mapped[Annotated[datetime | None, sealed()]] = mapped_column(DateTime(timezone=True))
    local_at: Mapped[Annotated[datetime | None, sealed()]]
    mood: Mapped[Annotated[Mood | None, sealed()]]
    token: Mapped[Annotated[uuid.UUID | None, sealed()]]
    extra: Mapped[Annotated[dict[str, Any] | None, sealed()]] = mapped_column(JSON)
    vip: Mapped[Annotated[bool | None, sealed()]]
    home: Mapped[Annotated[GeoPoint | None, HOME]]
    city: Mapped[Annotated[str | None, plain()]]
    shoe: Mapped[Annotated[int | None, plain()]]
    ratio: Mapped[Annotated[float | None, plain()]]
    price: Mapped[Annotated[Decimal | None, plain()]] = mapped_column(Numeric(12, 3))
    named_on: Mapped[Annotated[date | None, NAMED_ON]]
    joined_at: Mapped[Annotated[datetime | None, plain()]]
    humour: Mapped[Annotated[Mood | None, plain()]]
    badge: Mapped[Annotated[uuid.UUID | None, plain()]]
    likes: Mapped[Annotated[dict[str, Any] | None, plain()]] = mapped_column(JSON)
    opted: Mapped[Annotated[bool | None, plain()]]
    diary: Mapped[Annotated[str | None, sealed()]] = deferred(mapped_column())
    creed: Mapped[Annotated[str | None, sealed()]] = mapped_column(Loud())
    motto: Mapped[Annotated[str | None, plain()]] = mapped_column(Loud())
    answer: Mapped[Annotated[str | None, ANSWER]]
    rank: Mapped[int | None]
    closed_at: Mapped[datetime | None]
    orders: Mapped[list[Order]] = relationship(back_populates="person")


class HasAddress:
    """A mixin that brings a personal field."""

    address: Mapped[Annotated[str | None, sealed("user.contact.address")]]


@owned_by("person")
@events(closed="person.closed_at")
@not_personal("id", because="row id")
class Order(HasAddress, Base):
    """Belongs to its person through a relationship."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))
    person: Mapped[Person | None] = relationship(back_populates="orders")
    wish: Mapped[Annotated[str | None, plain()]]
    lines: Mapped[list[Line]] = relationship(back_populates="order")


@owned_by("order")
@not_personal("id", because="row id")
@events(closed="ended_at")
@expire_row(Delete())
class Line(Base):
    """Belongs to the person of its order, and dies as a row."""

    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order] = relationship(back_populates="lines")
    engraving: Mapped[Annotated[str | None, sealed()]]
    ended_at: Mapped[Annotated[datetime | None, NotPersonal("event time")]]


@owned_by("person_id")
@events(closed="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Visit(Base):
    """Belongs to its person through a foreign-key column."""

    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    where: Mapped[Annotated[str | None, sealed()]]
    left_at: Mapped[datetime | None]


@data_subject
@events(closed="closed_at")
@not_personal("id", "kind", "closed_at", because="row id and event time")
class Staff(Base):
    """The base of joined inheritance."""

    __tablename__ = "staff"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    phone: Mapped[Annotated[str | None, sealed()]]
    closed_at: Mapped[datetime | None]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "staff"}


@not_personal("id", because="row id")
class Doctor(Staff):
    """A child class with a table and a personal field of its own."""

    __tablename__ = "doctors"
    id: Mapped[int] = mapped_column(ForeignKey("staff.id"), primary_key=True)
    licence: Mapped[Annotated[str | None, sealed()]]
    __mapper_args__ = {"polymorphic_identity": "doctor"}


@data_subject
@events(closed="closed_at")
@not_personal("id", "kind", "closed_at", because="row id and event time")
class Contact(Base):
    """The base of single-table inheritance."""

    __tablename__ = "contacts"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    phone: Mapped[Annotated[str | None, sealed()]]
    closed_at: Mapped[datetime | None]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "contact"}


class Patient(Contact):
    """A child class in the same table, with a personal field of its own."""

    ward: Mapped[Annotated[str | None, sealed("user.health_and_medical")]] = mapped_column(use_existing_column=True)
    __mapper_args__ = {"polymorphic_identity": "patient"}


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Card(MappedAsDataclass, Base):
    """Mapped as a dataclass."""

    __tablename__ = "cards"
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    holder: Mapped[Annotated[str | None, sealed()]]
    closed_at: Mapped[datetime | None] = mapped_column(default=None)


@dataclass
class Place:
    """A composite of two fields."""

    street: str | None
    town: str | None


@dataclass
class Birth:
    """A composite of a field that a purpose may see coarsely, and of what is not personal."""

    day: Any
    closed: datetime | None


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Member(Base):
    """A data subject whose fields have more than one name."""

    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    street: Mapped[Annotated[str | None, sealed("user.contact.address")]]
    town: Mapped[Annotated[str | None, plain()]] = mapped_column(String(80))
    born: Mapped[Annotated[date | None, NAMED_ON]]
    closed_at: Mapped[datetime | None]
    place: Mapped[Place] = composite("street", "town")
    birth: Mapped[Birth] = composite("born", "closed_at")
    alley: Mapped[str | None] = synonym("street")
    burgh: Mapped[str | None] = synonym("town")
    capitals: Mapped[str | None] = column_property(func.upper(town))
    said: Mapped[str | None] = query_expression()
    parcels: Mapped[list[Parcel]] = relationship(back_populates="member")

    @hybrid_property
    def lane(self) -> str | None:
        """The street, as it is."""
        return self.street

    @hybrid_property
    def loud(self) -> str | None:
        """The town in capitals."""
        return self.town and self.town.upper()

    @loud.inplace.expression
    @classmethod
    def _loud(cls) -> Any:
        return func.upper(cls.town)


@owned_by("member")
@events(closed="member.closed_at")
@not_personal("id", because="row id")
class Parcel(Base):
    """Shows fields of its owner as its own."""

    __tablename__ = "parcels"
    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(ForeignKey("members.id"))
    member: Mapped[Member] = relationship(back_populates="parcels")
    wish: Mapped[Annotated[str | None, plain()]]
    street: AssociationProxy[str | None] = association_proxy("member", "street")
    town: AssociationProxy[str | None] = association_proxy("member", "town")


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Ticket(Base):
    """Has fields that Python fills in."""

    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[Annotated[str | None, sealed()]] = mapped_column(default="planted code")
    mail: Mapped[Annotated[str | None, sealed(search=Equality("email"))]] = mapped_column(
        default=lambda: "planted@tickets.example"
    )
    about: Mapped[Annotated[str | None, sealed()]] = mapped_column(
        default=lambda context: f"planted {context.get_current_parameters()['id']}"
    )
    seat: Mapped[Annotated[str | None, plain()]] = mapped_column(default="a seat")
    closed_at: Mapped[datetime | None]


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Stub(Base):
    """Has fields that the database would fill in."""

    __tablename__ = "stubs"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[Annotated[str | None, sealed()]] = mapped_column(server_default="planted code")
    closed_at: Mapped[datetime | None]


class Guest:
    """Somebody else's class: mapped imperatively, and annotated from outside."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


guests = Table(
    "guests",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("login", String(80)),
    Column("closed_at", DateTime),
)
Base.registry.map_imperatively(Guest, guests)
data_subject(Guest)
events(closed="closed_at")(Guest)

TEXT = "planted Zoë text"
PLANTED: dict[str, Any] = {
    "email": "planted@zoe.example",
    "note": TEXT,
    "photo": b"planted\x00bytes\xff",
    "steps": 8_070_450_532_247_928_832,
    "weight": 71.828125,
    "salary": Decimal("5432.100"),
    "born": date(1987, 6, 5),
    "seen_at": datetime(2025, 12, 24, 18, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2))),
    "local_at": datetime(2025, 11, 23, 7, 8, 9, 654321),
    "mood": Mood.PLANTED_BAD,
    "token": uuid.UUID("b3b8a4a2-59c1-4f26-9a52-6ad2f4a64b11"),
    "extra": {"planted": ["json", {"ü": None}], "n": 71.828125},
    "vip": False,
    "home": GeoPoint(51.501364, -0.141890),
    "diary": "planted diary",
    "creed": "planted Creed",
}
"""A value for every sealed field of a person."""

PLAIN: dict[str, Any] = {
    "city": "Plain city",
    "shoe": 43,
    "ratio": 1.25,
    "price": Decimal("12.340"),
    "named_on": date(1990, 1, 2),
    "joined_at": datetime(2025, 1, 2, 3, 4, 5),
    "humour": Mood.GOOD,
    "badge": uuid.UUID(int=7),
    "likes": {"tea": True},
    "opted": True,
    "motto": "plain motto",
}
"""A value for every unsealed field of a person."""

LEFTOVERS: tuple[bytes, ...] = (
    b"planted",
    b"Zo\xc3\xab",
    b"PLANTED",
    b"5432.1",
    b"71.828125",
    struct.pack(">d", 71.828125),
    struct.pack("<d", 71.828125),
    struct.pack(">q", PLANTED["steps"]),
    struct.pack("<q", PLANTED["steps"]),
    b"8070450532247928832",
    b"1987-06-05",
    b"2025-12-24",
    b"2025-11-23",
    PLANTED["token"].bytes,
    b"b3b8a4a2",
    b"51.501",
    PLANTED["home"].pack(),
)
"""What a planted value would look like where it were stored in the clear."""


@dataclass
class Shop:
    """One protected engine, what protects it, and the clock's hand."""

    url: str
    engine: Engine
    privacy: Privacy
    wire: Wire
    now: datetime = START

    def session(self) -> Session:
        """A new session."""
        return Session(self.engine)

    @property
    def async_url(self) -> str:
        """The same database for asyncio: aiosqlite or asyncpg."""
        return self.url.replace("sqlite:", "sqlite+aiosqlite:").replace("+psycopg:", "+asyncpg:")

    def reset(self) -> None:
        """Empty every table through the plain driver, and set the clock back."""
        script = ";".join(f"DELETE FROM {table.name}" for table in reversed(Base.metadata.sorted_tables))
        where = make_url(self.url)
        if where.get_backend_name() == "sqlite":
            with closing(sqlite3.connect(str(where.database))) as lite:
                lite.executescript(f"PRAGMA synchronous = OFF; {script}")
        else:
            with psycopg.connect(libpq(where), autocommit=True) as connection:
                connection.execute(script)
        self.now = START
        self.wire.clear()

    def stored(self, table: str) -> list[tuple[Any, ...]]:
        """Every column of a table as the driver gives it."""
        return raw_rows(self.url, f"SELECT * FROM {table}")

    def leftovers(self, *tables: str) -> list[bytes]:
        """Which planted values stand in the clear in these tables."""
        seen = b"\n".join(_bytes(value) for table in tables for row in self.stored(table) for value in row)
        return [each for each in LEFTOVERS if each in seen]


def open_shop(url: str, folder: Path) -> Shop:
    """Make the tables and a protected engine on an empty database, with new keys."""
    wire = Wire()
    lite = url.startswith("sqlite")
    engine = create_engine(url, connect_args={"factory": wire.sqlite_connection()} if lite else {})
    if lite:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    else:
        event.listen(engine, "connect", lambda connection, _: wire.listen_to(connection))
    shop: Shop = Shop(url, engine, _privacy(folder, lambda: shop.now), wire)
    shop.privacy.protect(engine)
    Base.metadata.create_all(shop.engine)
    return shop


def open_async(shop: Shop, url: str) -> AsyncEngine:
    """A second engine of the same shop, for asyncio."""
    engine = create_async_engine(url)
    shop.privacy.protect(engine)
    return engine


def _privacy(folder: Path, clock: Any) -> Privacy:
    (folder / "shop.yaml").write_text(POLICY, encoding="utf-8")
    keys = FileKeyring.create(folder / "keys.json")
    privacy = Privacy(policy=folder / "shop.yaml", models=Base, keys=keys, clock=clock)
    privacy.annotate(
        Guest,
        login=sealed("user.account"),
        id=NotPersonal("row id"),
        closed_at=NotPersonal("event time"),
    )
    return privacy


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes | memoryview | bytearray):
        return bytes(value)
    return str(value).encode()


class Wire:
    """Every value that the driver received, seen at its own cursor, below SQLAlchemy."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.statements: list[str] = []

    def clear(self) -> None:
        """Forget what was seen."""
        self.values.clear()
        self.statements.clear()

    def note(self, rows: Any) -> Any:
        """Remember the values of one row, several, or none, and hand them on."""
        for row in [rows] if isinstance(rows, tuple) else rows or ():
            self.values.extend(row)
        return rows

    def holds(self, *leftovers: bytes) -> bool:
        """Whether one of these values was received in the clear."""
        return any(each in _bytes(value) for value in self.values for each in leftovers)

    def envelopes(self) -> int:
        """How many sealed values were received."""
        seen = (bytes(value) for value in self.values if isinstance(value, bytes | memoryview))
        return sum(len(value) >= 50 and value[:2] == b"\x01\x01" for value in seen)

    def sqlite_connection(self) -> type[sqlite3.Connection]:
        """A connection class whose cursors tell this wire what they fetch."""
        wire = self

        class Cursor(sqlite3.Cursor):
            def execute(self, sql: str, *parameters: Any) -> Any:
                wire.statements.append(sql)
                return super().execute(sql, *parameters)

            def fetchone(self) -> Any:
                return wire.note(super().fetchone())

            def fetchmany(self, *size: Any, **named: Any) -> Any:
                return wire.note(super().fetchmany(*size, **named))

            def fetchall(self) -> Any:
                return wire.note(super().fetchall())

        class Connection(sqlite3.Connection):
            def cursor(self, factory: Any = Cursor) -> Any:
                return super().cursor(factory)

        return Connection

    def listen_to(self, connection: psycopg.Connection) -> None:
        """Have a psycopg connection's cursors tell this wire what the server sent."""
        wire = self

        class Cursor(psycopg.Cursor):
            def execute(self, query: Any, *arguments: Any, **named: Any) -> Any:
                wire.statements.append(str(query))
                done = super().execute(query, *arguments, **named)
                wire.sent(self.pgresult)
                return done

        class ServerCursor(psycopg.ServerCursor):
            def fetchone(self) -> Any:
                return wire.note(super().fetchone())

            def fetchmany(self, size: int = 0) -> Any:
                return wire.note(super().fetchmany(size))

            def fetchall(self) -> Any:
                return wire.note(super().fetchall())

        connection.cursor_factory = Cursor
        connection.server_cursor_factory = ServerCursor

    def asyncpg_class(self) -> type[asyncpg.Connection]:
        """A connection class whose prepared statements tell this wire what they fetch."""
        wire = self

        class Fetching:
            def __init__(self, inner: Any) -> None:
                self.inner = inner

            def __getattr__(self, name: str) -> Any:
                return getattr(self.inner, name)

            async def fetch(self, *arguments: Any, **named: Any) -> Any:
                found = await self.inner.fetch(*arguments, **named)
                wire.note([tuple(record) for record in found])
                return found

            async def fetchrow(self, *arguments: Any, **named: Any) -> Any:
                found = await self.inner.fetchrow(*arguments, **named)
                wire.note(tuple(found or ()))
                return found

            async def cursor(self, *arguments: Any, **named: Any) -> Any:
                return Fetching(await self.inner.cursor(*arguments, **named))

        class Connection(asyncpg.Connection):  # type: ignore[misc]
            async def prepare(self, query: str, **named: Any) -> Any:
                wire.statements.append(query)
                return Fetching(await super().prepare(query, **named))

        return Connection

    def sent(self, result: Any) -> None:
        """Remember a whole result, whether or not anybody will fetch it."""
        for row in range(result.ntuples if result else 0):
            for column in range(result.nfields):
                value = result.get_value(row, column)
                hexadecimal = value is not None and value.startswith(b"\\x")
                self.values.append(bytes.fromhex(value[2:].decode()) if hexadecimal else value)
