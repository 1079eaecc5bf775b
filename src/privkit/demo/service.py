"""Builds the ride service: a SQLite file, a keyring, and seeded riders and trips."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from faker import Faker
from sqlalchemy import Engine, create_engine, event, insert

from privkit import FileKeyring, GeoPoint, Privacy
from privkit.demo.models import POLICY, Base, Rider, Trip
from privkit.errors import ApplicationError

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CITY = (51.5074, -0.1278)
BATCH = 5_000
CHILD = 25
"""Every so many-th rider is a child."""
MADE_HERE = ".privkit-demo"
"""Marks a folder whose files the next demonstration may replace."""
FILES = ("rides.sqlite", "rides.sqlite-wal", "rides.sqlite-shm", "keys.json", "report.html")
SIGN_UP = ("account", "age_check", "pickup", "demand_map")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Planted:
    """A few of the values that were stored, to look for them in the files afterwards.

    ``plain`` are instants that are not personal data and stay: a search that does not find them proves nothing.
    """

    texts: list[str] = field(default_factory=list)
    points: list[GeoPoint] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)

    def rider(self, row: Row) -> None:
        """Remember a rider's values."""
        self.texts.extend((row["name"], row["email"]))
        self.points.extend([row["home"]] if row["home"] is not None else [])
        if row["closed_at"] is not None:
            self.plain.append(f"{row['closed_at']:%Y-%m-%d %H:%M:%S.%f}")

    def trip(self, row: Row) -> None:
        """Remember a trip's values."""
        self.points.extend((row["start"], row["finish"]))

    def needles(self) -> list[bytes]:
        """Return the values in each form they could be stored in: text, the digits of JSON, a float's bytes."""
        degrees = [each for point in self.points for each in (point.lat, point.lon)]
        digits = [repr(each).encode() for each in degrees]
        floats = [struct.pack(form, each) for each in degrees for form in ("<d", ">d")]
        return [text.encode() for text in self.texts] + digits + floats


@dataclass(frozen=True, slots=True)
class RideService:
    """The service: its privacy object, its engine, and where its files are."""

    privacy: Privacy
    engine: Engine
    database: Path


def open_service(folder: Path) -> RideService:
    """Make the files in ``folder``, replacing those of an earlier demonstration.

    Raises ApplicationError where it holds files of that name which no demonstration made: they may be in use.
    """
    _make_room(folder)
    database, keys = folder / "rides.sqlite", folder / "keys.json"
    engine = create_engine(f"sqlite:///{database}")
    event.listen(engine, "connect", _write_ahead)
    privacy = Privacy(policy=POLICY, models=Base, keys=FileKeyring.create(keys), clock=lambda: NOW)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return RideService(privacy, engine, database)


def _make_room(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    there = [folder / name for name in FILES if (folder / name).exists()]
    if there and not (folder / MADE_HERE).exists():
        raise ApplicationError(
            f"{there[0]} was not made by a demonstration.",
            "It would be replaced, and a keyring or a database with it.",
            "Name another folder: python -m privkit.demo --folder out/demo",
        )
    (folder / MADE_HERE).touch()
    for path in there:
        path.unlink()


def _write_ahead(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA secure_delete=ON")


def fill(service: RideService, riders: int, trips: int) -> Planted:
    """Store riders and trips, sealed under each rider's own key. Returns some of the values that were stored."""
    planted = Planted()
    with service.privacy.purpose(*SIGN_UP):
        _store(service.engine, Rider, _sampled(rider_rows(riders), riders, planted.rider))
    with service.privacy.purpose("navigation"):
        _store(service.engine, Trip, _sampled(trip_rows(trips, riders), trips, planted.trip))
    return planted


def _store(engine: Engine, model: type[Base], rows: Iterator[Row]) -> None:
    while batch := list(islice(rows, BATCH)):
        with engine.begin() as connection:
            connection.execute(insert(model), batch)


def _sampled(rows: Iterator[Row], count: int, remember: Callable[[Row], None]) -> Iterator[Row]:
    """Pass rows on, and have about fifty of them remembered."""
    step = max(count // 50, 1)
    for row in rows:
        if row["id"] % step == 0:
            remember(row)
        yield row


def rider_rows(count: int) -> Iterator[Row]:
    """Yield riders, the same ones at each call."""
    fake, chance = Faker(["en_GB"], use_weighting=False), random.Random(2026)
    fake.seed_instance(2026)
    today = NOW.date()
    for number in range(1, count + 1):
        name, home = fake.name(), _place(chance)
        years = chance.randint(8, 12) if number % CHILD == 0 else chance.randint(16, 80)
        closed = NOW - timedelta(days=chance.randint(2, 1200)) if number % 3 == 0 else None
        yield {
            "id": number,
            "email": f"{name.lower().replace(' ', '.').replace('..', '.')}.{number}@rides.example",
            "name": name,
            "born": date(today.year - years, chance.randint(1, 12), chance.randint(2, 28)),
            "home": home if number % CHILD else None,  # off for children
            "country": "GB",
            "closed_at": closed.replace(tzinfo=None) if closed else None,
        }


def trip_rows(count: int, riders: int) -> Iterator[Row]:
    """Yield trips of the adults among so many riders, the same ones at each call."""
    chance = random.Random(1962)
    adults = [number for number in range(1, riders + 1) if number % CHILD]
    for number in range(1, count + 1):
        start = _place(chance)
        ended = NOW - timedelta(hours=chance.randint(1, 96)) if number % 20 else None
        yield {
            "id": number,
            "rider_id": adults[chance.randrange(len(adults))],
            "start": start,
            "finish": _place(chance),
            "ended_at": ended.replace(tzinfo=None) if ended else None,
        }


def _place(chance: random.Random) -> GeoPoint:
    return GeoPoint(CITY[0] + chance.gauss(0, 0.05), CITY[1] + chance.gauss(0, 0.08))


def found_in_files(service: RideService, needles: Iterable[bytes]) -> int:
    """Count how many of these bytes stand anywhere in the database's files."""
    files = (service.database, Path(f"{service.database}-wal"))
    stored = b"".join(path.read_bytes() for path in files if path.exists())
    return sum(needle in stored for needle in needles)
