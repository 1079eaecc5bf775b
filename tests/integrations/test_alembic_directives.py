"""Each directive on tables that hold rows: what it adds, what it refuses with a count, and the way back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from privkit import FileKeyring
from privkit.errors import MigrationError
from tests.databases import raw_rows
from tests.integrations.alembic_project import Project, adopting_service, plain_service, sealed_service

BEFORE, BETWEEN, AFTER = "before@rides.example", "between@rides.example", "after@rides.example"


@pytest.fixture
def project(tmp_path: Path, database_url: str) -> Project:
    """The service before privkit, with one rider and her trip."""
    found = Project(tmp_path / "migrations", database_url)
    FileKeyring.create(found.keys.path)
    found.release(plain_service(), protected=False)
    found.generate("one")
    found.upgrade()
    raw_rows(database_url, f"INSERT INTO riders (id, email) VALUES (1, '{BEFORE}')")
    raw_rows(database_url, "INSERT INTO trips (id, rider_id) VALUES (1, 1)")
    return found


@contextmanager
def running(project: Project, phase: str | None) -> Iterator[tuple[Engine, Any]]:
    """Deploy a release and use its protected engine."""
    base = adopting_service(phase)
    project.release(base)
    assert project.privacy is not None
    engine = create_engine(project.url)
    project.privacy.protect(engine)
    try:
        yield engine, base.Rider
    finally:
        engine.dispose()


def store(project: Project, engine: Engine, rider: Any, number: int, email: str) -> None:
    assert project.privacy is not None
    with project.privacy.purpose("care"), Session(engine) as session:
        session.add(rider(id=number, email=email))
        session.commit()


def emails(project: Project, engine: Engine, rider: Any) -> list[str]:
    assert project.privacy is not None
    with project.privacy.purpose("care"), Session(engine) as session:
        return list(session.scalars(select(rider.email).order_by(rider.id)))


def adopt(project: Project) -> None:
    """Bring the service to where its e-mail addresses are sealed, its old column is empty and both still exist."""
    for phase, revision, rows in (
        ("dual", "two", [(2, BETWEEN)]),
        ("sealed", "three", [(3, AFTER)]),
        ("finished", "", []),
    ):
        with running(project, phase) as (engine, rider):
            assert project.privacy is not None
            if revision:
                project.generate(revision)
                project.upgrade()
            for number, email in rows:
                store(project, engine, rider, number, email)
            if phase == "dual":
                assert project.privacy.seal(engine, "riders.email").ok
            if phase == "finished":
                assert project.privacy.finish_sealing(engine, "riders.email").ok


def test_rows_from_before_between_and_after_survive_the_way_up(project: Project) -> None:
    adopt(project)
    with running(project, None) as (engine, rider):
        project.generate("four")
        project.upgrade()
        store(project, engine, rider, 4, "late@rides.example")
        assert [BEFORE, BETWEEN, AFTER, "late@rides.example"] == emails(project, engine, rider)
        assert [] == project.difference()
    assert [(1,)] == raw_rows(project.url, "SELECT count(*) FROM trips")
    assert {"id", "closed_at", "email_sealed", "email_sealed_ix", "privkit_key"} == columns(project)


def test_and_the_way_down(project: Project) -> None:
    adopt(project)
    with running(project, None):
        project.generate("four")
        project.upgrade()
        project.downgrade("three")
    with running(project, "sealed") as (engine, rider):
        assert [BEFORE, BETWEEN, AFTER] == emails(project, engine, rider)
        with pytest.raises(MigrationError):
            project.downgrade("one")
        assert project.privacy is not None
        assert project.privacy.unseal(engine, "riders.email").ok
        assert [] == project.difference()
    assert [(BEFORE,), (BETWEEN,), (AFTER,)] == raw_rows(project.url, "SELECT email FROM riders ORDER BY id")
    for table in ("privkit_key", "privkit_ledger"):
        raw_rows(project.url, f"DELETE FROM {table}")
    raw_rows(project.url, "UPDATE riders SET privkit_key = NULL")
    project.downgrade("one")
    assert {"id", "email", "closed_at"} == columns(project)
    raw_rows(project.url, "UPDATE riders SET email = lower(email)")  # nothing watches any more
    assert [(BEFORE,), (BETWEEN,), (AFTER,)] == raw_rows(project.url, "SELECT email FROM riders ORDER BY id")
    assert [(1,)] == raw_rows(project.url, "SELECT count(*) FROM trips")


def columns(project: Project) -> set[str]:
    engine = create_engine(project.url)
    found = {each["name"] for each in inspect(engine).get_columns("riders")}
    engine.dispose()
    return found


def test_the_old_column_is_watched_after_the_migration_alone(project: Project) -> None:
    with running(project, "dual") as (engine, rider):
        project.generate("two")
        project.upgrade()
        store(project, engine, rider, 2, BETWEEN)
        assert project.privacy is not None
        assert project.privacy.seal(engine, "riders.email").ok
        raw_rows(project.url, "UPDATE riders SET email = 'old.build@rides.example' WHERE id = 2")
        assert 1 == project.privacy.adoption(engine)[0].waiting


def test_an_old_column_that_still_holds_values_is_not_dropped(project: Project) -> None:
    with running(project, "dual") as (engine, rider):
        project.generate("two")
        project.upgrade()
        store(project, engine, rider, 2, BETWEEN)
    with running(project, None):
        project.write("three", "op.drop_plain_column('riders', 'email', sealed='email_sealed')")
        with pytest.raises(MigrationError) as refused:
            project.upgrade()
    assert {"table": "riders", "column": "email", "rows": 2, "lost": 1} == refused.value.data
    assert BEFORE not in str(refused.value)
    assert [(BEFORE,), (BETWEEN,)] == raw_rows(project.url, "SELECT email FROM riders ORDER BY id")


def test_a_column_is_not_closed_while_a_value_waits(project: Project) -> None:
    with running(project, "dual"):
        project.generate("two")
        project.upgrade()
    with running(project, None):
        project.generate("three")
        with pytest.raises(MigrationError) as refused:
            project.upgrade()
    assert 1 == refused.value.data["rows"]


@pytest.mark.parametrize(
    ("directive", "rows"),
    [
        ("op.drop_sealed_column('riders', 'email_sealed', beside='email', search=True)", 3),
        ("op.drop_sealed_column('riders', 'email_sealed', search=True)", 3),
        ("op.drop_key_column('riders')", 3),
        ("op.drop_privkit_tables('privkit_key')", 3),
    ],
)
def test_what_would_lose_values_is_refused_with_a_count(project: Project, directive: str, rows: int) -> None:
    adopt(project)
    with running(project, "finished") as (engine, rider):
        project.write("four", directive)
        with pytest.raises(MigrationError) as refused:
            project.upgrade()
        assert rows == refused.value.data["rows"]
        assert [BEFORE, BETWEEN, AFTER] == emails(project, engine, rider)


def test_plain_text_cannot_get_in_between_the_steps(project: Project) -> None:
    project.release(sealed_service())
    project.write("two", "op.add_sealed_column('riders', 'email_sealed')")
    project.upgrade()
    with pytest.raises(Exception, match="privkit_riders_email_sealed_sealed"):
        raw_rows(project.url, "UPDATE riders SET email_sealed = 'x'")


def test_a_check_is_not_added_or_proven_over_plain_text(project: Project) -> None:
    project.write("two", "op.add_column('riders', sa.Column('bin', sa.LargeBinary()))")
    project.upgrade()
    raw_rows(project.url, f"UPDATE riders SET bin = {'CAST(email AS BLOB)' if lite(project) else 'email::bytea'}")
    project.write("three", "op.add_envelope_check('riders', 'bin'); op.validate_envelope_check('riders', 'bin')")
    with pytest.raises(MigrationError) as refused:
        project.upgrade()
    assert {"table": "riders", "column": "bin", "rows": 1} == refused.value.data
    raw_rows(project.url, "UPDATE riders SET bin = NULL")
    project.upgrade()


def lite(project: Project) -> bool:
    return project.url.startswith("sqlite")


def test_a_column_of_another_type_is_not_taken_for_the_sealed_one(project: Project) -> None:
    project.write("two", "op.add_sealed_column('riders', 'email')")
    with pytest.raises(MigrationError, match="no binary one"):
        project.upgrade()


def test_a_migration_that_broke_off_goes_on_where_it_was(project: Project) -> None:
    adding = "op.add_sealed_column('riders', 'e', search=True); op.add_key_column('riders')"
    project.write(
        "two", f"{adding}; op.add_search_index('riders', 'e'); op.get_bind().exec_driver_sql('SELECT * FROM nowhere')"
    )
    with pytest.raises(Exception, match="nowhere"):
        project.upgrade()
    path = next((project.folder / "versions").glob("two_*.py"))
    path.write_text(path.read_text().replace("; op.get_bind().exec_driver_sql('SELECT * FROM nowhere')", ""))
    project.upgrade()
    assert {"id", "email", "closed_at", "e", "e_ix", "privkit_key"} == columns(project)
    assert {"ix_riders_privkit_key", "ix_riders_e_ix"} == indexes(project)


def indexes(project: Project) -> set[str | None]:
    engine = create_engine(project.url)
    found = {each["name"] for each in inspect(engine).get_indexes("riders")}
    engine.dispose()
    return found


def test_own_tables_are_made_once_and_dropped_while_empty(project: Project) -> None:
    project.write("two", "op.create_privkit_tables(); op.create_privkit_tables()", "op.drop_privkit_tables()")
    project.upgrade()
    project.downgrade("one")
    project.upgrade()


def test_a_protected_engine_can_migrate(project: Project) -> None:
    adopt(project)
    with running(project, None):
        env = project.folder / "env.py"
        made = "poolclass=pool.NullPool)\n"
        env.write_text(env.read_text().replace(made, made + "    privacy.protect(engine)\n"))
        project.generate("four")
        project.upgrade()
        project.downgrade("three")
    assert "email" in columns(project)


def test_offline_the_sql_is_written_and_nothing_is_asked(project: Project) -> None:
    project.release(sealed_service())
    project.write(
        "two",
        "op.create_privkit_tables(); op.add_key_column('riders'); op.add_sealed_column('riders', 'e', search=True); "
        "op.add_search_index('riders', 'e')",
    )
    sql = project.offline("one:two")
    assert "CREATE TABLE privkit_key" in sql
    assert "CONSTRAINT privkit_riders_e_sealed CHECK" in sql
    assert "no-keys-here" not in sql
    assert "SELECT" not in sql


def test_names_that_have_to_be_quoted_are(project: Project) -> None:
    raw_rows(project.url, 'CREATE TABLE "My Riders" ("Id" INTEGER PRIMARY KEY, "e-mail" VARCHAR, "100%" VARCHAR)')
    raw_rows(project.url, """INSERT INTO "My Riders" VALUES (1, 'before@rides.example', NULL)""")
    adding = """op.add_sealed_column("My Riders", "Se aled", beside="e-mail", search=True)"""
    dropping = """op.drop_sealed_column("My Riders", "Se aled", beside="e-mail", search=True)"""
    project.write("two", adding, dropping)
    project.write("three", """op.add_search_index("My Riders", "Se aled"); op.add_key_column("My Riders")""")
    project.write("four", """op.validate_envelope_check("My Riders", "Se aled")""")
    project.write("five", """op.drop_plain_column("My Riders", "100%", sealed="Se aled")""")
    project.upgrade()
    raw_rows(project.url, """UPDATE "My Riders" SET "e-mail" = 'after@rides.example'""")
    project.downgrade("one")
    assert [(1, "after@rides.example")] == raw_rows(project.url, 'SELECT "Id", "e-mail" FROM "My Riders"')


def test_what_is_watched_may_be_of_a_type_without_equality(project: Project) -> None:
    raw_rows(project.url, "ALTER TABLE riders ADD COLUMN extra JSON")
    project.write("two", "op.add_sealed_column('riders', 'extra_sealed', beside='extra')")
    project.upgrade()
    raw_rows(project.url, """UPDATE riders SET extra = '{"a": 1}'""")
    assert [(1,)] == raw_rows(project.url, "SELECT count(*) FROM riders WHERE extra_sealed IS NOT NULL")


# One database alone has these.


@pytest.fixture
def on_sqlite(tmp_path: Path, sqlite_url: str) -> Project:
    return _small(Project(tmp_path / "migrations", sqlite_url))


@pytest.fixture
def on_postgresql(tmp_path: Path, pg_url: str) -> Project:
    return _small(Project(tmp_path / "migrations", pg_url))


def _small(project: Project) -> Project:
    project.release(plain_service(), protected=False)
    project.generate("one")
    project.upgrade()
    raw_rows(project.url, f"INSERT INTO riders (id, email) VALUES (1, '{BEFORE}')")
    raw_rows(project.url, "INSERT INTO trips (id, rider_id) VALUES (1, 1)")
    return project


def test_sqlite_does_not_copy_a_table_whose_rows_others_refer_to(on_sqlite: Project) -> None:
    on_sqlite.write("two", "op.add_column('riders', sa.Column('bin', sa.LargeBinary()))")
    on_sqlite.write("three", "op.add_envelope_check('riders', 'bin')")
    on_sqlite.prepare = lambda connection: connection.connection.driver_connection.execute("PRAGMA foreign_keys = ON")
    with pytest.raises(MigrationError, match="foreign keys are enforced"):
        on_sqlite.upgrade()
    assert [(1,)] == raw_rows(on_sqlite.url, "SELECT count(*) FROM trips")


def test_sqlite_keeps_triggers_when_it_copies_a_table(on_sqlite: Project) -> None:
    raw_rows(on_sqlite.url, "CREATE TRIGGER mine AFTER DELETE ON riders BEGIN SELECT 1; END")
    on_sqlite.write("two", "op.add_column('riders', sa.Column('bin', sa.LargeBinary()))")
    on_sqlite.write("three", "op.add_envelope_check('riders', 'bin')", "op.drop_envelope_check('riders', 'bin')")
    on_sqlite.upgrade()
    on_sqlite.downgrade("two")
    assert [("mine",)] == raw_rows(on_sqlite.url, "SELECT name FROM sqlite_master WHERE type = 'trigger'")


def test_sqlite_keeps_a_check_when_alembic_copies_the_table(on_sqlite: Project) -> None:
    on_sqlite.write("two", "op.add_sealed_column('riders', 'e')")
    on_sqlite.write(
        "three", "\n    ".join(["with op.batch_alter_table('riders') as batch:", "    batch.drop_column('closed_at')"])
    )
    on_sqlite.upgrade()
    with pytest.raises(Exception, match="privkit_riders_e_sealed"):
        raw_rows(on_sqlite.url, "UPDATE riders SET e = 'x'")


def test_postgresql_adds_the_check_without_reading_the_table_and_proves_it_later(on_postgresql: Project) -> None:
    on_postgresql.write("two", "op.add_sealed_column('riders', 'e')")
    on_postgresql.upgrade()
    proven = "SELECT convalidated FROM pg_constraint WHERE conname = 'privkit_riders_e_sealed'"
    assert [(False,)] == raw_rows(on_postgresql.url, proven)
    on_postgresql.write("three", "op.validate_envelope_check('riders', 'e')")
    on_postgresql.upgrade()
    assert [(True,)] == raw_rows(on_postgresql.url, proven)


def test_postgresql_builds_an_index_anew_that_had_broken_off(on_postgresql: Project) -> None:
    on_postgresql.write("two", "op.add_sealed_column('riders', 'e', search=True)")
    on_postgresql.upgrade()
    raw_rows(on_postgresql.url, "INSERT INTO riders (id, e_ix) VALUES (2, 'a'), (3, 'a')")
    on_postgresql.write("three", "op.add_search_index('riders', 'e', unique=True)")
    with pytest.raises(IntegrityError):
        on_postgresql.upgrade()
    valid = "SELECT indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relname = 'ix_riders_e_ix'"
    assert [(False,)] == raw_rows(on_postgresql.url, valid)
    raw_rows(on_postgresql.url, "DELETE FROM riders WHERE id = 3")
    on_postgresql.upgrade()
    assert [(True,)] == raw_rows(on_postgresql.url, valid)


def test_postgresql_does_not_build_concurrently_in_a_transaction_of_env_py(on_postgresql: Project) -> None:
    on_postgresql.write("two", "op.add_key_column('riders')")
    on_postgresql.prepare = lambda connection: connection.execute(text("SELECT 1"))
    with pytest.raises(MigrationError, match="began one itself"):
        on_postgresql.upgrade()


def test_postgresql_can_build_inside_a_transaction_where_it_is_told_to(on_postgresql: Project) -> None:
    on_postgresql.write("two", "op.add_key_column('riders', concurrently=False)")
    on_postgresql.upgrade()
    assert {"ix_riders_privkit_key"} == indexes(on_postgresql)


def test_postgresql_has_tables_in_other_schemas(on_postgresql: Project) -> None:
    raw_rows(on_postgresql.url, 'CREATE SCHEMA "Rides"')
    raw_rows(on_postgresql.url, 'CREATE TABLE "Rides".riders (id INTEGER PRIMARY KEY, email VARCHAR)')
    raw_rows(on_postgresql.url, f"""INSERT INTO "Rides".riders VALUES (1, '{BEFORE}')""")
    steps = [
        "op.add_sealed_column('riders', 'e', beside='email', search=True, schema='Rides')",
        "op.add_key_column('riders', schema='Rides')",
        "op.add_search_index('riders', 'e', schema='Rides')",
        "op.validate_envelope_check('riders', 'e', schema='Rides')",
        "op.create_privkit_tables(schema='Rides')",
    ]
    back = [
        "op.drop_privkit_tables(schema='Rides')",
        "op.drop_search_index('riders', 'e', schema='Rides')",
        "op.drop_key_column('riders', schema='Rides')",
        "op.drop_sealed_column('riders', 'e', beside='email', search=True, schema='Rides')",
    ]
    on_postgresql.write("two", "; ".join(steps), "; ".join(back))
    on_postgresql.upgrade()
    on_postgresql.downgrade("one")
    assert [(1, BEFORE)] == raw_rows(on_postgresql.url, 'SELECT * FROM "Rides".riders')
