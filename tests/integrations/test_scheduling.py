"""A purge as a scheduled job: a Python call, a task of a real Celery worker, a job of a real APScheduler."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from celery import Celery
from celery.contrib.testing.worker import start_worker
from sqlalchemy import Engine, create_engine

from privkit import Privacy
from privkit.errors import PlanError, RunError
from privkit.integrations.apscheduler import add_purge
from privkit.integrations.celery import install, purge_task
from privkit.integrations.scheduling import purge_once
from privkit.retention import Limits
from tests.databases import raw_rows
from tests.sqlalchemy.phones import PLANTED, planted

SECONDS = 30
AT_ONCE = Limits(max_seconds=0)
"""No batch begins, so everything is left."""


class Engines:
    """Makes engines for one database and keeps them, to be looked at."""

    def __init__(self, url: str) -> None:
        self.url, self.made = url, list[Engine]()

    def __call__(self) -> Engine:
        self.made.append(create_engine(self.url))
        return self.made[-1]


@dataclass(frozen=True)
class Service:
    privacy: Privacy
    engine: Engine
    engines: Engines


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    """Three contacts, all of whose phone numbers are due; once on SQLite and once on PostgreSQL."""
    with planted(database_url, tmp_path, count=3) as (engine, privacy):
        yield Service(privacy, engine, Engines(database_url))


@pytest.fixture
def lite(sqlite_url: str, tmp_path: Path) -> Iterator[Service]:
    """The same on SQLite alone."""
    with planted(sqlite_url, tmp_path, count=3) as (engine, privacy):
        yield Service(privacy, engine, Engines(sqlite_url))


def due(service: Service) -> int:
    return service.privacy.plan(service.engine).due


def test_a_call_purges_what_is_due_and_returns_counts(service: Service) -> None:
    counts = purge_once(service.privacy, service.engines)
    assert (3, 0, None) == (counts["done"], counts["overdue"], counts["stopped"])
    assert [0] == [engine.pool.checkedout() for engine in service.engines.made]
    assert 0 == purge_once(service.privacy, service.engines)["done"]


def test_a_call_that_leaves_anything_raises_with_the_counts_and_no_value(service: Service) -> None:
    with pytest.raises(RunError) as raised:
        purge_once(service.privacy, service.engines, limits=AT_ONCE)
    assert (0, 3, "max_seconds") == tuple(raised.value.data[key] for key in ("done", "overdue", "stopped"))
    assert "ended early (max_seconds)" in str(raised.value)
    assert PLANTED not in str(raised.value)


def test_two_calls_at_once_destroy_each_thing_once(service: Service) -> None:
    done = list[int]()

    def work() -> None:
        done.append(purge_once(service.privacy, service.engines)["done"])

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert (3, 0) == (sum(done), due(service))


# Celery


def celery_app(lite: Service) -> Celery:
    app = Celery("rides", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        task_default_queue=f"rides-{uuid4()}",
        broker_connection_retry_on_startup=True,
        broker_transport_options={"polling_interval": 0.01},
        worker_hijack_root_logger=False,
    )
    install(app, lite.privacy)
    return app


def run_in_worker(app: Celery, name: str) -> Any:
    """Send the task as beat does, by its name, and return what a worker made of it."""
    with start_worker(app, perform_ping_check=False, shutdown_timeout=SECONDS, pool="solo"):
        return app.send_task(name).get(SECONDS, interval=0.01)


def test_a_task_of_a_worker_purges_and_returns_counts_alone(lite: Service) -> None:
    app = celery_app(lite)
    task = purge_task(app, lite.privacy, lite.engines)
    counts = run_in_worker(app, task.name)
    assert ("privkit.purge", 3, 0) == (task.name, counts["done"], counts["overdue"])
    assert {"run", "done", "overdue", "stopped"} == set(counts)
    ended = raw_rows(lite.engines.url, "SELECT count(*) FROM privkit_ledger WHERE kind = 'run_ended'")
    assert [(1,)] == ended


def test_a_task_whose_run_leaves_anything_has_failed(lite: Service) -> None:
    app = celery_app(lite)
    task = purge_task(app, lite.privacy, lite.engines, name="nightly", limits=AT_ONCE)
    with pytest.raises(RunError, match="ended early"):
        run_in_worker(app, task.name)


# APScheduler


def run_in_scheduler(lite: Service, engines: Engines, **how: Any) -> JobExecutionEvent:
    """Start a scheduler, and return what it says of the job's first run."""
    scheduler, ended, seen = BackgroundScheduler(timezone="UTC"), threading.Event(), list[JobExecutionEvent]()

    def listen(event: JobExecutionEvent) -> None:
        seen.append(event)
        ended.set()

    scheduler.add_listener(listen, EVENT_JOB_ERROR | EVENT_JOB_EXECUTED)
    add_purge(scheduler, lite.privacy, engines, "date", **how)
    scheduler.start()
    try:
        assert ended.wait(SECONDS)
    finally:
        scheduler.shutdown()
    return seen[0]


def test_a_job_of_a_scheduler_purges(lite: Service) -> None:
    event = run_in_scheduler(lite, lite.engines)
    assert ("privkit.purge", None, 3) == (event.job_id, event.exception, event.retval["done"])
    assert 0 == due(lite)


def test_a_job_whose_run_leaves_anything_has_failed(lite: Service) -> None:
    event = run_in_scheduler(lite, lite.engines, limits=AT_ONCE, id="nightly")
    assert ("nightly", RunError) == (event.job_id, type(event.exception))


def test_a_job_runs_once_for_all_that_were_missed_and_never_twice_at_once(lite: Service) -> None:
    scheduler = BackgroundScheduler(timezone="UTC")
    job = add_purge(scheduler, lite.privacy, Engines("sqlite://"), "cron", hour=3)
    scheduler.start(paused=True)
    assert (1, True, None) == (job.max_instances, job.coalesce, job.misfire_grace_time)
    again = add_purge(scheduler, lite.privacy, Engines("sqlite://"), "cron", hour=4)
    assert [again.id] == [each.id for each in scheduler.get_jobs()]
    scheduler.shutdown()


def test_a_store_that_would_write_the_job_to_disk_refuses_it(lite: Service, tmp_path: Path) -> None:
    """A Privacy holds keys, which do not belong into a job store."""
    store = SQLAlchemyJobStore(url=f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    scheduler = BackgroundScheduler(jobstores={"default": store}, timezone="UTC")
    scheduler.start(paused=True)
    with pytest.raises(ValueError, match="cannot be serialized"):
        add_purge(scheduler, lite.privacy, Engines("sqlite://"), "cron", hour=3)
    scheduler.shutdown()


def test_a_plan_that_would_destroy_a_large_share_waits_for_somebody(sqlite_url: str, tmp_path: Path) -> None:
    with planted(sqlite_url, tmp_path, count=101) as (_, privacy):
        with pytest.raises(PlanError, match="more than 20 % of a table"):
            purge_once(privacy, Engines(sqlite_url))
        assert [(101,)] == raw_rows(sqlite_url, "SELECT count(phone) FROM contacts")
