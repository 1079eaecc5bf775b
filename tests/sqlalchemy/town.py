"""A town whose statistics have a minimum group of five: who lives there, who drives whom, houses."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import Engine, ForeignKey, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    Equality,
    FileKeyring,
    Personal,
    Privacy,
    data_subject,
    events,
    not_personal,
    owned_by,
    purposes,
)

MINIMUM = 5
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = f"""\
privkit: 1
naive_datetimes: UTC
purposes:
  serve:      {{description: Serve people, legal_basis: contract, keep: forever, because: A law of towns.}}
  statistics:
    {{description: Count people, legal_basis: public_task, keep: forever, because: A law, minimum_group: {MINIMUM}}}
  census:
    {{description: Count all, legal_basis: public_task, keep: forever, because: A law of towns, minimum_group: 8}}
  remind:     {{description: Write to people, legal_basis: contract, keep: {{for: P30D, after: left}}}}
"""


class Base(DeclarativeBase):
    pass


def counted(*more: str, **marker: Any) -> Personal:
    """A field that is served with and counted."""
    return Personal("user.name", purposes={"serve", "statistics", "census", *more}, seal=False, **marker)


CODE = Personal("user", purposes={"serve", "statistics"}, seal=True, search=Equality("exact"))


@data_subject
@events(left="left_at")
@not_personal("id", "left_at", because="no fact about the person")
class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    city: Mapped[Annotated[str | None, counted()]]
    income: Mapped[Annotated[int | None, counted()]]
    born: Mapped[Annotated[date | None, counted()]]
    mood: Mapped[Annotated[str | None, counted("remind")]]
    code: Mapped[Annotated[str | None, CODE]]
    wish: Mapped[Annotated[str | None, Personal("user", purposes={"statistics"}, seal=False)]]
    left_at: Mapped[datetime | None]
    rides: Mapped[list["Ride"]] = relationship(back_populates="rider", foreign_keys="Ride.rider_id")


@owned_by("rider", "driver")
@events(left="rider.left_at")
@not_personal("id", because="row id")
class Ride(Base):
    __tablename__ = "rides"
    id: Mapped[int] = mapped_column(primary_key=True)
    rider_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    driver_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))
    rider: Mapped[Person] = relationship(back_populates="rides", foreign_keys=[rider_id])
    driver: Mapped[Person | None] = relationship(foreign_keys=[driver_id])
    fare: Mapped[Annotated[int | None, counted()]]


@owned_by("ride")
@events(left="ride.rider.left_at")
@not_personal("id", because="row id")
class Stop(Base):
    __tablename__ = "stops"
    id: Mapped[int] = mapped_column(primary_key=True)
    ride_id: Mapped[int] = mapped_column(ForeignKey("rides.id"))
    ride: Mapped[Ride] = relationship()
    place: Mapped[Annotated[str | None, counted()]]


@not_personal("id", "city", because="about houses")
class House(Base):
    __tablename__ = "houses"
    id: Mapped[int] = mapped_column(primary_key=True)
    city: Mapped[str]


@dataclass
class Town:
    """One protected engine and what protects it."""

    url: str
    engine: Engine
    privacy: Privacy

    def run(self, statement: Any, *names: str) -> list[tuple[Any, ...]]:
        """The rows of a statement under a purpose, through a session."""
        with self.privacy.purpose(*(names or ("statistics",))), Session(self.engine) as session:
            return [tuple(row) for row in session.execute(statement)]

    @contextmanager
    def sent(self) -> Iterator[list[str]]:
        """What the engine sends meanwhile, but for privkit's own work."""
        statements: list[str] = []

        def before_cursor_execute(_: Any, __: Any, sql: str, *___: Any) -> None:
            scope = purposes.current()
            if scope is not None and not scope.internal:
                statements.append(sql)

        event.listen(self.engine, "before_cursor_execute", before_cursor_execute)
        yield statements
        event.remove(self.engine, "before_cursor_execute", before_cursor_execute)

    def run_core(self, statement: Any) -> list[tuple[Any, ...]]:
        """The rows of a statement for statistics, through a connection."""
        with self.privacy.purpose("statistics"), self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(statement)]


INCOMES = (10, 20, 30, 40, 50, 60, 70, 1000, None)
"""Of each city's people in turn."""


def people() -> list[dict[str, Any]]:
    """Nine in Ulm, six in Bonn, four in Kiel, and one alone."""
    cities = ["Ulm"] * 9 + ["Bonn"] * 6 + ["Kiel"] * 4 + ["Rust"]
    return [
        {
            "id": number,
            "city": city,
            "income": INCOMES[number % 9],
            "born": date(1980 + number % 2, 1, 1 + number),
            "mood": "good" if number % 3 else "bad",
            "code": f"code {number % 3}",
        }
        for number, city in enumerate(cities, 1)
    ]


def rides() -> list[dict[str, Any]]:
    """Everybody's ride; the first half is driven by one person, the others by six."""
    return [
        {"id": each, "rider_id": each, "driver_id": 1 if each <= 10 else each - 9, "fare": each}
        for each in range(1, 17)
    ]


@contextmanager
def open_town(url: str, folder: Path) -> Iterator[Town]:
    """Make the tables and fill them."""
    (folder / "town.yaml").write_text(POLICY, encoding="utf-8")
    privacy = Privacy(folder / "town.yaml", Base, FileKeyring.create(folder / "town.json"), clock=lambda: NOW)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("serve"), Session(engine) as session:
        session.add_all(Person(**each) for each in people())
        session.flush()
        session.add_all(Ride(**each) for each in rides())
        session.flush()
        session.add_all(Stop(id=each, ride_id=each, place="Market") for each in range(1, 17))
        session.add_all(House(id=each, city="Ulm") for each in (1, 2))
        session.commit()
    yield Town(url, engine, privacy)
    engine.dispose()
