"""What passes is tried again; what does not is left, told by its kind, and stops nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from privkit import retention
from privkit.errors import ConcurrentWrite
from privkit.purposes import internally
from privkit.retention import Limits, Run
from privkit.retention.job import Size
from privkit.retention.retry import Retry, passes
from privkit.sqlalchemy import Guard, ledger
from tests.databases import raw_rows
from tests.retention.fleet import fleet
from tests.retention.test_run import counted, plan_of, purge, seed, state, undisturbed
from tests.sqlalchemy.rides import Clock, RideService, ride_service, rider

LONG_AGO = datetime(2020, 1, 1)
QUICK = Retry(sleep=lambda seconds: None)


def purge_fleet(engine: Engine, guard: Guard, before: Callable[[], object] = lambda: None, **how: Any) -> Run:
    """Plan, do something, and run the plan."""
    with engine.connect() as connection:
        plan = retention.make(guard, connection)
    before()
    return retention.purge(guard, engine, plan, yes_this_many=plan.due, **how)


def outcome(run: Run, name: str) -> retention.Outcome:
    (found,) = [each for each in run.outcomes if each.step.name == name]
    return found


@pytest.fixture
def drivers(database_url: str, tmp_path: Path) -> Iterator[tuple[Engine, Guard]]:
    """A hundred drivers who left long ago, in a database that checks foreign keys, and one who did not."""
    engine, guard = fleet(database_url, tmp_path, leavers=99)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda driver, record: driver.execute("PRAGMA foreign_keys = ON"))
        engine.dispose()
    raw_rows(database_url, "CREATE TABLE parking (driver_id INTEGER CONSTRAINT parked REFERENCES drivers (id))")
    yield engine, guard
    engine.dispose()


def test_b10_e24_one_row_with_an_unexpected_dependant_stays_and_all_others_go(
    drivers: tuple[Engine, Guard], database_url: str
) -> None:
    engine, guard = drivers
    run = purge_fleet(engine, guard, lambda: raw_rows(database_url, "INSERT INTO parking VALUES (50)"), batch=40)
    found = outcome(run, "drivers")
    why = "parked" if engine.dialect.name == "postgresql" else "SQLITE_CONSTRAINT_FOREIGNKEY"
    assert (found.done, found.failed, found.error) == (99, 1, None)
    assert found.blockers == {why: 1}
    assert not run.ok
    assert raw_rows(database_url, "SELECT id FROM drivers ORDER BY id") == [(2,), (50,)]
    assert raw_rows(database_url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NOT NULL") == [(2,)]
    with engine.connect() as connection:
        assert ledger.verify(connection, guard)


def test_b10_a_later_run_ends_and_goes_on_once_the_dependant_is_gone(
    drivers: tuple[Engine, Guard], database_url: str
) -> None:
    engine, guard = drivers
    purge_fleet(engine, guard, lambda: raw_rows(database_url, "INSERT INTO parking VALUES (50)"))
    with engine.connect() as connection:
        plan = retention.make(guard, connection)
    again = retention.purge(guard, engine, plan)
    assert not again.ok
    assert again.overdue == 1
    raw_rows(database_url, "DELETE FROM parking")
    assert purge_fleet(engine, guard).ok
    assert raw_rows(database_url, "SELECT id FROM drivers") == [(2,)]


def test_a_step_whose_every_row_is_refused_ends_after_some(drivers: tuple[Engine, Guard], database_url: str) -> None:
    engine, guard = drivers
    parked = "INSERT INTO parking SELECT id FROM drivers WHERE left_at IS NOT NULL"
    run = purge_fleet(engine, guard, lambda: raw_rows(database_url, parked), batch=20, limits=Limits(max_refused=3))
    assert outcome(run, "drivers").error == "IntegrityError"
    assert run.overdue == 100
    assert raw_rows(database_url, "SELECT count(*) FROM drivers") == [(101,)]


def test_a_deferred_constraint_keeps_its_row_too(pg_url: str, tmp_path: Path) -> None:
    engine, guard = fleet(pg_url, tmp_path, leavers=5)
    deferred = "REFERENCES drivers (id) DEFERRABLE INITIALLY DEFERRED"
    raw_rows(pg_url, f"CREATE TABLE parking (driver_id INTEGER CONSTRAINT parked {deferred})")
    run = purge_fleet(engine, guard, lambda: raw_rows(pg_url, "INSERT INTO parking VALUES (12)"))
    assert outcome(run, "drivers").blockers == {"parked": 1}
    assert raw_rows(pg_url, "SELECT id FROM drivers ORDER BY id") == [(2,), (12,)]
    engine.dispose()


def test_what_a_trigger_says_of_a_row_is_not_repeated(drivers: tuple[Engine, Guard], database_url: str) -> None:
    engine, guard = drivers
    if engine.dialect.name == "sqlite":
        trigger = (
            "CREATE TRIGGER keep BEFORE DELETE ON drivers WHEN OLD.id = 60 BEGIN SELECT RAISE(ABORT, 'planted'); END"
        )
    else:
        raw_rows(
            database_url,
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF OLD.id = 60 THEN RAISE EXCEPTION 'planted %', OLD.id; END IF; RETURN OLD; END $$",
        )
        trigger = "CREATE TRIGGER keep BEFORE DELETE ON drivers FOR EACH ROW EXECUTE FUNCTION keep()"
    raw_rows(database_url, trigger)
    run = purge_fleet(engine, guard)
    assert outcome(run, "drivers").done == 99
    assert sum(outcome(run, "drivers").blockers.values()) == 1
    assert "planted" not in repr(run)
    assert [] == raw_rows(database_url, "SELECT seq FROM privkit_ledger WHERE body LIKE '%planted%'")


def test_a_lock_time_out_on_a_dependant_is_waited_out(pg_url: str, tmp_path: Path) -> None:
    engine, guard = fleet(pg_url, tmp_path)
    with engine.connect() as other, internally():
        other.execute(text("SELECT id FROM badges WHERE driver_id = 1 FOR UPDATE"))
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                other.rollback()

        run = purge_fleet(engine, guard, limits=Limits(lock_timeout=0.05), retry=Retry(sleep=pause))
    assert run.ok
    assert len(pauses) == 2
    engine.dispose()


def test_after_the_last_attempt_the_step_has_failed_and_the_others_go_on(pg_url: str, tmp_path: Path) -> None:
    service = ride_service(pg_url, tmp_path, Clock())
    service.sign_up(rider(1, closed_at=LONG_AGO), rider(2, closed_at=LONG_AGO))
    raw_rows(pg_url, "UPDATE trips SET ended_at = '2020-01-01'")
    plan = plan_of(service)
    with service.engine.connect() as other, internally():
        other.execute(text("LOCK TABLE trips IN SHARE MODE"))
        retry = Retry(attempts=3, sleep=lambda seconds: None)
        run = retention.purge(service.guard, service.engine, plan, limits=Limits(lock_timeout=0.05), retry=retry)
    assert outcome(run, "trips").error == "OperationalError"
    assert outcome(run, "riders.home").done == 2
    assert not run.ok
    assert purge(service).ok
    service.engine.dispose()


@contextmanager
def failing(engine: Engine, moments: Callable[[int], bool], fail: Callable[[], object]) -> Iterator[None]:
    """Do something before each statement of a run's work for whose number ``moments`` is true."""
    count = 0

    def listen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        nonlocal count
        if count or statement.startswith("INSERT INTO privkit_ledger"):
            count += 1
            if moments(count):
                fail()

    event.listen(engine, "before_cursor_execute", listen)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", listen)


