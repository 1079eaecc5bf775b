"""A purge of half of a table against one DELETE of the same rows, and against loading them and deleting each.

What is timed is the whole run: what is due is counted, destroyed in batches that each commit with their ledger line,
and counted again. It is also shown without the time that counting rows takes. The tables are filled by the database
and vacuumed; the jobs run interleaved, and the best round of each counts. Rows are due in the order in which they lie
(clustered), or here and there (scattered). Also shown: how much more memory the process took, and the longest
transaction, of those that only read too. The same with a receipt for each row (``runs.receipts``), one worker.

    make bench
    PRIVKIT_BENCH_ROWS=2000000 .venv/bin/python -m pytest benchmarks/test_purge.py --benchmark-enable
"""

import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, delete, event, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import Delete, FileKeyring, Personal, Privacy, data_subject, events, expire_row, not_personal, owned_by
from tests.databases import running_server

ROWS = int(os.environ.get("PRIVKIT_BENCH_ROWS", "100000"))
ROUNDS = 3
LOADED = 10_000
"""Of how many rows loading and deleting each is timed, to reckon with; more takes minutes. The best round counts."""

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = """
privkit: 1
naive_datetimes: UTC
controller: {name: Benchmark, contact: privacy@bench.example}
runs: {largest_share: 100, receipts: RECEIPTS}
purposes:
  guests: {description: Know who was here, legal_basis: contract, keep: {for: P30D, after: ended}}
  always: {description: Know a guest, legal_basis: contract, keep: {forever: true, because: a benchmark}}
"""


class Base(DeclarativeBase):
    pass


class Plain(DeclarativeBase):
    pass


@data_subject
@not_personal("id", because="row id")
class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"always"}, seal=False)]]


Note = Annotated[str | None, Personal("user.content", purposes={"guests"}, seal=False)]


@owned_by("guest_id")
@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "guest_id", "ended_at", because="row ids and event time")
class Visit(Base):
    """Rows that go."""

    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    guest_id: Mapped[int] = mapped_column(ForeignKey("guests.id"))
    ended_at: Mapped[datetime | None]
    note: Mapped[Note]


class PlainGuest(Plain):
    __tablename__ = "plain_guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class PlainVisit(Plain):
    __tablename__ = "plain_visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    guest_id: Mapped[int] = mapped_column(ForeignKey("plain_guests.id"))
    ended_at: Mapped[datetime | None]
    note: Mapped[str | None]


@dataclass
class Hotel:
    """One database with the protected tables and their plain twins."""

    privacy: Privacy
    engine: Engine
    plain: Engine
    longest: float = 0.0
    counting: float = 0.0
    begun: dict[int, float] = field(default_factory=dict)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    def fill(self, name: str, due: str, rows: int = ROWS) -> None:
        """Fill a table with ``rows`` rows, of which ``due`` (SQL over ``i``) tells those that ended long ago."""
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
        query = (
            "SELECT i, 1 + i % 100, "
            f"CASE WHEN {due} THEN '2020-01-01 00:00:00.000000' ELSE '2025-12-31 00:00:00.000000' END, "
            "'came late, left early, and forgot an umbrella' FROM n"
        )
        into = f"INSERT INTO {name} (id, guest_id, ended_at, note)"
        with self.plain.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if self.is_sqlite:
                connection.exec_driver_sql(f"DELETE FROM {name}")
                connection.execute(text(f"{into} {numbers} {query}"))
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                return
            query = query.replace("CASE", "CAST(CASE").replace("END,", "END AS timestamp),")
            connection.exec_driver_sql(f"TRUNCATE {name}")
            connection.execute(text(f"{into} {query.replace('FROM n', f'FROM generate_series(1, {rows}) AS n(i)')}"))
            connection.exec_driver_sql(f"VACUUM (ANALYZE) {name}")
            connection.exec_driver_sql("CHECKPOINT")

    def watch(self) -> None:
        """Take the time of each transaction of the protected engine."""

        @event.listens_for(self.engine, "begin")
        def begin(connection: Any) -> None:
            self.begun[id(connection)] = time.perf_counter()

        def ended(connection: Any) -> None:
            self.longest = max(self.longest, time.perf_counter() - self.begun.pop(id(connection), time.perf_counter()))

        @event.listens_for(self.engine, "before_cursor_execute")
        def before(connection: Any, cursor: Any, statement: str, given: Any, context: Any, many: bool) -> None:
            context.privkit_began = time.perf_counter()

        @event.listens_for(self.engine, "after_cursor_execute")
        def after(connection: Any, cursor: Any, statement: str, given: Any, context: Any, many: bool) -> None:
            if statement.startswith("SELECT count("):
                self.counting += time.perf_counter() - context.privkit_began

        event.listen(self.engine, "commit", ended)
        event.listen(self.engine, "rollback", ended)


@pytest.fixture(params=["sqlite", "postgresql"])
def hotel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hotel]:
    yield from _opened(request.param, tmp_path, receipts=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def with_receipts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hotel]:
    yield from _opened(request.param, tmp_path, receipts=True)


def _opened(kind: str, tmp_path: Path, *, receipts: bool) -> Iterator[Hotel]:
    if kind == "sqlite":
        made = _hotel(f"sqlite:///{tmp_path / 'hotel.sqlite'}", tmp_path, receipts)
        yield made
        return
    with running_server() as server, server.database() as name:
        made = _hotel(server.url(name), tmp_path, receipts)
        yield made
        made.engine.dispose()
        made.plain.dispose()


