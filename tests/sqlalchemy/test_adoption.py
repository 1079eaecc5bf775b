"""A column of plain text becomes a sealed one while old and new builds run, and may go back at any time."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import Session

from privkit import Adopting, Plain, Pseudonymise, SqlalchemyUtils
from privkit.crypto.envelope import OVERHEAD, VERSION
from privkit.errors import MappingError, MigrationError, PrivkitError, PurposeError, SealedError, StatementRefused
from privkit.sqlalchemy import pair_sql
from tests.databases import raw_rows
from tests.sqlalchemy.adopter import (
    PLANTED,
    UNTIL,
    Build,
    build,
    dual,
    finished,
    migrate,
    old_build_adds,
    old_build_changes,
    old_table,
    sealed,
)
from tests.sqlalchemy.rides import Clock

ROWS = 25
EXPECTED = {number: PLANTED.format(number) for number in range(1, ROWS + 1)}
PENDING = b"\x02"


class Backwards(TypeDecorator[str]):
    """A type of the application's own: what the database holds is not the value."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value[::-1]

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value[::-1]


@pytest.fixture
def first(database_url: str, tmp_path: Path, clock: Clock) -> Build:
    """The first deploy, on a table that holds plain text."""
    old_table(database_url, ROWS)
    made = dual(database_url, tmp_path, clock)
    migrate(made)
    return made


@pytest.fixture
def second(first: Build, tmp_path: Path, clock: Clock) -> Build:
    """The second deploy, after everything was sealed."""
    assert first.privacy.seal(first.engine, "riders.email").ok
    return sealed(first.url, tmp_path, clock)


def counts(made: Build) -> tuple[int, int, int]:
    (each,) = made.privacy.adoption(made.engine)
    return each.empty, each.sealed, each.waiting


def test_what_was_there_waits_and_is_read_from_the_old_column(first: Build) -> None:
    assert EXPECTED == first.emails()
    assert (0, 0, ROWS) == counts(first)
    assert {PENDING} == set(first.stored())
    assert [3] == first.found(PLANTED.format(3))


def test_a_write_of_the_first_deploy_goes_to_both_columns(first: Build) -> None:
    first.privacy.seal(first.engine, "riders.email")
    first.add(90, "new@secret.example")
    first.change(3, "changed@secret.example")
    first.change(4, None)
    with first.purpose(), first.engine.begin() as connection:
        table = first.model.__table__
        connection.execute(insert(table), [{"id": 91, "email": "core@secret.example"}, {"id": 92, "email": None}])
        connection.execute(update(table).where(table.c.id == 5).values(email="core5@secret.example"))
    old = dict(first.raw("SELECT id, email FROM riders"))
    assert ("new@secret.example", "changed@secret.example", None) == (old[90], old[3], old[4])
    assert ("core@secret.example", None, "core5@secret.example") == (old[91], old[92], old[5])
    assert (2, ROWS + 1, 0) == counts(first)
    assert first.privacy.seal(first.engine, "riders.email").ok


def test_a_row_without_a_key_is_written_by_the_first_deploy_and_sealed_later(first: Build) -> None:
    first.change(3, "changed@secret.example")
    assert PENDING == first.stored()[2]
    assert first.privacy.seal(first.engine, "riders.email").ok
    assert "changed@secret.example" == first.emails()[3]


def test_sealing_seals_every_row_and_compares_all_of_them(first: Build, tmp_path: Path, clock: Clock) -> None:
    run = first.privacy.seal(first.engine, "riders.email", batch=7)
    assert (True, ROWS, ROWS) == (run.ok, run.done, run.rows)
    assert (0, ROWS, 0) == counts(first)
    assert all(each is not None and each[:1] == VERSION and len(each) > OVERHEAD for each in first.stored())
    assert EXPECTED == sealed(first.url, tmp_path, clock).emails()
    assert 0 == first.privacy.seal(first.engine, "riders.email").done


