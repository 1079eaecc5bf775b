"""A purge executes exactly its plan, in batches that commit with their evidence, and survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from privkit import FileKeyring, GeoPoint, retention
from privkit.errors import InvalidValue, KeyringError, PlanError
from privkit.retention import Plan, Run
from privkit.sqlalchemy import holds, ledger
from tests.databases import raw_rows
from tests.sqlalchemy.rides import SIGN_UP, START, UNTIL, Clock, Rider, RideService, Trip, ride_service, rider

ROOT = Path(__file__).resolve().parents[2]
STATE = """
    SELECT id, length(email), name, name_residue, email_ix IS NULL, length(born), length(home),
           home_ix IS NULL, closed_at IS NULL
    FROM riders ORDER BY id
"""


def seed(service: RideService, count: int) -> None:
    """Store riders of whom a half closed their account at different times, each with two trips, most of them ended."""
    with service.privacy.purpose(*SIGN_UP), service.engine.begin() as connection:
        riders = [
            {
                "id": number,
                "email": f"rider{number}@rides.example",
                "name": f"Rider {number}",
                "born": datetime(1990, 1, 1).date(),
                "home": GeoPoint(51 + number / 10_000, 0.1),
                "country": "GB",
                "closed_at": datetime(2025, 12, 30) - timedelta(days=number * 7 % 900) if number % 2 else None,
            }
            for number in range(1, count + 1)
        ]
        connection.execute(insert(Rider), riders)
        trips = [
            {
                "rider_id": number % count + 1,
                "start": GeoPoint(52, number / 10_000),
                "ended_at": datetime(2025, 12, 30) if number % 3 else None,
            }
            for number in range(count * 2)
        ]
        connection.execute(insert(Trip), trips)


def plan_of(service: RideService, at: datetime | None = None) -> Plan:
    with service.engine.connect() as connection:
        return retention.make(service.guard, connection, at)


def purge(service: RideService, plan: Plan | None = None, **how: int) -> Run:
    plan = plan or plan_of(service)
    return retention.purge(service.guard, service.engine, plan, yes_this_many=plan.due, **how)


def state(url: str) -> list[tuple[object, ...]]:
    """What the run decides about each row, without the bytes that differ from one sealing to the next."""
    riders = raw_rows(url, STATE)
    return [*riders, *raw_rows(url, "SELECT rider_id, count(*) FROM trips GROUP BY rider_id ORDER BY rider_id")]


def counted(service: RideService) -> Counter[str]:
    """The outcomes in the ledger, summed over its batches, after the chain was verified."""
    found: Counter[str] = Counter()
    with service.engine.connect() as connection:
        ledger.verify(connection, service.guard)
        for entry in ledger.entries(connection, service.guard):
            if entry.kind == "batch":
                body = json.loads(entry.body)
                found[f"{body['table']}.{body['field']}"] += body["count"]
    return found


def test_a_run_does_what_the_plan_says_and_nothing_is_overdue(service: RideService) -> None:
    seed(service, 60)
    plan = plan_of(service)
    run = purge(service, plan, batch=7)
    assert [(step.name, step.due) for step in plan.steps] == [
        (outcome.step.name, outcome.done) for outcome in run.outcomes
    ]
    assert run.ok
    assert run.overdue == 0
    assert plan_of(service).due == 0


def test_each_outcome_stands_in_the_ledger_once(service: RideService) -> None:
    seed(service, 40)
    plan = plan_of(service)
    purge(service, plan, batch=7)
    assert counted(service) == {f"{step.table}.{step.field}": step.due for step in plan.steps if step.due}


def test_a_second_run_of_the_same_plan_changes_nothing(service: RideService, database_url: str) -> None:
    seed(service, 40)
    plan = plan_of(service)
    purge(service, plan)
    before = state(database_url)
    again = purge(service, plan)
    assert again.done == 0
    assert again.ok
    assert state(database_url) == before


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_without_a_row_is_refused(service: RideService, batch: int) -> None:
    with pytest.raises(InvalidValue, match="at least one row"):
        purge(service, plan_of(service), batch=batch)


def test_what_falls_due_after_the_plan_is_left_for_the_next_one(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=datetime(2025, 12, 31, 18)))
    plan = plan_of(service)
    assert plan.due == 0
    service.clock.now = START + timedelta(days=1)
    assert purge(service, plan).done == 0
    assert plan_of(service).due == 1  # the birth date, a day after the account was closed


def test_the_residue_is_the_same_for_equal_names_and_stays_when_the_run_is_repeated(
    service: RideService, database_url: str
) -> None:
    closed = datetime(2025, 1, 1)
    service.sign_up(rider(1, name="Ada", closed_at=closed), rider(2, name=" ada ", closed_at=closed))
    purge(service)
    first = raw_rows(database_url, "SELECT name, name_residue FROM riders ORDER BY id")
    purge(service)
    assert raw_rows(database_url, "SELECT name, name_residue FROM riders ORDER BY id") == first
    assert first[0] == first[1]
    assert first[0][0] == first[0][1] != "Ada"


def test_a_field_past_its_last_purpose_is_unreadable_before_the_purge_reaches_it(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=datetime(2025, 1, 1)))
    with service.privacy.purpose("account"), Session(service.engine) as session:
        assert session.scalars(select(Rider.name)).all() == [None]
        assert session.scalars(select(Rider.id).where(Rider.name == "Rider 1")).all() == []
        unlike = [
            session.scalars(select(Rider.id).where(~(Rider.name == name))).all() for name in ("Rider 1", "Nobody")
        ]
        assert unlike[0] == unlike[1]  # a negation tells nothing of the value either


def test_a_deleted_data_subject_s_key_is_a_tombstone(service: RideService, database_url: str) -> None:
    service.sign_up(rider(1, closed_at=datetime(2020, 1, 1)))
    purge(service)
    assert raw_rows(database_url, "SELECT count(*) FROM riders") == [(1,)]
    assert raw_rows(database_url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NOT NULL") == [(1,)]


def test_b01_the_same_rows_are_due_in_every_process_time_zone(tmp_path: Path, sqlite_url: str) -> None:
    service = ride_service(sqlite_url, tmp_path, Clock(datetime(2026, 1, 31, 12, tzinfo=UTC)))
    for number, hours in enumerate((-1, 0, 1), start=1):
        service.sign_up(rider(number, name=f"N{number}", closed_at=datetime(2026, 1, 1, 12) + timedelta(hours=hours)))
    expected = next(step.due for step in plan_of(service).steps if step.field == "name")
    assert expected == 2  # the one at the cut-off has expired, the one an hour later has not
    script = (
        "import sys; from pathlib import Path; from datetime import datetime, UTC;"
        "from tests.sqlalchemy.rides import *; from privkit import retention;"
        "s = ride_service(sys.argv[1], Path(sys.argv[2]), Clock(datetime(2026, 1, 31, 12, tzinfo=UTC)));"
        "c = s.engine.connect();"
        "print([x.due for x in retention.make(s.guard, c).steps if x.field == 'name'][0])"
    )
    for zone in ("America/Los_Angeles", "Asia/Tokyo"):
        command = [sys.executable, "-c", script, sqlite_url, str(tmp_path)]
        seen = subprocess.run(command, env=_environment(TZ=zone), cwd=ROOT, capture_output=True, text=True, check=True)
        assert int(seen.stdout) == expected, zone


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_b02_the_database_session_s_time_zone_changes_nothing(pg_url: str, tmp_path: Path, zone: str) -> None:
    service = ride_service(pg_url, tmp_path, Clock(datetime(2026, 1, 31, 12, tzinfo=UTC)))
    for number, hours in enumerate((-1, 0, 1), start=1):
        service.sign_up(rider(number, closed_at=datetime(2026, 1, 1, 12) + timedelta(hours=hours)))
    with service.engine.connect() as connection:
        connection.execute(text(f"SET TimeZone = '{zone}'"))
        plan = retention.make(service.guard, connection)
    assert [step.due for step in plan.steps if step.field == "name"] == [2]
    service.engine.dispose()


def test_b02_an_aware_event_time_of_another_zone_is_stored_as_utc(service: RideService, database_url: str) -> None:
    tokyo = datetime.fromisoformat("2026-01-01T21:00:00+09:00")
    service.sign_up(rider(1, closed_at=tokyo))
    (stored,) = raw_rows(database_url, "SELECT CAST(closed_at AS VARCHAR) FROM riders")
    assert stored[0].startswith("2026-01-01 12:00:00")


def test_a_held_subject_survives_the_run_and_is_due_again_once_released(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=datetime(2020, 1, 1)), rider(2, closed_at=datetime(2020, 1, 1)))
    with service.engine.begin() as connection:
        (key,) = connection.execute(select(Rider.__table__.c.privkit_key).where(Rider.id == 1)).one()
        hold = holds.place(connection, service.guard, reason="claim 12", by="legal", until=UNTIL, subject=bytes(key))
    before = plan_of(service).due
    run = purge(service)
    assert run.ok
    assert run.done == before
    assert plan_of(service).due == 0
    with service.engine.begin() as connection:
        holds.release(connection, service.guard, hold, by="legal")
    assert plan_of(service).due == before


def test_a_plan_of_another_policy_is_refused_before_anything_is_destroyed(service: RideService) -> None:
    seed(service, 6)
    plan = plan_of(service)
    stale = Plan(plan.as_of, "0" * 64, plan.steps)
    with pytest.raises(PlanError, match="policy has changed"):
        purge(service, stale)
    assert plan_of(service).due == plan.due


def test_a_plan_of_the_future_is_refused(service: RideService) -> None:
    seed(service, 6)
    with pytest.raises(PlanError, match="future"):
        purge(service, plan_of(service, START + timedelta(days=400)))


def test_a_plan_goes_through_its_file_unchanged(service: RideService) -> None:
    seed(service, 6)
    plan = plan_of(service)
    assert Plan.load(plan.json()) == plan
    for damaged in ("", "{}", "[]", '{"privkit_plan": 2}', plan.json().replace("as_of", "as_off")):
        with pytest.raises(PlanError):
            Plan.load(damaged)


def test_e20_without_the_keyring_nothing_is_destroyed(service: RideService, database_url: str, tmp_path: Path) -> None:
    seed(service, 6)
    plan, before = plan_of(service), state(database_url)
    service.guard.keyring = FileKeyring(tmp_path / "gone.json")
    with pytest.raises(KeyringError):
        purge(service, plan)
    assert state(database_url) == before


def test_b20_children_are_deleted_first_and_none_is_orphaned_without_the_pragma(
    sqlite_url: str, tmp_path: Path
) -> None:
    from tests.retention.fleet import fleet

    engine, guard = fleet(sqlite_url, tmp_path)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 0
        plan = retention.make(guard, connection)
    run = retention.purge(guard, engine, plan)
    assert run.ok
    assert raw_rows(sqlite_url, "SELECT count(*) FROM drivers") == [(1,)]
    orphans = "SELECT count(*) FROM badges WHERE driver_id NOT IN (SELECT id FROM drivers)"
    assert raw_rows(sqlite_url, orphans) == [(0,)]
    assert raw_rows(sqlite_url, "SELECT count(*) FROM badges") == [(1,)]
    assert raw_rows(sqlite_url, "SELECT count(*) FROM vehicles WHERE driver_id IS NULL") == [(1,)]
    engine.dispose()


def test_b29_a_run_killed_at_a_hundred_moments_ends_like_an_undisturbed_one(database_url: str, tmp_path: Path) -> None:
    calm, calm_plan = undisturbed(tmp_path, 300)
    service = ride_service(database_url, tmp_path, Clock())
    seed(service, 300)
    service.engine.dispose()
    killed = _worker(database_url, tmp_path, 100).communicate(timeout=120)[0].split()
    assert killed == [str(int(signal.SIGKILL))] * 100
    left = plan_of(service).due
    assert 0 < left < calm_plan.due  # all of them were at work
    assert purge(service, plan_of(service)).done == left
    assert state(database_url) == calm
    assert counted(service) == {f"{step.table}.{step.field}": step.due for step in calm_plan.steps if step.due}
    service.engine.dispose()


def undisturbed(folder: Path, count: int) -> tuple[list[tuple[object, ...]], Plan]:
    """Purge a service of as many riders in a database of its own; return its state afterwards, and the plan."""
    url = f"sqlite:///{folder / 'calm.sqlite'}"
    calm = ride_service(url, folder, Clock())
    seed(calm, count)
    plan = plan_of(calm)
    assert purge(calm, plan).ok
    calm.engine.dispose()
    return state(url), plan


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_runs_at_once_do_each_row_once_and_neither_fails(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("sqlite_url" if database == "sqlite" else "pg_url")
    service = ride_service(url, tmp_path, Clock())
    seed(service, 300)
    plan = plan_of(service)
    service.engine.dispose()
    workers = [_worker(url, tmp_path) for _ in range(2)]
    ends = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert ends == [["ready", "done"], ["ready", "done"]]
    assert counted(service) == {f"{step.table}.{step.field}": step.due for step in plan.steps if step.due}
    service.engine.dispose()


def _worker(url: str, folder: Path, kills: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.retention.worker", url, str(folder), str(kills)]
    return subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, text=True)


def _environment(**extra: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"} | extra