def test_a_server_that_ends_its_connections_again_and_again_stops_nothing(pg_url: str, tmp_path: Path) -> None:
    service = ride_service(pg_url, tmp_path, Clock())
    seed(service, 30)
    plan = plan_of(service)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
    chance, ended = random.Random(5), list[object]()
    with failing(
        service.engine,
        lambda number: chance.random() < 0.03,
        lambda: ended.append(raw_rows(pg_url, end + "pg_backend_pid()")),
    ):
        run = retention.purge(service.guard, service.engine, plan, batch=3, retry=QUICK)
    assert run.ok
    assert len(ended) > 5
    assert run.done == plan.due
    assert counted(service) == {f"{step.table}.{step.field}": step.due for step in plan.steps if step.due}
    service.engine.dispose()


class Killed(BaseException):
    """The end of a process, as far as its transaction is concerned."""


def kill() -> None:
    raise Killed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # who is killed closes no connection
def test_a_run_killed_before_any_statement_ends_like_an_undisturbed_one(service: RideService, tmp_path: Path) -> None:
    engine, (calm, _) = service.engine, undisturbed(tmp_path, 24)
    seed(service, 24)
    plan, moments, kills = plan_of(service), random.Random(11), 0
    while kills < 100:
        at = moments.randint(1, 12 if kills < 60 else 200)
        try:
            with failing(engine, lambda number, at=at: number == at, kill):  # type: ignore[misc]
                purge(service, plan, batch=3)
        except Killed:
            kills += 1
        else:
            break
    assert purge(service, plan, batch=3).ok
    assert kills > 20
    assert counted(service) == {f"{step.table}.{step.field}": step.due for step in plan.steps if step.due}
    assert plan_of(service).due == 0
    assert state(engine.url.render_as_string(hide_password=False)) == calm


