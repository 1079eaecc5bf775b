"""A run can be left alone: it keeps to its limits, says which one ended it, and the next run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from privkit import Privacy, retention
from privkit.clock import system_clock
from privkit.errors import ClockError, InvalidValue, PlanError
from privkit.retention import Limits, Run
from privkit.retention.limits import Watch, replay_lag
from privkit.retention.retry import Retry
from tests.databases import raw_rows
from tests.retention.test_run import plan_of, seed
from tests.sqlalchemy.rides import POLICY, Base, Clock, RideService, ride_service

QUICK = Retry(sleep=lambda seconds: None)


@pytest.fixture
def due(service: RideService) -> RideService:
    seed(service, 12)
    return service


def run(service: RideService, limits: Limits, **how: Any) -> Run:
    return retention.purge(service.guard, service.engine, plan_of(service), limits=limits, retry=QUICK, **how)


def last_line(service: RideService) -> dict[str, Any]:
    query = "SELECT body FROM privkit_ledger WHERE kind = 'run_ended' ORDER BY seq DESC"
    found: dict[str, Any] = json.loads(raw_rows(str(service.engine.url), query)[0][0])
    return found


def test_a_run_without_time_does_nothing_and_says_so(due: RideService) -> None:
    before = plan_of(due).due
    ended = run(due, Limits(max_seconds=0))
    assert (ended.done, ended.overdue, ended.stopped) == (0, before, "max_seconds")
    assert not ended.ok
    assert [outcome.error for outcome in ended.outcomes if outcome.error] == []
    assert last_line(due)["stopped"] == "max_seconds"


def test_a_sentinel_that_appears_ends_the_run_after_the_batch_in_hand(due: RideService, tmp_path: Path) -> None:
    sentinel, planned = tmp_path / "stop", plan_of(due).due
    ended = run(due, Limits(sentinel=sentinel), batch=2, progress=lambda step, rows: sentinel.touch())
    assert (ended.done, ended.stopped) == (2, "sentinel")
    assert ended.overdue == planned - 2
    assert run(due, Limits(sentinel=sentinel)).done == 0
    sentinel.unlink()
    rest = run(due, Limits(sentinel=sentinel))
    assert rest.ok
    assert (rest.done, rest.stopped) == (planned - 2, None)


def test_a_run_that_is_asked_to_end_does_so_after_the_batch_in_hand(due: RideService) -> None:
    heard: list[int] = []
    ended = run(due, Limits(stop=lambda: len(heard) == 2), batch=2, progress=lambda step, rows: heard.append(rows))
    assert (ended.done, ended.stopped) == (sum(heard), "stop")
    assert len(heard) == 2


def test_a_run_pauses_while_replicas_are_behind(due: RideService) -> None:
    lags, pauses = [0.0, 30.0, 20.0, 5.0], list[float]()
    limits = Limits(max_lag=10, lag=lambda connection: lags.pop(0) if len(lags) > 1 else lags[0])
    plan = plan_of(due)
    ended = retention.purge(due.guard, due.engine, plan, limits=limits, retry=Retry(sleep=pauses.append))
    assert ended.ok
    assert len(pauses) == 2


def test_a_run_gives_up_when_replicas_stay_behind_until_its_time_is_over(due: RideService) -> None:
    ended = run(due, Limits(max_seconds=2, max_lag=10, lag=lambda connection: 99))
    assert (ended.done, ended.stopped) == (0, "max_lag")


def test_the_lag_of_postgresql_is_that_of_its_slowest_replica(pg_url: str) -> None:
    raw_rows(pg_url, "CREATE SCHEMA fake")
    view = "CREATE VIEW fake.pg_stat_replication AS SELECT * FROM (VALUES {}) AS v (state, replay_lag)"
    raw_rows(pg_url, view.format("('streaming', interval '2 s'), ('streaming', interval '90 s'), ('catchup', NULL)"))
    plain = create_engine(pg_url)
    shown = create_engine(pg_url, connect_args={"options": "-c search_path=fake,pg_catalog"})
    with plain.connect() as here, shown.connect() as there:
        assert replay_lag(here) == 0  # there is no replica
        assert replay_lag(there) == 90
    raw_rows(pg_url, "DROP VIEW fake.pg_stat_replication")
    raw_rows(pg_url, view.format("(NULL, NULL::interval)"))  # as an account sees it that has no right to
    with shown.connect() as there, pytest.raises(PlanError, match="may not see"):
        replay_lag(there)
    plain.dispose()
    shown.dispose()


def test_a_lag_that_cannot_be_told_is_refused_before_anything_is_destroyed(sqlite_url: str, tmp_path: Path) -> None:
    service = ride_service(sqlite_url, tmp_path, Clock())
    seed(service, 6)
    before = plan_of(service).due
    with pytest.raises(PlanError, match="cannot be told on sqlite"):
        run(service, Limits(max_lag=10))
    assert plan_of(service).due == before
    service.engine.dispose()


def test_a_time_budget_is_over_when_its_seconds_have_passed(sqlite_url: str) -> None:
    seconds = [0.0]
    engine = create_engine(sqlite_url)
    watch = Watch(Limits(max_seconds=60), engine, monotonic=lambda: seconds[0])
    assert not watch.halted()
    seconds[0] = 59.9
    assert not watch.halted()
    seconds[0] = 60.0
    assert watch.halted()
    assert watch.stopped == "max_seconds"


@pytest.mark.parametrize(
    "wrong", [{"max_seconds": -1}, {"max_lag": float("nan")}, {"max_refused": -1}, {"lock_timeout": 0}]
)
def test_a_limit_that_limits_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        Limits(**wrong)


@pytest.fixture
def real_time(pg_url: str, tmp_path: Path) -> Iterator[RideService]:
    """The ride service under this machine's clock."""
    service = ride_service(pg_url, tmp_path, system_clock)
    seed(service, 6)
    yield service
    service.engine.dispose()


