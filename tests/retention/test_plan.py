"""A plan can be read, says what the database would refuse, and is refused with the difference once it is stale."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, DateTime, Engine, Integer, String, Table, create_engine, select
from sqlalchemy.exc import SAWarning
from sqlalchemy.orm import DeclarativeBase

from privkit import FileKeyring, Personal, Privacy, events, not_personal, retention
from privkit.errors import PlanError, PolicyError
from privkit.retention import Cascade, Plan, Step, commitment, planner, staleness
from privkit.sqlalchemy import holds, ledger
from tests.databases import raw_rows
from tests.retention.contacts import LONG_AGO, NOW, POLICY, contacts, store
from tests.retention.fleet import fleet
from tests.sqlalchemy.rides import START, UNTIL, Rider, RideService, rider

PHONES = "SELECT count(phone), count(fax) FROM contacts"


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


def by_name(plan: Plan) -> dict[str, Step]:
    return {step.name: step for step in plan.steps}


def difference(engine: Engine, privacy: Privacy, plan: Plan) -> str:
    """Run a plan that is stale, and return what the refusal says."""
    with pytest.raises(PlanError, match="The plan was not run") as refused:
        privacy.purge(engine, plan, yes_this_many=plan.due)
    return str(refused.value)


def test_a_step_counts_what_is_due_held_and_in_its_table(service: RideService) -> None:
    service.sign_up(*(rider(number, closed_at=LONG_AGO, trips=[]) for number in (1, 2, 3)), rider(4, trips=[]))
    with service.engine.begin() as connection:
        (key,) = connection.execute(select(Rider.__table__.c.privkit_key).where(Rider.id == 1)).one()
        holds.place(connection, service.guard, reason="claim", by="legal", until=UNTIL, subject=bytes(key))
    step = by_name(service.privacy.plan(service.engine))["riders.home"]
    assert (step.due, step.held, step.blocked, step.total) == (2, 1, 0, 4)
    assert step.share == 0.5


def test_a_plan_says_what_goes_with_the_rows(url: str, tmp_path: Path) -> None:
    engine, guard = fleet(url, tmp_path)
    with engine.connect() as connection:
        step = by_name(retention.make(guard, connection))["drivers"]
    assert step.cascades == (Cascade("badges", 1, "deleted"), Cascade("vehicles", 1, "set to NULL"))
    assert "badges.driver_id refers to it and has no index: each row scans badges" in step.warnings
    engine.dispose()


def test_the_predicate_of_a_step_is_sql_that_finds_its_rows_without_privkit(service: RideService, url: str) -> None:
    service.sign_up(rider(1, closed_at=LONG_AGO), rider(2, closed_at=datetime(2025, 12, 15)), rider(3))
    for step in service.privacy.plan(service.engine).steps:
        found = raw_rows(url, f"SELECT count(*) FROM {step.table} WHERE {step.predicate}")
        assert found == [(step.due,)], step.name


def test_c12_a_check_that_ties_columns_is_named_before_the_run(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 8, phone="1", token="t")
    plan = privacy.plan(engine)
    assert by_name(plan)["contacts.phone"].refused == "the database refuses it: CHECK phone_or_token"
    run = privacy.purge(engine, plan)
    assert not run.ok
    done = {outcome.step.name: outcome.done for outcome in run.outcomes}
    assert done == {"contacts.email": 8, "contacts.phone": 0, "contacts.fax": 0, "contacts.login": 0}
    assert raw_rows(url, PHONES) == [(8, 8)]
    engine.dispose()


def test_b10_some_rows_that_the_database_refuses_are_a_warning_and_no_refusal(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 5, phone="1")
    store(engine, privacy, range(6, 8), phone="1", token="t")
    step = by_name(privacy.plan(engine))["contacts.phone"]
    assert step.refused is None
    assert step.warnings == ("the database refuses some rows: CHECK phone_or_token",)
    engine.dispose()


def test_c03_rows_that_would_collide_in_a_unique_index_on_an_expression_are_refused(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 5)
    refused = by_name(privacy.plan(engine))["contacts.fax"].refused or ""
    assert refused.startswith("the database refuses it: unique key")
    assert url.startswith("sqlite") or "one_fax_each" in refused
    engine.dispose()


def test_c02_two_addresses_of_one_person_stay_distinct_in_a_unique_column(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 6)
    plan = privacy.plan(engine)
    assert by_name(plan)["contacts.email"].refused is None
    privacy.purge(engine, plan)
    assert raw_rows(url, "SELECT count(DISTINCT email), count(email) FROM contacts WHERE email NOT LIKE '%@%'") == [
        (6, 6)
    ]
    engine.dispose()


def test_c09_a_personal_column_that_a_foreign_key_refers_to_is_refused(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 2, login=None)
    assert by_name(privacy.plan(engine))["contacts.login"].refused == "profiles.login refers to it and would dangle"
    engine.dispose()


def stored(url: str, *tables: str) -> list[object]:
    return [raw_rows(url, f"SELECT * FROM {table} ORDER BY 1") for table in (*tables, "privkit_key", "privkit_ledger")]


def test_a_trial_leaves_nothing_behind_in_values(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 3, phone="1")
    before = stored(url, "contacts")
    with engine.begin() as connection:  # also in a transaction that is committed afterwards
        retention.make(privacy.guard, connection)
    assert stored(url, "contacts") == before
    engine.dispose()


def test_a_trial_leaves_nothing_behind_in_rows_keys_and_what_depends_on_them(url: str, tmp_path: Path) -> None:
    engine, guard = fleet(url, tmp_path)
    before = stored(url, "drivers", "badges", "vehicles")
    with engine.begin() as connection:
        assert by_name(retention.make(guard, connection))["drivers"].due == 1
    assert stored(url, "drivers", "badges", "vehicles") == before
    assert not guard.shredded
    engine.dispose()


def test_nothing_is_tried_where_each_statement_commits_by_itself(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 3, phone="1")
    autocommit = create_engine(url, isolation_level="AUTOCOMMIT")
    privacy.protect(autocommit)
    assert by_name(privacy.plan(autocommit))["contacts.phone"].due == 3
    assert raw_rows(url, PHONES) == [(3, 3)]
    engine.dispose()
    autocommit.dispose()


def test_b22_a_column_that_is_not_null_in_the_database_alone_is_refused_without_a_row_due(
    url: str, tmp_path: Path
) -> None:
    engine, privacy = contacts(url, tmp_path, 0)
    raw_rows(url, "DROP TABLE profiles")
    raw_rows(url, "DROP TABLE contacts")
    raw_rows(
        url,
        "CREATE TABLE contacts (id INTEGER PRIMARY KEY, email VARCHAR NOT NULL, email_residue VARCHAR, fax VARCHAR,"
        " phone VARCHAR NOT NULL, login VARCHAR, token VARCHAR, country VARCHAR, left_at TIMESTAMP)",
    )
    plan = by_name(privacy.plan(engine))
    assert plan["contacts.phone"].refused == "contacts lacks privkit_key in the database"
    key = "BLOB" if url.startswith("sqlite") else "BYTEA"
    raw_rows(url, f"ALTER TABLE contacts ADD COLUMN privkit_key {key}")
    plan = by_name(privacy.plan(engine))
    assert "phone is NOT NULL in the database" in (plan["contacts.phone"].refused or "")
    assert plan["contacts.fax"].refused is None
    engine.dispose()


def test_a_table_that_is_missing_and_a_view_in_its_place_are_refused_and_the_others_stand(
    url: str, tmp_path: Path
) -> None:
    engine, privacy = contacts(url, tmp_path, 0)
    raw_rows(url, "ALTER TABLE contacts RENAME TO people")
    steps = by_name(privacy.plan(engine))
    assert {step.refused for step in steps.values()} == {"contacts is not in the database"}
    raw_rows(url, "CREATE VIEW contacts AS SELECT * FROM people")
    steps = by_name(privacy.plan(engine))
    assert "is a view in the database" in (steps["contacts.fax"].refused or "")
    engine.dispose()


def test_triggers_are_listed(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 1)
    if url.startswith("sqlite"):
        raw_rows(url, "CREATE TRIGGER noted AFTER UPDATE ON contacts BEGIN SELECT 1; END")
    else:
        raw_rows(url, "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
        raw_rows(url, "CREATE TRIGGER noted AFTER UPDATE ON contacts EXECUTE FUNCTION noted()")
    assert "fires the trigger noted" in by_name(privacy.plan(engine))["contacts.email"].warnings
    engine.dispose()


def test_rows_that_another_transaction_has_locked_are_not_waited_for(pg_url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(pg_url, tmp_path, 2, phone="1")
    with engine.connect() as other:
        other.exec_driver_sql("SELECT id FROM contacts FOR UPDATE")
        steps = privacy.plan(engine).steps
    assert [step.refused for step in steps if step.name != "contacts.login"] == [None] * 3
    assert any("the database was busy" in warning for step in steps for warning in step.warnings)
    engine.dispose()


def test_a_stale_plan_names_the_rule_that_changed(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 2)
    plan = privacy.plan(engine)
    engine.dispose()
    engine, privacy = contacts(url, tmp_path, 0, POLICY.replace("P2Y", "P2D"))
    said = difference(engine, privacy, plan)
    assert "contacts.email was due by mail: P2Y after left, and is by mail: P2D after left" in said
    engine.dispose()


def test_a_stale_plan_names_what_changed_in_the_models_and_the_schema(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 2)
    plan = privacy.plan(engine)
    other = replace(plan, steps=(replace(plan.steps[0], technique="deleted with its row"), *plan.steps[1:]))
    assert "contacts.email was to be deleted with its row, and is to be pseudonymised" in difference(
        engine, privacy, other
    )
    raw_rows(url, "ALTER TABLE contacts ADD COLUMN nickname VARCHAR(7)")
    assert "the schema of contacts has changed (new: column nickname: VARCHAR(7))" in difference(engine, privacy, plan)
    engine.dispose()


def test_a_plan_names_types_and_not_what_they_allow_and_is_stale_when_that_changes(pg_url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(pg_url, tmp_path, 2)
    raw_rows(pg_url, "CREATE TYPE mood AS ENUM ('planted joy'); CREATE TYPE pair AS (a int, b int)")
    raw_rows(pg_url, "CREATE DOMAIN code AS text CHECK (VALUE <> 'planted code')")
    raw_rows(pg_url, "ALTER TABLE contacts ADD a mood, ADD b mood[], ADD c code, ADD d pair, ADD e pair[]")
    with pytest.warns(SAWarning, match="Did not recognize type"):
        plan = privacy.plan(engine)
    assert [f"column {name}: unknown" for name in "de"] == [line for line in plan.schema["contacts"] if "unk" in line]
    assert "planted" not in plan.json() + repr(plan)
    raw_rows(pg_url, "ALTER TYPE mood ADD VALUE 'planted woe'")
    with pytest.warns(SAWarning, match="Did not recognize type"):
        said = difference(engine, privacy, plan)
    assert "planted" not in said
    assert "column a: mood" in said
    assert "column b: mood[]" in said
    engine.dispose()


def test_a_plan_of_another_database_is_refused(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 2)
    other, theirs = contacts(f"sqlite:///{tmp_path / 'other.sqlite'}", tmp_path, 2)
    said = difference(engine, privacy, theirs.plan(other))
    assert f"it was made for another database: sqlite {tmp_path / 'other.sqlite'}" in said
    engine.dispose()
    other.dispose()


def test_more_rows_than_planned_are_refused_with_their_number_also_when_others_went(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 4)
    plan = privacy.plan(engine)
    raw_rows(url, "UPDATE contacts SET left_at = NULL WHERE id IN (1, 2)")
    store(engine, privacy, range(5, 7))
    assert "contacts.email: 2 more are due than planned, 2 fewer" in difference(engine, privacy, plan)
    assert raw_rows(url, PHONES) == [(0, 6)]
    engine.dispose()


def test_a_hold_that_was_released_since_makes_a_plan_stale(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=LONG_AGO, trips=[]), rider(2, closed_at=LONG_AGO, trips=[]))
    with service.engine.begin() as connection:
        hold = holds.place(connection, service.guard, reason="claim", by="legal", until=UNTIL, table="riders")
    plan = service.privacy.plan(service.engine)
    with service.engine.begin() as connection:
        holds.release(connection, service.guard, hold, by="legal")
    assert "riders.home: 2 more are due than planned" in difference(service.engine, service.privacy, plan)


def test_fewer_rows_than_planned_are_no_reason_to_refuse(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 4)
    plan = privacy.plan(engine)
    raw_rows(url, "UPDATE contacts SET left_at = NULL WHERE id = 1")
    run = privacy.purge(engine, plan)
    assert {outcome.step.name: outcome.done for outcome in run.outcomes}["contacts.email"] == 3
    engine.dispose()


def test_without_a_keyring_a_plan_is_made_and_compared_by_number(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 3)
    keyring, privacy.guard.keyring = privacy.guard.keyring, FileKeyring(tmp_path / "gone.json")
    plan = privacy.plan(engine)
    privacy.guard.keyring = keyring
    assert {step.commitment for step in plan.steps} == {None}
    store(engine, privacy, range(4, 5))
    assert "contacts.email: 1 more is due than planned" in difference(engine, privacy, plan)
    engine.dispose()


def test_a_plan_names_no_row(url: str, tmp_path: Path) -> None:
    engine, privacy = contacts(url, tmp_path, 3, phone="planted-phone")
    text = privacy.plan(engine).json()
    assert Plan.load(text).json() == text
    assert not any(each in text for each in ("planted", "mail.example"))
    again = privacy.plan(engine)
    assert again.steps[0].commitment not in (None, Plan.load(text).steps[0].commitment)  # under a salt of its own
    engine.dispose()


def test_a_plan_of_the_earlier_format_is_refused_with_the_way_to_a_new_one() -> None:
    with pytest.raises(PlanError, match="format 1") as refused:
        Plan.load('{"privkit_plan": 1, "as_of": "2026-01-01T00:00:00+00:00", "policy_digest": "0", "steps": []}')
    assert "privkit plan --out plan.json" in str(refused.value)


@pytest.mark.parametrize(("name", "value"), [("due", "7"), ("due", -1), ("total", None), ("surplus", 1)])
def test_a_step_that_is_damaged_is_refused(name: str, value: object) -> None:
    plan = Plan(NOW, "0" * 64, (Step("riders", "home", "suppressed", "", 1),), NOW)
    body = json.loads(plan.json())
    body["steps"][0][name] = value
    with pytest.raises(PlanError, match="damaged"):
        Plan.load(json.dumps(body))


@given(st.lists(st.tuples(st.integers(), st.text())), st.randoms(use_true_random=False))
def test_fingerprints_do_not_depend_on_the_order_of_rows_and_tell_what_came_and_went(
    rows: list[tuple[int, str]], chance: object
) -> None:
    shuffled = sorted(rows, key=lambda _: chance.random())  # type: ignore[attr-defined]
    found = commitment.fingerprints(rows, bytes(32))
    assert commitment.read(commitment.write(commitment.fingerprints(shuffled, bytes(32)))) == found
    assert len(found) == len(set(rows))
    assert found.isdisjoint(commitment.fingerprints(rows, bytes([1] * 32)))


def many(url: str, folder: Path, policy: str, *, left: datetime = datetime(2025, 12, 1)) -> tuple[Engine, Privacy]:
    """Store 150 contacts who left a month ago: none is due under a period of two years."""
    return contacts(url, folder, 150, policy, left_at=left)


@pytest.mark.parametrize("typo", ["P2D", "P20D"])
def test_b28_a_period_that_is_far_too_short_is_caught_before_a_row_is_lost(url: str, tmp_path: Path, typo: str) -> None:
    engine, privacy = many(url, tmp_path, POLICY.replace("P2Y", typo))
    plan = privacy.plan(engine)
    with pytest.raises(PlanError, match=r"more than 20 % of a table: contacts.email \(150 of 150: mail: P2") as refused:
        privacy.purge(engine, plan)
    assert f"--yes-this-many {plan.due}" in str(refused.value)
    with pytest.raises(PlanError, match="agreed to"):
        privacy.purge(engine, plan, yes_this_many=plan.due - 1)
    assert raw_rows(url, "SELECT count(fax) FROM contacts WHERE email LIKE '%@%'") == [(150,)]
    assert privacy.purge(engine, plan, yes_this_many=plan.due).done == 150
    engine.dispose()


def test_the_policy_says_how_large_a_share_goes_without_its_number(url: str, tmp_path: Path) -> None:
    engine, privacy = many(url, tmp_path, POLICY + "runs: {largest_share: 100}\n", left=LONG_AGO)
    assert privacy.purge(engine, privacy.plan(engine)).done == 150
    engine.dispose()


def test_a_share_is_no_share_and_an_event_that_was_renamed_is_an_error_before_a_plan_is_made(
    sqlite_url: str, tmp_path: Path
) -> None:
    with pytest.raises(PolicyError, match="largest_share"):
        contacts(sqlite_url, tmp_path, 0, POLICY + "runs: {largest_share: 101}\n")
    with pytest.raises(PolicyError, match="maps no event 'went'"):
        contacts(sqlite_url, tmp_path, 0, POLICY.replace("after: left", "after: went"))


@pytest.mark.parametrize(("due", "total", "free"), [(100, 100, True), (101, 505, True), (101, 504, False)])
def test_the_rail_is_for_more_than_a_fifth_and_more_than_a_hundred(due: int, total: int, free: bool) -> None:
    plan = Plan(NOW, "0" * 64, (Step("riders", "home", "suppressed", "", due, total=total),))
    if free:
        staleness.require_named(plan, None, 20)
    else:
        with pytest.raises(PlanError, match=f"101 of {total}"):
            staleness.require_named(plan, None, 20)


def test_a_run_is_expected_to_be_as_quick_as_the_last_one(service: RideService) -> None:
    service.sign_up(*(rider(number, closed_at=LONG_AGO, trips=[]) for number in range(1, 9)))
    plan = service.privacy.plan(service.engine)
    assert {step.seconds for step in plan.steps if step.due} == {round(8 / planner.A_SECOND, 3)}
    with service.engine.begin() as connection:
        for kind, more, at in (("run_started", {}, 0), ("run_ended", {"done": 20}, 10)):
            service.clock.now = START + timedelta(seconds=at)  # type: ignore[attr-defined]
            ledger.append(connection, service.guard, kind, {"run": "r", **more})
    plan = service.privacy.plan(service.engine)
    assert {step.seconds for step in plan.steps if step.due} == {4.0}
    assert plan.seconds == 4.0 * sum(step.due > 0 for step in plan.steps)


class Loose(DeclarativeBase): ...


@events(left="left_at")
@not_personal("number", "left_at", because="number and event time")
class Numbered(Loose):
    __table__ = Table(
        "numbered",
        Loose.metadata,
        Column("number", Integer, nullable=False, unique=True),
        Column("note", String),
        Column("left_at", DateTime),
    )
    __mapper_args__ = {"primary_key": [__table__.c.number]}


@events(left="left_at")
@not_personal("number", "left_at", because="number and event time")
class Unnumbered(Loose):
    __table__ = Table(
        "unnumbered",
        Loose.metadata,
        Column("number", Integer),
        Column("note", String),
        Column("left_at", DateTime),
    )
    __mapper_args__ = {"primary_key": [__table__.c.number]}


def test_b17_a_unique_key_is_enough_and_a_table_with_none_is_left_out_with_its_reason(url: str, tmp_path: Path) -> None:
    policy = tmp_path / "loose.yaml"
    policy.write_text(POLICY)
    privacy = Privacy(policy, Loose, FileKeyring.create(tmp_path / "loose.json"), clock=lambda: NOW)
    for model in (Numbered, Unnumbered):
        privacy.annotate(model, note=Personal("user.name", purposes={"mail"}, seal=False))
    engine = create_engine(url)
    privacy.protect(engine)
    Loose.metadata.create_all(engine)
    for table in ("numbered", "unnumbered"):
        raw_rows(url, f"INSERT INTO {table} VALUES (1, 'note', '2020-01-01 00:00:00.000000')")
    plan = privacy.plan(engine)
    steps = by_name(plan)
    assert steps["numbered.note"].refused is None
    assert (steps["unnumbered.note"].refused or "").startswith("unnumbered has no primary key and no unique key")
    assert steps["unnumbered.note"].due == 1
    run = privacy.purge(engine, plan)
    assert (run.ok, run.overdue, run.done) == (False, 1, 1)
    assert raw_rows(url, "SELECT note FROM numbered") == [(None,)]
    assert raw_rows(url, "SELECT note FROM unnumbered") == [("note",)]
    engine.dispose()


@pytest.mark.parametrize("effect", ["", "ON DELETE CASCADE"])
def test_b20_rows_of_a_table_that_no_model_knows_are_neither_deleted_nor_left_behind(
    url: str, tmp_path: Path, effect: str
) -> None:
    engine, guard = fleet(url, tmp_path)
    raw_rows(url, f"CREATE TABLE dents (id INTEGER, driver_id INTEGER REFERENCES drivers (id) {effect})")
    raw_rows(url, "INSERT INTO dents VALUES (1, 1)")
    with engine.connect() as connection:
        plan = retention.make(guard, connection)
    run = retention.purge(guard, engine, plan)
    assert not run.ok
    assert "dents" in (by_name(plan)["drivers"].refused or "") or not effect
    assert raw_rows(url, "SELECT count(*) FROM drivers") == [(2,)]
    assert raw_rows(url, "SELECT driver_id FROM dents") == [(1,)]
    engine.dispose()
