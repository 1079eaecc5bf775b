"""Where the commands find the application and its database, and what they say when they do not."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.program import PASSWORD, Ended, Project, assert_silent, clean_environment


def refused(ended: Ended) -> str:
    """What a command said that could not run: all of it, and nothing else, on stderr."""
    assert (2, "") == (ended.code, ended.out)
    assert ended.err.startswith("PK901: ")
    return ended.err


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_options_come_before_the_environment_and_that_before_pyproject(project: Project) -> None:
    (project.folder / "empty.sqlite").touch()
    wrong = {"PRIVKIT_APP": "nothing:here", "PRIVKIT_URL": "sqlite:///nothing.sqlite"}
    assert project.run("status").out.endswith("overdue: 110\n")
    assert "nothing" in refused(project.run("status", **wrong))
    given = ("--app", "rides:privacy", "--url", "sqlite:///rides.sqlite")
    assert project.run("status", *given, **wrong).out.endswith("overdue: 110\n")


def test_pyproject_is_found_from_a_folder_below_and_its_application_imported_from_there(project: Project) -> None:
    (project.folder / "below" / "deeper").mkdir(parents=True)
    project.edit("rides.py", '"policy.yaml"', f'"{project.folder}/policy.yaml"')
    assert project.run("status", "--url", project.url, cwd="below/deeper").out.endswith("overdue: 110\n")


def test_no_application_is_an_error_with_the_three_ways_to_name_one(project: Project) -> None:
    (project.folder / "pyproject.toml").write_text("")
    said = refused(project.run("status"))
    assert "No application was named." in said
    assert "--app rides.models:privacy" in said
    assert "[tool.privkit]" in said


@pytest.mark.parametrize("app", ["rides.py", "rides:", ".rides:privacy", "rides:privacy()"])
def test_a_target_of_another_form_is_refused(project: Project, app: str) -> None:
    assert "--app is not of the form module:name." in refused(project.run("status", "--app", app))


@pytest.mark.parametrize(
    ("source", "app", "reason"),
    [
        (None, "ridez:privacy", "ridez cannot be imported: there is no module 'ridez'"),
        ("import pandaz", "broken:privacy", "broken cannot be imported: there is no module 'pandaz'"),
        ("from json import nothing", "broken:privacy", "ImportError in "),
        ("def (", "broken:privacy", "SyntaxError in "),
        ("\n\nraise ValueError('Planted 1')", "broken:privacy", "broken.py, line 3"),
        ("raise SystemExit(0)", "broken:privacy", "SystemExit in "),
        ("raise SystemExit('Planted 1')", "broken:privacy", "SystemExit in "),
        ("privacy = 1", "broken:private", "broken has no 'private'."),
        ("privacy = 'Planted 1'", "broken:privacy", "broken:privacy is of type str, not Privacy."),
    ],
)
def test_an_application_that_does_not_come_says_why_and_shows_no_value(
    project: Project, source: str | None, app: str, reason: str
) -> None:
    if source is not None:
        (project.folder / "broken.py").write_text(source)
    assert reason in refused(project.run("status", "--app", app))


def test_an_error_of_privkit_s_own_at_import_is_shown_whole(project: Project) -> None:
    project.edit("policy.yaml", "legal_basis: contract", "legal_basis: contractt")
    ended = project.run("status")
    assert (2, "") == (ended.code, ended.out)
    assert "PK101" in ended.err
    assert "policy.yaml" in ended.err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f"[tool.privkit\nurl = 'postgresql://rider:{PASSWORD}@host/rides'", "cannot be read as TOML"),
        ("[tool]\nprivkit = 'rides'", "is not a table"),
        ("[tool.privkit]\napp = 7", "is not a text"),
    ],
)
def test_a_pyproject_that_cannot_be_used_is_named(project: Project, content: str, reason: str) -> None:
    (project.folder / "pyproject.toml").write_text(content)
    said = refused(project.run("status"))
    assert "pyproject.toml" in said
    assert reason in said


def test_no_database_is_an_error_with_the_three_ways_to_name_one(project: Project) -> None:
    project.edit("pyproject.toml", 'url = "sqlite:///rides.sqlite"\n', "")
    said = refused(project.run("status"))
    assert "No database was named." in said
    assert all(way in said for way in ("--url", "PRIVKIT_URL", "[tool.privkit] url"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("rides.sqlite", "cannot be used (ArgumentError)"),
        (f"nosuch://rider:{PASSWORD}@host/rides", "cannot be used (NoSuchModuleError)"),
        (f"postgresql+psycopg://rider:x@host:{PASSWORD}/rides", "cannot be used (ValueError)"),
        (f"oracle+cx_oracle://rider:{PASSWORD}@host/rides", "cannot be used (ModuleNotFoundError)"),
        (f"postgresql+asyncpg://rider:{PASSWORD}@host/rides", "names an asynchronous driver (asyncpg)"),
        ("sqlite:///mistyped.sqlite", "There is no database file at mistyped.sqlite."),
        ("sqlite://", "There is no database file at the empty path."),
    ],
)
def test_a_url_that_cannot_be_used_is_named_by_where_it_was_given(project: Project, url: str, reason: str) -> None:
    said = refused(project.run("status", PRIVKIT_URL=url))
    assert reason in said
    assert "PRIVKIT_URL" in said
    assert not (project.folder / "mistyped.sqlite").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", f"postgresql://rider:{PASSWORD}@host/rides"),
        ("status", f"--ur=postgresql://rider:{PASSWORD}@host/rides"),
        (f"postgresql://rider:{PASSWORD}@host/rides",),
        ("purge", "--batch", f"postgresql://rider:{PASSWORD}@host/rides"),
    ],
)
def test_a_url_in_the_wrong_place_is_not_repeated(project: Project, arguments: tuple[str, ...]) -> None:
    assert "There is a URL that does not follow --url." in refused(project.run(*arguments))


@pytest.mark.parametrize("command", [("status",), ("check",), ("ledger", "verify")])
def test_a_database_that_does_not_answer_is_said_to_be_so(
    project: Project, closed_port: int, command: tuple[str, ...]
) -> None:
    url = f"postgresql+psycopg://rider:{PASSWORD}@127.0.0.1:{closed_port}/rides"
    said = refused(project.run(*command, "--url", url))
    assert "The database of --url does not answer (postgresql, OperationalError)." in said
    assert str(closed_port) not in said


def test_an_account_that_is_not_there_is_not_shown(project: Project, pg_url: str) -> None:
    url = pg_url.replace("postgres@", f"planted:{PASSWORD}@")
    assert "does not answer (postgresql, OperationalError)" in refused(project.run("status", "--url", url))


def test_a_file_that_is_no_database_is_said_to_be_so(project: Project) -> None:
    (project.folder / "rides.sqlite").write_text("Planted 1, planted1@secret.example" * 100)
    assert "does not answer (sqlite, DatabaseError)" in refused(project.run("status"))


@pytest.mark.parametrize("command", [("status",), ("ledger", "verify")])
def test_tables_that_were_not_made_yet_are_named(project: Project, command: tuple[str, ...]) -> None:
    (project.folder / "empty.sqlite").touch()
    said = refused(project.run(*command, "--url", "sqlite:///empty.sqlite"))
    assert "The database of --url lacks tables: " in said
    assert all(name in said for name in ("privkit_ledger", "riders", "trips"))
    assert "Base.metadata.create_all(engine)" in said


def test_tables_that_were_not_made_yet_are_findings_of_a_check(project: Project) -> None:
    (project.folder / "empty.sqlite").touch()
    ended = project.run("check", "--url", "sqlite:///empty.sqlite")
    assert 1 == ended.code
    assert "PK823" in ended.out


def test_a_statement_that_the_database_refuses_is_told_by_its_kind(project: Project) -> None:
    project.rows("ALTER TABLE trips RENAME COLUMN ended_at TO over_at")
    said = refused(project.run("status"))
    assert "The database refused a statement (sqlite, OperationalError)." in said
    assert "privkit check" in said


def test_a_locked_database_is_no_traceback(project: Project) -> None:
    project.edit(
        "rides.py",
        "privacy = Privacy(",
        "event.listen(Engine, 'connect', lambda c, r: c.execute('PRAGMA busy_timeout = 50'))\nprivacy = Privacy(",
    )
    with closing(sqlite3.connect(project.folder / "rides.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "(sqlite, OperationalError)" in refused(project.run("status"))


def test_an_error_that_nobody_foresaw_shows_its_place_and_not_its_text(project: Project) -> None:
    project.edit("rides.py", "lambda: NOW", "broken_clock")
    project.edit(
        "rides.py", "class Base", "def broken_clock():\n    raise RuntimeError(f'Plan{chr(116)}ed 1')\n\n\nclass Base"
    )
    ended = project.run("status")
    assert (2, "") == (ended.code, ended.out)
    assert "Unexpected RuntimeError; what it says is not shown: it may hold a value." in ended.err
    assert "in broken_clock" in ended.err


def test_a_reader_that_ends_early_is_no_traceback(project: Project) -> None:
    command = [sys.executable, "-m", "privkit.cli", "report", "--format", "html"]
    with subprocess.Popen(
        command, cwd=project.folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert_silent(process.stderr.read())


def test_the_installed_program_is_the_same(project: Project) -> None:
    program = Path(sys.executable).with_name("privkit")
    if not program.exists():
        pytest.skip("privkit is not installed into this environment")
    environment = clean_environment()
    ended = subprocess.run(
        [program, "status"], cwd=project.folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (1, "overdue: 110", "") == (ended.returncode, ended.stdout.splitlines()[-1], ended.stderr)