def test_sqlite_s_busy_database_is_waited_for(sqlite_url: str, tmp_path: Path) -> None:
    service = ride_service(sqlite_url, tmp_path, Clock())
    service.sign_up(rider(1, closed_at=LONG_AGO))
    plan = plan_of(service)
    impatient = create_engine(sqlite_url, connect_args={"timeout": 0})
    service.privacy.protect(impatient)
    with service.engine.connect() as other, internally():
        ledger.lock(other, service.guard)
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                other.rollback()

        run = retention.purge(service.guard, impatient, plan, retry=Retry(sleep=pause))
    assert run.ok
    assert len(pauses) == 3
    impatient.dispose()
    service.engine.dispose()


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "57014", "57P01", "08006"])
def test_what_passes_is_known_by_its_code(state: str) -> None:
    assert passes(DBAPIError("", None, psycopg.errors.lookup(state)()))


@pytest.mark.parametrize("state", ["23503", "23514", "42501", "42P01", "P0001", "22001", "53100"])
def test_what_does_not_pass_is_not_tried_again(state: str) -> None:
    assert not passes(OperationalError("", None, psycopg.errors.lookup(state)()))


def test_the_pauses_double_up_to_the_longest_and_the_last_error_stands() -> None:
    pauses: list[float] = []
    calm = Retry(attempts=5, first=1, longest=4, sleep=pauses.append, jitter=lambda: 0)

    def work() -> None:
        raise ConcurrentWrite("Overtaken.")

    with pytest.raises(ConcurrentWrite):
        calm.run(work)
    assert pauses == [1, 2, 4, 4]
    pauses.clear()
    with pytest.raises(ConcurrentWrite):
        Retry(attempts=3, first=1, longest=4, sleep=pauses.append, jitter=lambda: 1).run(work)
    assert pauses == [0.5, 1]


def test_a_batch_fits_itself_to_how_long_it_takes() -> None:
    size = Size.of(None)
    size.took(0.1)
    assert size.rows == 2000
    for _ in range(5):
        size.took(0.1)
    assert size.rows == 10_000
    size.took(0.5)
    assert size.rows == 10_000
    for _ in range(9):
        size.took(1.5)
    assert size.rows == 100
    given = Size.of(7)
    given.took(0.1)
    given.took(3)
    assert given.rows == 7