def test_each_batch_has_its_line_and_no_line_has_a_value(first: Build) -> None:
    first.privacy.seal(first.engine, "riders.email", batch=10)
    lines = [body for (body,) in first.raw("SELECT body FROM privkit_ledger WHERE kind = 'adopted' ORDER BY seq")]
    assert 3 == len(lines)
    assert [] == [line for line in lines if "planted" in line]
    assert '{"count":10,"field":"riders.email","phase":"dual"}' == lines[0]
    first.privacy.verify_ledger(first.engine)


def test_the_second_deploy_reads_and_finds_what_is_sealed(second: Build) -> None:
    assert EXPECTED == second.emails()
    assert [3, 7] == second.found(PLANTED.format(3).upper(), PLANTED.format(7))
    second.raw("UPDATE riders SET closed_at = closed_at")
    assert (0, ROWS, 0) == counts(second)


def test_a_roll_back_to_the_first_deploy_loses_nothing(second: Build, first: Build) -> None:
    second.add(90, "new@secret.example")
    second.change(3, "changed@secret.example")
    second.change(4, None)
    rest = {number: email for number, email in EXPECTED.items() if number not in (3, 4)}
    assert rest | {90: "new@secret.example", 3: "changed@secret.example", 4: None} == first.emails()
    assert first.privacy.seal(first.engine, "riders.email").ok


def test_a35_what_an_old_build_writes_is_noticed_counted_and_sealed_again(first: Build, second: Build) -> None:
    old_build_adds(first.url, 90, "late@secret.example")
    old_build_changes(first.url, 3, "stale@secret.example")
    old_build_changes(first.url, 4, None)
    assert (0, ROWS - 2, 3) == counts(second)
    run = second.privacy.seal(second.engine, "riders.email")
    assert (True, 3) == (run.ok, run.done)
    found = second.emails()
    assert ("late@secret.example", "stale@secret.example", None) == (found[90], found[3], found[4])
    assert [] == second.found(PLANTED.format(3))
    assert [3] == second.found("STALE@secret.example")


@pytest.mark.parametrize("written", ["late@secret.example", ""])
def test_a34_a_value_that_is_not_sealed_is_an_error_without_a_fall_back(second: Build, written: str) -> None:
    old_build_changes(second.url, 3, written)
    with pytest.raises(SealedError, match="is not sealed, or another program changed it since") as refused:
        second.emails()
    assert "secret.example" not in str(refused.value)


@pytest.mark.parametrize("written", ["late@secret.example", "", "Zoë ☃"])
def test_a34_a_fall_back_reads_the_old_column_counts_and_ends(
    second: Build, tmp_path: Path, clock: Clock, written: str
) -> None:
    lenient = sealed(second.url, tmp_path, clock, until=UNTIL)
    old_build_changes(second.url, 3, written)
    old_build_changes(second.url, 4, None)
    assert EXPECTED | {3: written, 4: None} == lenient.emails()
    assert 1 == lenient.privacy.adoption(lenient.engine)[0].read_before
    clock.now = datetime(2026, 7, 1, tzinfo=UTC)
    with pytest.raises(SealedError, match="is not sealed"):
        lenient.emails()


def test_a_row_that_waits_is_found_by_its_plain_value(second: Build, tmp_path: Path, clock: Clock) -> None:
    old_build_changes(second.url, 3, "late@secret.example")
    assert [3, 5] == second.found("late@secret.example", PLANTED.format(5))
    with second.purpose(), Session(second.engine) as session:
        others = session.scalars(select(second.model.id).where(second.model.email != "late@secret.example"))
        assert sorted(set(EXPECTED) - {3}) == sorted(others)


def test_a_value_that_waits_is_never_none_whatever_the_statement(second: Build) -> None:
    old_build_changes(second.url, 3, "late@secret.example")
    model = second.model
    inner = select(model).where(model.id == 3).subquery()
    forms = [
        select(model.email).where(model.id == 3),
        select(inner.c.email_sealed),
        select(model.email).where(model.id == 3).union_all(select(model.email).where(model.id == 3)),
        select(model.__table__.c.email_sealed).where(model.__table__.c.id == 3),
    ]
    for form in forms:
        with second.purpose(), Session(second.engine) as session, pytest.raises(SealedError):
            session.execute(form).all()


