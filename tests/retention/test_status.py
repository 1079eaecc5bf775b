"""What is overdue by each rule and since when, how the last runs ended, and clocks that jump."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select, update

from privkit import Privacy, purposes
from privkit.errors import ClockError, InvalidValue, PlanError
from privkit.periods import Period
from privkit.retention import Limits, Standing, Status, planner, runs, status
from privkit.sqlalchemy import due, holds
from tests.databases import raw_rows
from tests.retention.contacts import LONG_AGO, NOW, POLICY, contacts
from tests.retention.fleet import fleet
from tests.retention.lattice import FilledClub, club, fill
from tests.retention.test_lattice import EDGES, MOMENTS
from tests.sqlalchemy.rides import START, UNTIL, Clock, Rider, RideService, rider

DAY = timedelta(days=1)


def by_name(status: Status) -> dict[str, Standing]:
    return {each.name: each for each in status.standings}


def run(service: RideService) -> None:
    assert service.privacy.purge(service.engine, service.privacy.plan(service.engine)).ok


def test_the_oldest_age_counts_from_the_event_and_its_period(service: RideService) -> None:
    closed = datetime(2025, 11, 30, 8)
    service.sign_up(rider(1, closed_at=closed, trips=[]), rider(2, closed_at=datetime(2025, 12, 31, 8), trips=[]))
    status = service.privacy.status(service.engine)
    name, born = by_name(status)["riders.name"], by_name(status)["riders.born"]
    assert (name.due, name.overdue, status.age(name)) == (
        1,
        1,
        START - (closed.replace(tzinfo=START.tzinfo) + 30 * DAY),
    )
    assert (born.due, status.age(born)) == (2, START - (closed.replace(tzinfo=START.tzinfo) + DAY))
    email = by_name(status)["riders.email"]
    assert (email.due, email.overdue, email.oldest) == (0, 0, None)


def test_without_a_run_all_that_is_due_is_overdue_and_after_a_run_nothing_is(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=LONG_AGO, trips=[]))
    before = service.privacy.status(service.engine)
    assert (before.overdue, before.last, before.proven, before.ok) == (before.due, None, None, False)
    run(service)
    after = service.privacy.status(service.engine)
    assert (after.due, after.ok) == (0, True)
    assert after.last is not None
    assert (after.last.ok, after.last.done, after.last.as_of) == (True, before.due, START)
    assert after.last.policy_digest == service.privacy.policy.digest
    assert after.proven == after.last.ended == START
    assert after.last.duration == timedelta()


def test_what_falls_due_after_a_run_is_overdue_once_the_grace_has_passed(service: RideService, clock: Clock) -> None:
    service.sign_up(rider(1, closed_at=datetime(2025, 12, 31, 18), trips=[]))
    run(service)
    clock.now = START + DAY / 2  # the birth date fell due six hours ago
    status = service.privacy.status(service.engine)
    assert (status.due, status.overdue, status.ok) == (1, 0, True)
    assert not service.privacy.status(service.engine, grace=DAY / 4).ok
    clock.now = START + 2 * DAY
    assert service.privacy.status(service.engine).overdue == 1


def test_what_a_run_left_behind_is_overdue_at_once(service: RideService, clock: Clock) -> None:
    service.sign_up(rider(1, closed_at=LONG_AGO, trips=[]))
    plan = service.privacy.plan(service.engine)
    done = service.privacy.purge(service.engine, plan, limits=Limits(max_seconds=0))
    status = service.privacy.status(service.engine)
    assert done.overdue == status.overdue == plan.due
    assert status.proven is None
    assert status.last is not None
    assert status.last.result == f"{plan.due} left overdue, ended early: max_seconds"
    clock.now += DAY
    run(service)
    assert service.privacy.status(service.engine).proven == START + DAY


def test_a_run_that_was_killed_has_not_ended_and_proves_nothing(service: RideService, clock: Clock) -> None:
    service.sign_up(rider(1, closed_at=LONG_AGO, trips=[]))

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        service.privacy.purge(service.engine, service.privacy.plan(service.engine), progress=killed)
    status = service.privacy.status(service.engine)
    assert status.last is not None
    assert (status.last.result, status.last.duration, status.last.ok) == ("has not ended", None, False)
    assert (status.proven, status.ok) == (None, False)


def test_held_and_blocked_rows_are_told_and_are_not_overdue(service: RideService, database_url: str) -> None:
    service.sign_up(rider(1, closed_at=LONG_AGO, trips=[]), rider(2, closed_at=LONG_AGO, trips=[]))
    with service.engine.begin() as connection:
        (key,) = connection.execute(select(Rider.__table__.c.privkit_key).where(Rider.id == 1)).one()
        holds.place(connection, service.guard, reason="claim", by="legal", until=UNTIL, subject=bytes(key))
    name = by_name(service.privacy.status(service.engine))["riders.name"]
    assert (name.due, name.held) == (1, 1)


def test_a_row_on_which_others_depend_is_blocked(database_url: str, tmp_path: Path) -> None:
    engine, guard = fleet(database_url, tmp_path, fines=1)
    with engine.connect() as connection:
        found = by_name(status.read(guard, connection))["drivers"]
    assert (found.due, found.blocked) == (0, 1)
    engine.dispose()


@pytest.mark.parametrize(
    ("closed", "future"),
    [
        (datetime(2036, 1, 1), 1),
        (datetime(2026, 1, 1, 12, 2), 0),  # two minutes ahead: clocks differ by as much
        (datetime(9999, 12, 31), 1),
        (datetime(1970, 1, 1), 0),
        (None, 0),
    ],
)
def test_b26_a_row_from_the_future_is_counted_and_never_silently_immortal(
    service: RideService, closed: datetime | None, future: int
) -> None:
    service.sign_up(rider(1, closed_at=closed, trips=[]))
    found = by_name(service.privacy.status(service.engine))
    assert {found[f"riders.{name}"].future for name in ("email", "name", "born", "home")} == {future}


def test_a_value_that_is_gone_is_not_from_the_future(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=LONG_AGO, trips=[]))
    run(service)
    with service.engine.begin() as connection:
        connection.execute(update(Rider.__table__).values(closed_at=datetime(2036, 1, 1)))
    assert {each.future for each in service.privacy.status(service.engine).standings} == {0}


def test_a_status_counts_what_a_plan_counts_and_its_oldest_is_the_first_instant_of_a_plan(
    database_url: str, tmp_path: Path, clock: Clock
) -> None:
    with club(database_url, tmp_path, clock, "America/New_York") as made:
        fill(made, Random(2), 25, EDGES)
        clock.now = MOMENTS[-1]
        status = made.privacy.status(made.engine)
        plan = {step.name: step for step in made.privacy.plan(made.engine).steps}
        assert {each.name: each.due for each in status.standings} == {name: step.due for name, step in plan.items()}
        assert status.due > 20
        for each in status.standings:
            if each.oldest is None:
                assert each.due == 0
                continue
            assert counted(made, each, each.oldest) > counted(made, each, each.oldest - timedelta(seconds=2)), each.name


def counted(made: FilledClub, standing: Standing, at: datetime) -> int:
    """How many of a standing's step are due at an instant."""
    guard = made.privacy.guard
    (target,) = [
        each for each in due.targets(guard) if (each.table.name, each.field) == (standing.table, standing.field)
    ]
    predicate = due.due(guard, target, lambda: at)
    assert predicate is not None
    with made.engine.connect() as connection, purposes.internally():
        return planner.count(connection, target, predicate)


