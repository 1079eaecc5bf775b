"""Real GPS fixes through privkit: load and seal, search the neighbourhood, purge the older half to a coarse cell.

    python benchmarks/geolife.py FIXES.csv.gz [DATABASE_URL]

``FIXES.csv.gz`` has the columns lat, lng, datetime (UTC) and uid. Without a URL, a SQLite file in a
temporary folder is used; with one, the tables named below are dropped there and made anew. The search
is compared with a brute-force distance over the file, and the figures are rows a second.
"""

import csv
import gzip
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import Engine, ForeignKey, create_engine, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import (
    Cell,
    FileKeyring,
    Generalise,
    GeoPoint,
    Location,
    Nearby,
    Privacy,
    data_subject,
    events,
    not_personal,
    owned_by,
)
from privkit.location import metres_between, nearby

CENTRE, METRES = GeoPoint(39.9841, 116.3193), 500.0
BATCH = 5_000
POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  mobility: {description: "Study how people move", legal_basis: consent, keep: {for: P1D, after: recorded}}
"""


class Base(DeclarativeBase):
    pass


@data_subject
@not_personal("id", because="row id")
class Walker(Base):
    __tablename__ = "walkers"
    id: Mapped[int] = mapped_column(primary_key=True)


@owned_by("walker_id")
@events(recorded="recorded_at")
@not_personal("id", "recorded_at", because="row id and event time")
class Fix(Base):
    __tablename__ = "fixes"
    id: Mapped[int] = mapped_column(primary_key=True)
    walker_id: Mapped[int] = mapped_column(ForeignKey("walkers.id"))
    recorded_at: Mapped[datetime] = mapped_column(index=True)
    place: Mapped[
        Annotated[GeoPoint | None, Location(purposes={"mobility"}, search=Nearby(9), then=Generalise(Cell(5)))]
    ]


Row = tuple[int, float, float, datetime, str]


def read(path: Path) -> list[Row]:
    """Read the fixes, numbered from 1."""
    with gzip.open(path, "rt", newline="") as lines:
        rows = csv.DictReader(lines)
        return [
            (number, float(row["lat"]), float(row["lng"]), datetime.fromisoformat(row["datetime"]), row["uid"])
            for number, row in enumerate(rows, start=1)
        ]


@contextmanager
def timed(job: str, count: int) -> Iterator[None]:
    """Print how many rows a second a job did."""
    started = time.perf_counter()
    yield
    spent = time.perf_counter() - started
    print(f"{job:<34} {count:>9,} rows {spent:>8.2f} s {count / spent:>12,.0f} rows/s")


def load(privacy: Privacy, engine: Engine, rows: list[Row]) -> None:
    """Store all fixes, sealed for their walkers."""
    walkers = {uid: number for number, uid in enumerate(sorted({row[4] for row in rows}), start=1)}
    with privacy.purpose("mobility"), engine.begin() as connection:
        connection.execute(insert(Walker), [{"id": number} for number in walkers.values()])
        for start in range(0, len(rows), BATCH):
            connection.execute(
                insert(Fix),
                [
                    {"id": number, "place": GeoPoint(lat, lon), "recorded_at": at, "walker_id": walkers[uid]}
                    for number, lat, lon, at, uid in rows[start : start + BATCH]
                ],
            )


def load_plain(engine: Engine, rows: list[Row]) -> None:
    """The baseline: the same rows into a table of plain coordinates."""
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS plain_fixes"))
        connection.execute(
            text(
                "CREATE TABLE plain_fixes (id INTEGER PRIMARY KEY, lat FLOAT, lon FLOAT, at TIMESTAMP, uid VARCHAR(8))"
            )
        )
        statement = text("INSERT INTO plain_fixes VALUES (:id, :lat, :lon, :at, :uid)")
        for start in range(0, len(rows), BATCH):
            chunk: list[dict[str, Any]] = [
                {"id": number, "lat": lat, "lon": lon, "at": at.isoformat(), "uid": uid}
                for number, lat, lon, at, uid in rows[start : start + BATCH]
            ]
            if engine.dialect.name == "postgresql":
                chunk = [row | {"at": datetime.fromisoformat(row["at"])} for row in chunk]
            connection.execute(statement, chunk)
        connection.execute(text("DROP TABLE plain_fixes"))


def search(privacy: Privacy, engine: Engine) -> set[int]:
    """Find the fixes around the centre through the sealed index."""
    with privacy.purpose("mobility"), Session(engine) as session:
        return set(nearby(session, select(Fix.id), Fix.place, CENTRE, metres=METRES))


def main(path: Path, url: str | None) -> None:
    """Run the three jobs and print their figures."""
    rows = read(path)
    days = sorted(row[3] for row in rows)
    median_day = days[len(days) // 2].replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=UTC)
    now = [days[0].replace(tzinfo=UTC)]
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(url or f"sqlite:///{folder}/fixes.sqlite")
        policy = Path(folder) / "mobility.yaml"
        policy.write_text(POLICY)
        privacy = Privacy(policy, Base, FileKeyring.create(Path(folder) / "keys.json"), clock=lambda: now[0])
        privacy.protect(engine)
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        print(f"{engine.dialect.name}: {len(rows):,} fixes of {len({row[4] for row in rows})} people")
        with timed("load, plain table (baseline)", len(rows)):
            load_plain(engine, rows)
        with timed("load, every point sealed", len(rows)):
            load(privacy, engine, rows)
        with timed("search, brute force over the file", len(rows)):
            expected = {row[0] for row in rows if metres_between(CENTRE, GeoPoint(row[1], row[2])) <= METRES}
        with timed("search, sealed index", len(rows)):
            found = search(privacy, engine)
        print(f"within {METRES:.0f} m: {len(found):,} fixes; equal to brute force: {found == expected}")
        now[0] = median_day + timedelta(days=1)
        plan = privacy.plan(engine)
        with timed("purge to a coarse cell", plan.due):
            run = privacy.purge(engine, plan, batch=BATCH)
        with engine.connect() as connection:
            cells = connection.execute(select(func.count(func.distinct(Fix.__table__.c.place_residue)))).scalar_one()
        print(f"purged {run.done:,} of {plan.due:,} due, overdue {run.overdue}, {cells} coarse cells; run ok: {run.ok}")
        engine.dispose()
    if found != expected or not run.ok:
        raise SystemExit("the search or the purge is wrong")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else None)