def test_the_old_column_obeys_the_field_s_rule_while_it_is_there(second: Build) -> None:
    old = second.model.__table__.c.email
    with Session(second.engine) as session:
        with pytest.raises(PurposeError):
            session.execute(select(old))
        with pytest.raises(PrivkitError):
            session.execute(text("SELECT email FROM riders"))
        with second.purpose():
            assert PLANTED.format(1) == session.scalars(select(old).order_by(second.model.id)).first()
        with pytest.raises(StatementRefused), second.purpose():
            session.execute(update(second.model.__table__).values(email="x"))


def test_a35_a_value_that_is_an_envelope_already_is_refused(first: Build, second: Build) -> None:
    envelope = second.stored()[0]
    assert envelope is not None
    for given in (envelope.hex(), "\\x" + envelope.hex()):
        with pytest.raises(StatementRefused, match="envelope already"):
            second.change(3, given)
        with pytest.raises(StatementRefused, match="envelope already"):
            first.add(90, given)
    assert EXPECTED == second.emails()


def test_a35_an_envelope_in_the_old_column_is_left_counted_and_named(first: Build, second: Build) -> None:
    envelope = second.stored()[0]
    assert envelope is not None
    old_build_changes(first.url, 3, envelope.hex())
    run = second.privacy.seal(second.engine, "riders.email")
    assert (False, 1, 1, [(3,)]) == (run.ok, run.double, run.waiting, run.keys)


def test_columns_that_differ_are_counted_and_named_and_the_old_one_wins_while_it_is_read(
    first: Build, second: Build
) -> None:
    (one, other) = second.stored()[:2]
    assert one is not None
    assert other is not None
    second.raw(pair_sql.drop_sql(sealed_column(second), second.engine.dialect)[0])
    old_build_changes(first.url, 3, "unnoticed@secret.example")
    assert not second.privacy.adoption(second.engine)[0].watched
    with pytest.raises(MigrationError, match="CREATE TRIGGER"):
        second.privacy.seal(second.engine, "riders.email")
    for statement in first_trigger(first):
        second.raw(statement)
    run = second.privacy.seal(second.engine, "riders.email")
    assert (False, 1, [(3,)]) == (run.ok, run.differing, run.keys)
    run = first.privacy.seal(first.engine, "riders.email")
    assert (True, 1) == (run.ok, run.done)
    assert "unnoticed@secret.example" == second.emails()[3]


def first_trigger(made: Build) -> list[str]:
    from privkit.sqlalchemy import adoption

    return [
        each
        for each in adoption.migration(made.privacy.guard, made.engine, "riders.email")
        if "TRIGGER" in each.upper()
    ]


def sealed_column(made: Build) -> Any:
    return made.model.__table__.c.email_sealed


def test_an_old_build_that_changes_only_the_case_is_noticed_whatever_the_collation(
    sqlite_url: str, tmp_path: Path, clock: Clock
) -> None:
    kind = "VARCHAR(200) COLLATE NOCASE"
    raw_rows(sqlite_url, f"CREATE TABLE riders (id INTEGER PRIMARY KEY, email {kind}, closed_at TIMESTAMP)")
    old_build_adds(sqlite_url, 1, "ada@secret.example")
    made = dual(sqlite_url, tmp_path, clock)
    migrate(made)
    assert made.privacy.seal(made.engine, "riders.email").ok
    old_build_changes(sqlite_url, 1, "ADA@secret.example")
    assert [PENDING] == made.stored()


