"""Builds the ride service: a SQLite file, a keyring, and seeded riders and trips."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from faker import Faker
from sqlalchemy import Engine, create_engine, event, insert

from privkit import FileKeyring, GeoPoint, Privacy
from privkit.demo.models import POLICY, Base, Rider, Trip

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CITY = (51.5074, -0.1278)
BATCH = 5_000
CHILD = 25
"""Every so many-th rider is a child."""
SIGN_UP = ("account", "age_check", "pickup", "demand_map")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Planted:
    """A few of the values that were stored, to look for them in the file afterwards."""

    texts: list[str]
    points: list[GeoPoint]


@dataclass(frozen=True, slots=True)
class RideService:
    """The service: its privacy object, its engine, and where its files are."""

    privacy: Privacy
    engine: Engine
    database: Path


def open_service(folder: Path) -> RideService:
    """Make the files in ``folder``, replacing those of an earlier demonstration."""
    folder.mkdir(parents=True, exist_ok=True)
    database, keys = folder / "rides.sqlite", folder / "keys.json"
    for path in (database, Path(f"{database}-wal"), Path(f"{database}-shm"), keys):
        path.unlink(missing_ok=True)
    engine = create_engine(f"sqlite:///{database}")
    event.listen(engine, "connect", _write_ahead)
    privacy = Privacy(policy=POLICY, models=Base, keys=FileKeyring.create(keys), clock=lambda: NOW)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return RideService(privacy, engine, database)


def _write_ahead(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA secure_delete=ON")


def fill(service: RideService, riders: int, trips: int) -> Planted:
    """Store riders and trips, sealed under each rider's own key. Returns some of the values that were stored."""
    planted = Planted([], [])
    with service.privacy.purpose(*SIGN_UP):
        for rows in _batches(_riders(riders, planted)):
            with service.engine.begin() as connection:
                connection.execute(insert(Rider), rows)
    with service.privacy.purpose("navigation"):
        for rows in _batches(_trips(trips, riders, planted)):
            with service.engine.begin() as connection:
                connection.execute(insert(Trip), rows)
    return planted


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _riders(count: int, planted: Planted) -> Iterator[Row]:
    fake, chance = Faker(["en_GB"], use_weighting=False), random.Random(2026)
    fake.seed_instance(2026)
    today = NOW.date()
    for number in range(1, count + 1):
        name, home = fake.name(), _place(chance)
        email = f"{name.lower().replace(' ', '.').replace('..', '.')}.{number}@rides.example"
        years = chance.randint(8, 12) if number % CHILD == 0 else chance.randint(16, 80)
        closed = NOW - timedelta(days=chance.randint(2, 1200)) if number % 3 == 0 else None
        if number % (count // 50 or 1) == 0:
            planted.texts.extend((name, email))
            planted.points.append(home)
        yield {
            "id": number,
            "email": email,
            "name": name,
            "born": date(today.year - years, chance.randint(1, 12), chance.randint(2, 28)),
            "home": home,
            "country": "GB",
            "closed_at": closed.replace(tzinfo=None) if closed else None,
        }


def _trips(count: int, riders: int, planted: Planted) -> Iterator[Row]:
    chance = random.Random(1962)
    adults = [number for number in range(1, riders + 1) if number % CHILD]
    for number in range(1, count + 1):
        start = _place(chance)
        if number % (count // 50 or 1) == 0:
            planted.points.append(start)
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


def found_in_files(service: RideService, planted: Planted) -> int:
    """Count how many planted values stand in the database's files: as text, as float bytes, as JSON numbers."""
    import struct

    stored = b"".join(
        path.read_bytes() for path in (service.database, Path(f"{service.database}-wal")) if path.exists()
    )
    needles = [text.encode() for text in planted.texts]
    for point in planted.points:
        for degrees in (point.lat, point.lon):
            needles += [repr(degrees).encode(), struct.pack("<d", degrees), struct.pack(">d", degrees)]
    return sum(needle in stored for needle in needles)