def _hotel(url: str, folder: Path, receipts: bool = False) -> Hotel:
    policy = folder / "hotel.yaml"
    policy.write_text(POLICY.replace("RECEIPTS", str(receipts).lower()), encoding="utf-8")
    privacy = Privacy(policy, Base, FileKeyring.create(folder / "hotel.json"), clock=lambda: NOW)
    engine, plain = create_engine(url), create_engine(url)
    if engine.dialect.name == "sqlite":
        for each in (engine, plain):
            event.listen(each, "connect", lambda connection, record: connection.execute("PRAGMA journal_mode=WAL"))
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    Plain.metadata.create_all(plain)
    with privacy.purpose("always"), Session(engine) as session:
        session.add_all([Guest(id=number, name="Guest") for number in range(1, 101)])
        session.commit()
    with Session(plain) as session:
        session.add_all([PlainGuest(id=number, name="Guest") for number in range(1, 101)])
        session.commit()
    made = Hotel(privacy, engine, plain)
    made.watch()
    return made


DUE = {"clustered": f"i <= {ROWS // 2}", "scattered": "i % 1009 * 331 % 1009 < 505"}


def timed(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def one_delete(hotel: Hotel) -> float:
    def job() -> None:
        with hotel.plain.begin() as connection:
            connection.execute(delete(PlainVisit).where(PlainVisit.ended_at <= datetime(2025, 12, 2)))

    return timed(job)


def loaded(hotel: Hotel) -> float:
    """Seconds that loading and deleting each of so many rows takes, by a few."""

    def job() -> None:
        with Session(hotel.plain) as session:
            for row in session.scalars(select(PlainVisit).where(PlainVisit.ended_at <= datetime(2025, 12, 2))):
                session.delete(row)
            session.commit()

    rounds = []
    for _ in range(ROUNDS):
        hotel.fill("plain_visits", "true", LOADED)
        rounds.append(timed(job))
    return min(rounds) / LOADED * (ROWS // 2)


def purge(hotel: Hotel, **how: Any) -> float:
    plan = hotel.privacy.plan(hotel.engine)
    assert plan.due
    hotel.longest = hotel.counting = 0.0

    def job() -> None:
        run = hotel.privacy.purge(hotel.engine, plan, yes_this_many=plan.due, **how)
        assert run.ok
        assert run.done == plan.due

    return timed(job)


def most_memory() -> int:
    """In KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("lie", sorted(DUE))
@pytest.mark.parametrize("workers", [1, 2])
def test_rows(hotel: Hotel, lie: str, workers: int, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    compare(hotel, lie, workers, benchmark, capsys)


@pytest.mark.parametrize("lie", sorted(DUE))
def test_rows_with_receipts(with_receipts: Hotel, lie: str, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    compare(with_receipts, lie, 1, benchmark, capsys)


def compare(hotel: Hotel, lie: str, workers: int, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    deleted, purged, counted, longest = [], [], [], 0.0
    each = loaded(hotel)
    for _ in range(ROUNDS):
        hotel.fill("plain_visits", DUE[lie])
        deleted.append(one_delete(hotel))
        hotel.fill("visits", DUE[lie])
        purged.append(purge(hotel, workers=workers))
        counted.append(hotel.counting)
        longest = max(longest, hotel.longest)
    hotel.fill("visits", DUE[lie])
    before = most_memory()
    benchmark.pedantic(purge, (hotel,), {"workers": workers}, rounds=1)
    best, plain = min(purged), min(deleted)
    with capsys.disabled():
        print(
            f"\n{hotel.engine.dialect.name:10} {lie:9} {workers} workers  DELETE {plain:7.3f} s   purge {best:7.3f} s"
            f"   ratio {best / plain:5.2f}, without counting {(best - counted[purged.index(best)]) / plain:5.2f}"
            f"   load and delete {each / best:6.1f} x"
            f"   longest transaction {longest:6.3f} s   memory +{(most_memory() - before) / 1024:.1f} MiB"
        )


def test_a_row_is_read_with_its_expiry_filter(hotel: Hotel, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One row by its key, 200 times: through privkit, which adds the filter, and plain, without one."""
    hotel.fill("visits", "false", 1000)
    hotel.fill("plain_visits", "false", 1000)

    def guarded() -> None:
        with hotel.privacy.purpose("guests"), Session(hotel.engine) as session:
            for number in range(1, 201):
                assert session.scalars(select(Visit).where(Visit.id == number)).one().note

    def plain() -> None:
        with Session(hotel.plain) as session:
            for number in range(1, 201):
                assert session.scalars(select(PlainVisit).where(PlainVisit.id == number)).one().note

    pairs = [(timed(guarded), timed(plain)) for _ in range(10)]
    benchmark.pedantic(guarded, rounds=1)
    with capsys.disabled():
        ours, theirs = (min(each) for each in zip(*pairs, strict=True))
        print(
            f"\n{hotel.engine.dialect.name:10} one-row read  {ours * 5:.3f} ms, plain {theirs * 5:.3f} ms"
            f"   ratio {ours / theirs:.2f}"
        )