def test_a_status_is_json_without_a_value(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=LONG_AGO, email="planted@secret.example", trips=[]))
    run(service)
    body = json.loads(service.privacy.status(service.engine).json())
    assert (body["overdue"], body["last_run"]["result"], body["proven"]) == (0, "nothing left", START.isoformat())
    assert {each["table"] for each in body["standings"]} == {"riders", "trips"}
    assert "planted" not in json.dumps(body)


def test_a_table_that_cannot_be_counted_is_no_table_without_overdue_rows(
    service: RideService, database_url: str
) -> None:
    raw_rows(database_url, "ALTER TABLE trips RENAME TO journeys")
    with pytest.raises(Exception, match="trips"):
        service.privacy.status(service.engine)


def test_a_negative_grace_is_refused(service: RideService) -> None:
    with pytest.raises(InvalidValue):
        service.privacy.status(service.engine, grace=-DAY)


def test_b28_a_clock_behind_the_ledger_is_refused_before_a_row_is_lost(service: RideService, clock: Clock) -> None:
    service.sign_up(rider(1, closed_at=LONG_AGO, trips=[]), rider(2, closed_at=datetime(2025, 1, 1), trips=[]))
    run(service)
    clock.now = START - timedelta(minutes=4)  # within what clocks may differ by
    plan = service.privacy.plan(service.engine)
    service.privacy.status(service.engine)
    clock.now = START - timedelta(hours=1)
    with pytest.raises(ClockError, match=r"3600 seconds behind the last line of the ledger"):
        service.privacy.status(service.engine)
    with pytest.raises(ClockError, match="behind"):
        service.privacy.purge(service.engine, service.privacy.plan(service.engine))
    clock.now = START
    assert service.privacy.purge(service.engine, plan).ok