def test_what_another_trigger_makes_of_a_row_is_noticed(pg_url: str, tmp_path: Path, clock: Clock) -> None:
    old_table(pg_url, 1)
    made = dual(pg_url, tmp_path, clock)
    migrate(made)
    assert made.privacy.seal(made.engine, "riders.email").ok
    body = "BEGIN IF NEW.closed_at IS NOT NULL THEN NEW.email := NULL; END IF; RETURN NEW; END"
    made.raw(f"CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
    made.raw("CREATE TRIGGER tidy BEFORE UPDATE ON riders FOR EACH ROW EXECUTE FUNCTION tidy()")
    made.raw("UPDATE riders SET closed_at = '2026-01-01'")
    assert [PENDING] == made.stored()


def test_two_columns_whose_names_run_together_are_watched_apart(database_url: str) -> None:
    for table, column in (("users", "address_email"), ("users_address", "email")):
        raw_rows(database_url, f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {column} VARCHAR(99))")
        binary = "BLOB" if "sqlite" in database_url else "BYTEA"
        raw_rows(database_url, f"ALTER TABLE {table} ADD COLUMN {column}_sealed {binary}")
        key, old = Column("id", Integer, primary_key=True), Column(column, String)
        sealed_one = Column(f"{column}_sealed", LargeBinary)
        Table(table, MetaData(), key, old, sealed_one)
        for statement in pair_sql.create_sql(sealed_one, old, create_engine(database_url).dialect):
            raw_rows(database_url, statement)
        raw_rows(database_url, f"INSERT INTO {table} VALUES (1, 'a', NULL)")
    for table, column in (("users", "address_email"), ("users_address", "email")):
        raw_rows(database_url, f"UPDATE {table} SET {column} = 'b'")
        ((stored,),) = raw_rows(database_url, f"SELECT {column}_sealed FROM {table}")
        assert PENDING == bytes(stored)


def test_what_an_old_build_writes_after_a_purge_is_sealed_and_not_lost(second: Build) -> None:
    sign = "x'00'" if "sqlite" in second.url else r"'\x00'"
    second.raw(f"UPDATE riders SET email = NULL, email_sealed = {sign}, email_sealed_ix = NULL WHERE id = 3")
    second.raw("UPDATE riders SET email = NULL WHERE id = 3")
    assert b"\x00" == second.stored()[2]
    old_build_changes(second.url, 3, "again@secret.example")
    assert second.privacy.seal(second.engine, "riders.email").ok
    assert "again@secret.example" == second.emails()[3]


def test_a_concurrent_write_wins(first: Build) -> None:
    changed: list[int] = []

    def other_build(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("UPDATE riders SET email_sealed") and not changed and "sqlite" not in first.url:
            changed.append(3)
            old_build_changes(first.url, 3, "concurrent@secret.example")

    event.listen(first.engine, "before_cursor_execute", other_build)
    run = first.privacy.seal(first.engine, "riders.email")
    assert ([] if "sqlite" in first.url else [3]) == changed  # there the run holds the one write lock
    if changed:
        assert (False, ROWS - 1, 1) == (run.ok, run.done, run.waiting)
        run = first.privacy.seal(first.engine, "riders.email")
    assert run.ok
    assert first.emails() == EXPECTED | dict.fromkeys(changed, "concurrent@secret.example")


def test_finishing_empties_the_old_column_and_only_after_everything_is_sealed(
    second: Build, tmp_path: Path, clock: Clock
) -> None:
    with pytest.raises(MappingError, match="still written to its old column"):
        second.privacy.finish_sealing(second.engine, "riders.email")
    third = finished(second.url, tmp_path, clock)
    old_build_changes(second.url, 3, "late@secret.example")
    run = third.privacy.finish_sealing(third.engine, "riders.email")
    assert (False, 1, 0) == (run.ok, run.waiting, run.done)
    assert [PLANTED.format(1).encode()] == [
        bytes(each, "utf-8") for (each,) in third.raw("SELECT email FROM riders WHERE id = 1")
    ]
    second.privacy.seal(second.engine, "riders.email")
    run = third.privacy.finish_sealing(third.engine, "riders.email")
    assert (True, ROWS) == (run.ok, run.done)
    assert [(None,)] == third.raw("SELECT DISTINCT email FROM riders")
    assert EXPECTED | {3: "late@secret.example"} == third.emails()
    third.add(90, "new@secret.example")
    assert [(None,)] == third.raw("SELECT DISTINCT email FROM riders")


def test_what_an_old_build_leaves_while_the_old_column_is_emptied_stays_and_is_counted(
    second: Build, tmp_path: Path, clock: Clock
) -> None:
    last = finished(second.url, tmp_path, clock)
    dropped: list[int] = []

    def other_build(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("DROP TRIGGER") and not dropped:
            dropped.append(1)
            old_build_changes(second.url, 3, "changed@secret.example")
            old_build_adds(second.url, 90, "late@secret.example")

    event.listen(last.engine, "before_cursor_execute", other_build)
    run = last.privacy.finish_sealing(last.engine, "riders.email")
    assert (False, 2, ROWS - 1, [(3,), (90,)]) == (run.ok, run.waiting, run.done, run.keys)
    left = last.raw("SELECT id, email FROM riders WHERE email IS NOT NULL ORDER BY id")
    assert [(3, "changed@secret.example"), (90, "late@secret.example")] == left


def test_after_the_end_the_marker_has_no_adopting_and_the_column_is_dropped(
    second: Build, tmp_path: Path, clock: Clock
) -> None:
    third = finished(second.url, tmp_path, clock)
    assert third.privacy.finish_sealing(third.engine, "riders.email").ok
    third.raw("ALTER TABLE riders DROP COLUMN email")
    last = build(second.url, tmp_path, clock, None, "email_sealed")
    assert EXPECTED == last.emails()
    assert [3] == last.found(PLANTED.format(3))
    assert [] == last.privacy.adoption(last.engine)
    last.add(90, "new@secret.example")
    waiting = "x'02'" if "sqlite" in last.url else "'\\x02'::bytea"
    last.raw(f"UPDATE riders SET email_sealed = {waiting} WHERE id = 1")
    with pytest.raises(SealedError):
        last.emails()


def test_going_back_writes_the_old_column_from_the_sealed_one(
    second: Build, first: Build, tmp_path: Path, clock: Clock
) -> None:
    third = finished(second.url, tmp_path, clock)
    third.privacy.finish_sealing(third.engine, "riders.email")
    third.change(3, "changed@secret.example")
    third.add(90, "new@secret.example")
    run = second.privacy.unseal(second.engine, "riders.email")
    assert (True, ROWS + 1) == (run.ok, run.done)
    assert EXPECTED | {3: "changed@secret.example", 90: "new@secret.example"} == first.emails()
    with pytest.raises(MappingError, match="read from its old column"):
        first.privacy.unseal(first.engine, "riders.email")


def test_going_back_from_the_last_deploy_takes_away_what_it_emptied(
    second: Build, first: Build, tmp_path: Path, clock: Clock
) -> None:
    last = finished(second.url, tmp_path, clock)
    last.change(3, "changed@secret.example")
    last.change(4, None)
    run = last.privacy.unseal(last.engine, "riders.email")
    assert (True, 2, ROWS) == (run.ok, run.done, run.rows)
    assert first.emails() == EXPECTED | {3: "changed@secret.example", 4: None}
    assert second.emails() == first.emails()


def test_a_killed_run_is_run_again(first: Build, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from tests.sqlalchemy.adopter import dual
from tests.sqlalchemy.rides import Clock
made = dual({first.url!r}, Path({str(tmp_path)!r}), Clock())
seen = []
def kill(connection):
    seen.append(connection)
    if len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
event.listen(made.engine, "commit", kill)
made.privacy.seal(made.engine, "riders.email", batch=5)
"""
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=os.environ | {"PYTHONPATH": "src:."}
    )
    assert -signal.SIGKILL == killed.returncode
    waiting = counts(first)[2]
    assert 0 < waiting <= ROWS
    run = first.privacy.seal(first.engine, "riders.email", batch=5)
    assert (True, waiting) == (run.ok, run.done)
    first.privacy.verify_ledger(first.engine)


def test_an_upsert_of_an_adopted_field_is_refused(first: Build) -> None:
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = sqlite if "sqlite" in first.url else postgresql
    statement = dialect.insert(first.model.__table__)
    statement = statement.on_conflict_do_update(index_elements=["id"], set_={"email": statement.excluded.email})
    with first.purpose(), first.engine.begin() as connection, pytest.raises(StatementRefused, match="adopted"):
        connection.execute(statement, {"id": 3, "email": "x@secret.example"})
    assert EXPECTED == first.emails()


def test_a_purge_empties_both_columns(second: Build, clock: Clock) -> None:
    second.raw("UPDATE riders SET closed_at = '2026-01-01 00:00:00' WHERE id <= 5")
    clock.now = datetime(2026, 3, 1, tzinfo=UTC)
    run = second.privacy.purge(second.engine, second.privacy.plan(second.engine))
    assert run.ok
    assert [(None, None, None)] == second.raw(
        "SELECT DISTINCT email, email_sealed, email_sealed_ix FROM riders WHERE id <= 5"
    )
    assert (5, ROWS - 5, 0) == counts(second)


def test_what_cannot_be_adopted_is_refused_when_it_is_mapped(tmp_path: Path, clock: Clock) -> None:
    url = "sqlite://"
    key = lambda: "secret"  # noqa: E731
    with pytest.raises(MappingError, match="residue"):
        dual(url, tmp_path, clock, then=Pseudonymise("email"))
    with pytest.raises(MappingError, match="ciphertext"):
        build(url, tmp_path, clock, Adopting(SqlalchemyUtils(key), beside="email_sealed", phase="dual"))
    with pytest.raises(MappingError, match="in place"):
        build(url, tmp_path, clock, Adopting(SqlalchemyUtils(key)))
    with pytest.raises(MappingError, match="cannot be read where"):
        sealed(url, tmp_path, clock, until=UNTIL, kind=Backwards())
    with pytest.raises(MappingError, match="maps 'closed_at' already"):
        build(url, tmp_path, clock, Adopting(Plain(), beside="closed_at", phase="dual"))


def test_a_name_that_nothing_adopted_has_is_refused(first: Build) -> None:
    with pytest.raises(MappingError, match=r"riders\.email"):
        first.privacy.seal(first.engine, "riders.name")


def test_the_coverage_report_counts_what_is_not_sealed_yet(first: Build) -> None:
    waiting = [each for each in first.privacy.check(first.engine) if each.code == "PK826"]
    assert [f"riders.email_sealed holds {ROWS} unsealed values among {ROWS}."] == [each.what for each in waiting]
    assert "privkit seal riders.email" in waiting[0].fix
    first.privacy.seal(first.engine, "riders.email")
    assert [] == [each for each in first.privacy.check(first.engine) if each.code in ("PK825", "PK826")]


def test_a13_a_column_that_is_too_narrow_for_an_envelope_is_a_finding(
    database_url: str, tmp_path: Path, clock: Clock
) -> None:
    made = build(database_url, tmp_path, clock, None, "email_sealed", search=None)
    made.model.metadata.create_all(made.engine)
    assert [] == [each for each in made.privacy.check(made.engine) if each.code == "PK833"]
    made.raw("DROP TABLE riders")
    lite = "sqlite" in made.url
    columns = "email_sealed VARBINARY(50), privkit_key BLOB" if lite else "email_sealed VARCHAR(50), privkit_key BYTEA"
    made.raw(f"CREATE TABLE riders (id INTEGER PRIMARY KEY, {columns}, closed_at TIMESTAMP)")
    (narrow,) = [each for each in made.privacy.check(made.engine) if each.code == "PK833"]
    assert "riders.email_sealed" == narrow.where
    assert "is 50 wide in the database, and an envelope of its longest value has 54 bytes." in narrow.what
