"""Many workers share a run: each row is done once, none waits for another's rows, and a hold placed meanwhile wins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from privkit.errors import InvalidValue
from privkit.purposes import internally
from privkit.retention import Limits, Plan, Run, purge
from privkit.retention.retry import Retry
from privkit.sqlalchemy import holds, ledger
from tests.databases import raw_rows
from tests.retention.test_run import counted, plan_of, seed, state
from tests.sqlalchemy.rides import UNTIL, Clock, RideService, ride_service, rider

LONG_AGO = datetime(2020, 1, 1)


@pytest.fixture
def shared(pg_url: str, tmp_path: Path) -> Iterator[RideService]:
    """The ride service on PostgreSQL, where workers share a table."""
    service = ride_service(pg_url, tmp_path, Clock())
    yield service
    service.engine.dispose()


@contextmanager
def before(service: RideService, beginning: str, do: Callable[[], object]) -> Iterator[list[str]]:
    """Do something once, just before the first statement that begins so. Yields the statements seen."""
    seen: list[str] = []

    def listen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith(beginning):
            seen.append(statement)
            if len(seen) == 1:
                do()

    event.listen(service.engine, "before_cursor_execute", listen)
    try:
        yield seen
    finally:
        event.remove(service.engine, "before_cursor_execute", listen)


def run(service: RideService, plan: Plan | None = None, **how: Any) -> Run:
    return purge(service.guard, service.engine, plan or plan_of(service), **how)


def place_hold(service: RideService, rider_id: int) -> None:
    ((key,),) = raw_rows(str(service.engine.url), f"SELECT privkit_key FROM riders WHERE id = {rider_id}")
    with internally(), service.engine.begin() as connection:
        holds.place(connection, service.guard, reason="claim 12", by="legal", until=UNTIL, subject=bytes(key))


def test_b13_four_workers_do_each_row_once(shared: RideService) -> None:
    seed(shared, 48)
    plan = plan_of(shared)
    heard: list[int] = []
    ended = purge(shared.guard, shared.engine, plan, batch=5, workers=4, progress=lambda step, rows: heard.append(rows))
    due = {f"{step.table}.{step.field}": step.due for step in plan.steps if step.due}
    assert ended.ok
    assert counted(shared) == due
    assert {outcome.step.name: outcome.done for outcome in ended.outcomes if outcome.done} == {
        name.removesuffix(".None"): number for name, number in due.items()
    }
    assert sum(heard) == plan.due


def test_one_worker_finishes_batches_while_another_is_in_the_middle_of_its_own(shared: RideService) -> None:
    seed(shared, 40)
    plan, finished, waited = plan_of(shared), threading.Event(), list[bool]()
    with before(shared, "DELETE FROM trips", lambda: waited.append(finished.wait(20))):
        ended = run(
            shared, plan, batch=5, workers=2, progress=lambda step, rows: step.table == "trips" and finished.set()
        )
    assert waited == [True]
    assert ended.ok


def test_b14_two_runs_that_go_through_the_tables_in_opposite_orders_do_not_deadlock(shared: RideService) -> None:
    seed(shared, 48)
    plan = plan_of(shared)
    backwards = replace(plan, steps=plan.steps[::-1])
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(purge, shared.guard, shared.engine, each, batch=5) for each in (plan, backwards)]
        ended = [each.result() for each in runs]
    assert [outcome.error for each in ended for outcome in each.outcomes if outcome.error] == []
    assert plan_of(shared).due == 0
    assert counted(shared) == {f"{step.table}.{step.field}": step.due for step in plan.steps if step.due}


def test_a_hold_that_is_committed_while_a_batch_is_destroyed_wins(shared: RideService) -> None:
    url = str(shared.engine.url)
    shared.sign_up(*(rider(number, closed_at=LONG_AGO) for number in (1, 2, 3)))
    whole, plan = raw_rows(url, "SELECT * FROM riders WHERE id = 2"), plan_of(shared)
    with before(shared, "UPDATE riders", lambda: place_hold(shared, 2)) as seen:
        ended = run(shared, plan)
    assert len(seen) > 1
    assert ended.ok
    assert raw_rows(url, "SELECT * FROM riders WHERE id = 2") == whole
    assert raw_rows(url, "SELECT count(*) FROM riders WHERE home IS NULL") == [(2,)]


def test_a_hold_wins_on_an_engine_whose_transactions_see_one_snapshot(pg_url: str, tmp_path: Path) -> None:
    service = ride_service(pg_url, tmp_path, Clock())
    service.sign_up(*(rider(number, closed_at=LONG_AGO) for number in (1, 2, 3)))
    strict = create_engine(pg_url, isolation_level="REPEATABLE READ")
    service.privacy.protect(strict)
    whole, plan = raw_rows(pg_url, "SELECT * FROM riders WHERE id = 2"), plan_of(service)
    with before(replace(service, engine=strict), "UPDATE riders", lambda: place_hold(service, 2)):
        ended = purge(service.guard, strict, plan)
    assert ended.ok
    assert raw_rows(pg_url, "SELECT * FROM riders WHERE id = 2") == whole
    strict.dispose()
    service.engine.dispose()


def test_a_batch_gives_way_to_whoever_has_the_ledger_and_wants_its_rows(shared: RideService) -> None:
    shared.sign_up(*(rider(number, closed_at=LONG_AGO) for number in (1, 2)))
    holding, plan = threading.Event(), plan_of(shared)

    def erase_like() -> None:
        with internally(), shared.engine.begin() as connection:
            ledger.lock(connection, shared.guard)
            holding.set()
            connection.execute(text("UPDATE riders SET country = 'FR'"))

    with ThreadPoolExecutor(1) as pool:
        other: list[Any] = []

        def start() -> None:
            other.append(pool.submit(erase_like))
            assert holding.wait(20)

        with before(shared, "UPDATE riders", start):
            ended = run(shared, plan)
        assert other[0].result() is None
    assert ended.ok
    assert raw_rows(str(shared.engine.url), "SELECT DISTINCT country FROM riders") == [("FR",)]


def test_rows_that_another_transaction_holds_for_a_while_are_done_once_it_ends(shared: RideService) -> None:
    shared.sign_up(*(rider(number, closed_at=LONG_AGO) for number in (1, 2, 3)))
    plan = plan_of(shared)
    with shared.engine.connect() as other, internally():
        other.execute(text("SELECT id FROM riders WHERE id = 2 FOR UPDATE"))
        ended = purge(shared.guard, shared.engine, plan, retry=Retry(sleep=lambda seconds: other.rollback()))
    assert ended.ok
    assert ended.done == plan.due


def test_rows_that_another_transaction_holds_to_the_end_are_told_and_make_the_run_red(shared: RideService) -> None:
    shared.sign_up(*(rider(number, closed_at=LONG_AGO) for number in (1, 2, 3)))
    plan = plan_of(shared)
    with shared.engine.connect() as other, internally():
        other.execute(text("SELECT id FROM riders WHERE id = 2 FOR UPDATE"))
        ended = run(shared, plan, limits=Limits(lock_timeout=0.05))
    assert not ended.ok
    assert {outcome.locked for outcome in ended.outcomes if outcome.step.table == "riders"} >= {1}
    assert ended.overdue == sum(outcome.locked for outcome in ended.outcomes) > 0
    assert run(shared).ok


def test_on_sqlite_one_works_whatever_the_number_of_workers(sqlite_url: str, tmp_path: Path) -> None:
    service = ride_service(sqlite_url, tmp_path, Clock())
    seed(service, 20)
    threads: set[str] = set()
    ended = run(service, batch=5, workers=3, progress=lambda *_: threads.add(threading.current_thread().name))
    assert ended.ok
    assert threads == {threading.current_thread().name}
    assert state(sqlite_url)
    service.engine.dispose()


def test_b13_on_sqlite_two_runs_at_once_wait_for_each_other(sqlite_url: str, tmp_path: Path) -> None:
    service = ride_service(sqlite_url, tmp_path, Clock())
    seed(service, 60)
    plan = plan_of(service)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(purge, service.guard, service.engine, plan, batch=5) for _ in range(2)]
        assert [each.result().ok for each in runs] == [True, True]
    assert counted(service) == {f"{step.table}.{step.field}": step.due for step in plan.steps if step.due}
    service.engine.dispose()


def test_a_run_without_a_worker_is_refused(shared: RideService) -> None:
    with pytest.raises(InvalidValue, match="at least one worker"):
        run(shared, workers=0)