def server_clock(url: str, offset: str) -> dict[str, Any]:
    """How to connect to a server whose clock is off."""
    raw_rows(url, "CREATE SCHEMA off")
    now = f"SELECT pg_catalog.clock_timestamp() {offset}"
    raw_rows(url, f"CREATE FUNCTION off.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS '{now}'")
    return {"options": "-c search_path=public,off,pg_catalog"}


@pytest.mark.parametrize("offset", ["- interval ''5 years''", "+ interval ''6 minutes''"])
def test_b28_a_clock_far_from_the_server_s_destroys_nothing(real_time: RideService, pg_url: str, offset: str) -> None:
    engine = create_engine(pg_url, connect_args=server_clock(pg_url, offset))
    real_time.privacy.protect(engine)
    plan = real_time.privacy.plan(engine)
    with pytest.raises(ClockError, match="seconds away from the database server's"):
        retention.purge(real_time.guard, engine, plan, yes_this_many=plan.due)
    assert plan_of(real_time).due >= plan.due > 0
    assert raw_rows(pg_url, "SELECT seq FROM privkit_ledger WHERE kind = 'run_started'") == []
    ended = retention.purge(
        real_time.guard, engine, plan, limits=Limits(clock_difference=float("inf")), yes_this_many=plan.due
    )
    assert ended.done == plan.due
    engine.dispose()


def test_b28_clocks_that_agree_let_the_run_through(real_time: RideService) -> None:
    assert run(real_time, Limits()).ok


def test_b28_a_privacy_with_a_clock_of_its_own_is_believed(real_time: RideService, pg_url: str, tmp_path: Path) -> None:
    engine = create_engine(pg_url, connect_args=server_clock(pg_url, "- interval ''5 years''"))
    own = Privacy(policy=POLICY, models=Base, keys=real_time.guard.keyring, clock=Clock())
    own.protect(engine)
    assert own.purge(engine, own.plan(engine)).ok
    engine.dispose()
