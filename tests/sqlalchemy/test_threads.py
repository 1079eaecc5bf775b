"""Six threads write and read the rows of different data subjects through one engine: no value under a wrong key."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import create_engine, insert, select
from sqlalchemy.orm import Session

from privkit import FileKeyring, GeoPoint, Privacy
from tests.databases import raw_rows
from tests.sqlalchemy.rides import POLICY, SIGN_UP, Base, Clock, Rider, RideService

THREADS = 6
BATCH = 500


@pytest.fixture
def busy(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[RideService]:
    """A ride service that six threads may use at once; SQLite lets a writer wait for another."""
    lite = database_url.startswith("sqlite")
    engine = create_engine(database_url, pool_size=THREADS, connect_args={"timeout": 60} if lite else {})
    privacy = Privacy(policy=POLICY, models=Base, keys=FileKeyring.create(tmp_path / "keys.json"), clock=clock)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    if lite:
        raw_rows(database_url, "PRAGMA journal_mode=WAL")
    yield RideService(privacy, engine, clock)
    engine.dispose()


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def email(number: int) -> str:
    return f"rider{number}@rides.example"


def home(number: int) -> GeoPoint:
    return GeoPoint(number / 1000, -number / 1000)


def write(busy: RideService, numbers: range) -> None:
    fixed = {"name": "-", "born": date(1990, 1, 15), "country": "GB"}
    for start in range(numbers.start, numbers.stop, BATCH):
        batch = range(start, min(start + BATCH, numbers.stop))
        rows = [{"id": each, "email": email(each), "home": home(each), **fixed} for each in batch]
        with busy.privacy.purpose(*SIGN_UP), Session(busy.engine) as session:
            session.execute(insert(Rider), rows)
            session.commit()


def read(busy: RideService, numbers: range) -> list[int]:
    """Return the rows that do not read as what was written."""
    query = select(Rider.id, Rider.email, Rider.home).where(Rider.id >= numbers.start, Rider.id < numbers.stop)
    with busy.privacy.purpose("account", "pickup"), Session(busy.engine) as session:
        found = {row.id: (row.email, row.home) for row in session.execute(query)}
    return [each for each in numbers if found.get(each) != (email(each), home(each))]


def under_wrong_keys(busy: RideService) -> int:
    """How many stored envelopes name another key than their row's."""
    rows = raw_rows(
        busy.engine.url.render_as_string(hide_password=False), "SELECT privkit_key, email, home FROM riders"
    )
    return sum(bytes(sealed)[2:18] != bytes(key) for key, *values in rows for sealed in values)


def all_at_once(busy: RideService, each: int) -> tuple[list[int], int]:
    """Every thread writes its rows, then reads its own and the next thread's while others still write."""
    barrier = Barrier(THREADS)
    spans = [range(thread * each, (thread + 1) * each) for thread in range(THREADS)]

    def work(thread: int) -> list[int]:
        barrier.wait()
        write(busy, spans[thread])
        wrong = read(busy, spans[thread])
        barrier.wait()
        return wrong + read(busy, spans[(thread + 1) % THREADS]) + read(busy, spans[thread])

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = [number for found in pool.map(work, range(THREADS)) for number in found]
    return wrong, under_wrong_keys(busy)


def test_six_threads_with_6000_rows_each_read_what_they_wrote_and_nothing_is_under_a_wrong_key(
    busy: RideService,
) -> None:
    assert ([], 0) == all_at_once(busy, 6000)


@pytest.mark.usefixtures("often")
def test_threads_that_take_turns_all_the_time_read_what_they_wrote_too(busy: RideService) -> None:
    assert ([], 0) == all_at_once(busy, 500)
