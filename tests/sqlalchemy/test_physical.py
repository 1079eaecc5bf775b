"""What is left in files of what was destroyed: raw bytes, looked for under every name that the database has."""

import re
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from privkit import Privacy
from privkit.retention import Run
from privkit.sqlalchemy.physical import Physical, state
from tests.databases import raw_rows
from tests.sqlalchemy.phones import COUNT, NOW, PLANTED, POLICY, planted, store


def left(folder: Path) -> int:
    """How many planted texts lie in the files of a SQLite database: the file, its journal, its log."""
    return sum(path.read_bytes().count(PLANTED.encode()) for path in folder.glob("test.sqlite*"))


def purge(engine: Engine, privacy: Privacy, *, vacuum: bool = False) -> Run:
    plan = privacy.plan(engine)
    return privacy.purge(engine, plan, yes_this_many=plan.due, vacuum=vacuum)


def forgetful(url: str) -> None:
    """Empty the same columns as a program that does not tell SQLite to overwrite, as many builds do not."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("UPDATE contacts SET phone = NULL")


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST", "WAL"])
def test_after_a_purge_with_vacuum_no_file_of_sqlite_holds_a_planted_value(
    sqlite_url: str, tmp_path: Path, mode: str
) -> None:
    with planted(sqlite_url, tmp_path) as (engine, privacy):

        @event.listens_for(engine, "connect")
        def connect(connection: sqlite3.Connection, _: object) -> None:
            connection.execute(f"PRAGMA journal_mode = {mode}")

        engine.dispose()
        assert COUNT * 3 <= left(tmp_path)
        run = purge(engine, privacy, vacuum=True)

        assert (0, 0) == (run.overdue, left(tmp_path))
        assert run.physically is not None
        assert (NOW, NOW + timedelta(days=35)) == (run.physically.rewritten, run.physically.by)
        assert "logically gone at 2026-01-01 00:00:00 UTC, physically by 2026-02-05 00:00 UTC" == str(run.physically)


def test_without_the_library_the_values_stay_in_the_file(sqlite_url: str, tmp_path: Path) -> None:
    with planted(sqlite_url, tmp_path):
        forgetful(sqlite_url)

        assert [(0,)] == raw_rows(sqlite_url, "SELECT count(phone) FROM contacts")
        assert COUNT < left(tmp_path)


def test_a_purge_overwrites_what_it_frees_though_the_application_said_otherwise(
    sqlite_url: str, tmp_path: Path
) -> None:
    with planted(sqlite_url, tmp_path) as (engine, privacy):

        @event.listens_for(engine, "connect")
        def connect(connection: sqlite3.Connection, _: object) -> None:
            connection.execute("PRAGMA secure_delete = OFF")

        engine.dispose()
        run = purge(engine, privacy)

        assert left(tmp_path) < COUNT * 3 // 20
        assert run.physically is not None
        assert run.physically.by is None
        assert str(run.physically).endswith("physically P35D after the file is written anew (privkit purge --vacuum)")


async def test_asynchronous_connections_overwrite_too(sqlite_url: str, tmp_path: Path) -> None:
    with planted(sqlite_url, tmp_path) as (_, privacy):
        engine = create_async_engine(sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))

        @event.listens_for(engine.sync_engine, "connect")
        def connect(connection: sqlite3.Connection, _: object) -> None:
            connection.cursor().execute("PRAGMA secure_delete = OFF")

        privacy.protect(engine)
        async with engine.connect() as connection:
            with privacy.unchecked("a setting of the connection"):
                assert 1 == (await connection.execute(text("PRAGMA secure_delete"))).scalar()
        await engine.dispose()


def test_a_log_that_another_connection_still_reads_is_said_to_hold_old_pages(sqlite_url: str, tmp_path: Path) -> None:
    raw_rows(sqlite_url, "PRAGMA journal_mode = WAL")
    with planted(sqlite_url, tmp_path) as (engine, privacy):
        reader = sqlite3.connect(tmp_path / "test.sqlite", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM contacts").fetchall()

        @event.listens_for(engine, "engine_connect")
        def impatient(connection: object) -> None:
            connection.connection.execute("PRAGMA busy_timeout = 50")  # type: ignore[attr-defined]

        run = purge(engine, privacy, vacuum=True)
        reader.close()

        assert (0, True) == (run.overdue, run.ok)
        assert run.physically is not None
        assert run.physically.rewritten is None
        assert "another connection reads them" in run.physically.notes[0]
        assert 0 < left(tmp_path)


def test_a_vacuum_that_fails_is_told_and_the_run_stays_green(sqlite_url: str, tmp_path: Path) -> None:
    with planted(sqlite_url, tmp_path) as (engine, privacy):

        @event.listens_for(engine, "before_cursor_execute")
        def full(connection: object, cursor: object, statement: str, *_: object) -> None:
            if statement == "VACUUM":
                raw = connection.connection  # type: ignore[attr-defined]
                raw.execute("PRAGMA busy_timeout = 50")
                blocker.execute("BEGIN IMMEDIATE")

        blocker = sqlite3.connect(tmp_path / "test.sqlite", isolation_level=None)
        run = purge(engine, privacy, vacuum=True)
        blocker.close()

        assert run.ok
        assert run.physically is not None
        assert ("the database did not finish it: OperationalError; run it again",) == run.physically.notes
        assert run.physically.by is None


def test_without_a_period_for_backups_no_instant_is_promised(sqlite_url: str, tmp_path: Path) -> None:
    with planted(sqlite_url, tmp_path, POLICY) as (engine, privacy):
        run = purge(engine, privacy, vacuum=True)

        assert run.physically is not None
        assert (NOW, None) == (run.physically.rewritten, run.physically.by)
        assert "the policy does not say when: backups: P35D" in str(run.physically)


def test_a_run_that_destroys_nothing_says_nothing_of_disks(sqlite_url: str, tmp_path: Path) -> None:
    with planted(sqlite_url, tmp_path) as (engine, privacy):
        purge(engine, privacy)
        assert purge(engine, privacy, vacuum=True).physically is None


def test_what_was_done_to_the_files_is_in_the_ledger_and_known_later(sqlite_url: str, tmp_path: Path) -> None:
    with planted(sqlite_url, tmp_path) as (engine, privacy):
        assert _state(engine, privacy) is None
        purge(engine, privacy)
        before = _state(engine, privacy)
        store(engine, privacy, range(1000, 1001))
        purge(engine, privacy, vacuum=True)
        after = _state(engine, privacy)

    assert before is not None
    assert after is not None
    assert (None, NOW, NOW) == (before.rewritten, before.logically, after.rewritten)
    lines = raw_rows(sqlite_url, "SELECT body FROM privkit_ledger WHERE kind = 'vacuumed'")
    assert [('{"rewritten":true,"tables":["contacts"]}',)] == lines


def _state(engine: Engine, privacy: Privacy) -> Physical | None:
    with engine.connect() as connection:
        return state(privacy.guard, connection)


# PostgreSQL


def in_heap(url: str) -> int:
    """How many planted values lie in the file of the table."""
    raw_rows(url, "CHECKPOINT")
    ((folder, path),) = raw_rows(url, "SELECT current_setting('data_directory'), pg_relation_filepath('contacts')")
    return Path(folder, path).read_bytes().count(PLANTED.encode())


def test_on_postgresql_vacuum_frees_the_space_and_only_a_rewrite_takes_the_bytes(pg_url: str, tmp_path: Path) -> None:
    """What the line says rests on this: VACUUM alone promises nothing about the disk."""
    with planted(pg_url, tmp_path) as (engine, privacy):
        raw_rows(pg_url, "ALTER TABLE contacts SET (autovacuum_enabled = false)")
        plain = purge(engine, privacy)
        assert plain.physically is not None
        (note,) = plain.physically.notes
        assert re.fullmatch(r"contacts: about \d{3} dead rows, never vacuumed; VACUUM contacts frees their space", note)
        assert str(plain.physically).endswith("physically P35D after VACUUM FULL of contacts")

        store(engine, privacy, range(1000, 1001))
        vacuumed = purge(engine, privacy, vacuum=True)
        assert vacuumed.physically is not None
        assert (None, ()) == (vacuumed.physically.by, vacuumed.physically.notes)
        ((dead, when),) = raw_rows(
            pg_url, "SELECT n_dead_tup, last_vacuum FROM pg_stat_user_tables WHERE relname = 'contacts'"
        )
        assert 0 == dead
        assert when is not None
        assert 0 < in_heap(pg_url)

        raw_rows(pg_url, "VACUUM FULL contacts")
        assert 0 == in_heap(pg_url)


def test_a_table_that_the_account_may_not_vacuum_is_named(pg_url: str, tmp_path: Path) -> None:
    with planted(pg_url, tmp_path) as (_, privacy):
        raw_rows(pg_url, "CREATE ROLE purger LOGIN")
        raw_rows(pg_url, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO purger")
        try:
            limited = create_engine(pg_url.replace("postgres@", "purger@"))
            run = purge(limited, privacy, vacuum=True)
            limited.dispose()
        finally:
            raw_rows(pg_url, "DROP OWNED BY purger")
            raw_rows(pg_url, "DROP ROLE purger")

        assert run.ok
        assert run.physically is not None
        assert "contacts: was not vacuumed; it is locked, or this account may not" in run.physically.notes[0]