def two_policies(url: str, tmp_path: Path, count: int, after: str) -> tuple[Engine, Privacy]:
    """Run once under P2Y, then return the same service under another policy."""
    engine, privacy = contacts(url, tmp_path, count, left_at=datetime(2025, 12, 1))
    assert privacy.purge(engine, privacy.plan(engine)).done == 0
    engine.dispose()
    return contacts(url, tmp_path, 0, POLICY.replace("{for: P2Y, after: left}", after))


def test_two_days_for_two_years_on_a_small_table_are_stopped_before_a_row_is_lost(
    database_url: str, tmp_path: Path
) -> None:
    engine, privacy = two_policies(database_url, tmp_path, 3, "{for: P2D, after: left}")
    plan = privacy.plan(engine)
    said = "rule changed since the last run: 'mail: P2Y after left' -> 'mail: P2D after left'"
    assert said in {step.name: step for step in plan.steps}["contacts.email"].warnings
    with pytest.raises(PlanError, match=r"far shorter than in the last run.*P2Y after left -> mail: P2D") as refused:
        privacy.purge(engine, plan)
    assert f"--yes-this-many {plan.due}" in str(refused.value)
    assert raw_rows(database_url, "SELECT count(*) FROM contacts WHERE email LIKE '%@%'") == [(3,)]
    assert privacy.purge(engine, plan, yes_this_many=plan.due).done == 3
    assert privacy.purge(engine, privacy.plan(engine)).done == 0  # it was agreed to once
    engine.dispose()


def test_a_rule_that_is_far_shorter_is_asked_about_before_the_first_row_is_due(
    database_url: str, tmp_path: Path
) -> None:
    engine, privacy = two_policies(database_url, tmp_path, 0, "{for: P2D, after: left}")
    plan = privacy.plan(engine)
    assert plan.due == 0
    with pytest.raises(PlanError, match="far shorter"):
        privacy.purge(engine, plan)
    assert privacy.purge(engine, plan, yes_this_many=0).overdue == 0
    engine.dispose()


def test_a_rule_that_is_somewhat_shorter_or_longer_is_shown_and_let_through(database_url: str, tmp_path: Path) -> None:
    engine, privacy = two_policies(database_url, tmp_path, 2, "{for: P1Y, after: left}")
    plan = privacy.plan(engine)
    assert any(
        "'mail: P2Y after left' -> 'mail: P1Y after left'" in each for step in plan.steps for each in step.warnings
    )
    assert privacy.purge(engine, plan).done == 0
    assert not any("rule changed" in each for step in privacy.plan(engine).steps for each in step.warnings)
    engine.dispose()


def test_the_ledger_has_the_rules_of_a_run_in_names_and_periods(database_url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(database_url, tmp_path, 1)
    privacy.purge(engine, privacy.plan(engine))
    ((body,),) = raw_rows(database_url, "SELECT body FROM privkit_ledger WHERE kind = 'run_started'")
    rules = json.loads(body)["rules"]
    assert rules["contacts.email"] == [["mail", "P2Y", "left", ""]]
    assert set(rules) == {"contacts.email", "contacts.phone", "contacts.fax", "contacts.login"}
    assert privacy.verify_ledger(engine).count == len(raw_rows(database_url, "SELECT seq FROM privkit_ledger"))
    engine.dispose()


PERIODS = ("PT1H", "P1D", "P9D", "P10D", "P30D", "P1M", "P10M", "P1Y", "P10Y")


@given(before=st.sampled_from(PERIODS), now=st.sampled_from(PERIODS))
def test_ten_times_shorter_is_the_measure(before: str, now: str) -> None:
    old, new = (Period.parse(each).after(NOW) - NOW for each in (before, now))
    found = runs._shortened([["mail", before, "left", ""]], [["mail", now, "left", ""]])
    if abs(old / new - 10) > 1:  # months differ in length
        assert found == (old / new > 10)


@pytest.mark.parametrize(
    ("now", "shortened"),
    [
        ([["mail", "P2Y", "joined", ""]], True),
        ([["mail", "P2Y", "left", "ends"]], True),
        ([["news", "P2Y", "left", ""]], False),
        ([["mail", "P2Y", "left", ""], ["law", "P1D", "paid", ""]], False),
        ([], True),
    ],
)
def test_a_rule_that_waits_for_another_event_or_for_fewer_counts_as_shortened(
    now: list[list[str]], shortened: bool
) -> None:
    assert runs._shortened([["mail", "P2Y", "left", ""]], now) is shortened
