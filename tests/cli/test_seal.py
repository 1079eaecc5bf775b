"""``privkit seal``: a live column of plain text, and the exit codes on its way."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.program import PROJECT, Project

POLICY = """\
privkit: 1
controller: {name: Rides Ltd, contact: privacy@rides.example}
purposes:
  account: {description: Run the account, legal_basis: contract, keep: forever, because: the account lives}
"""

APP = '''\
"""Riders whose e-mail addresses move to sealed storage."""

from typing import Annotated

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import Adopting, FileKeyring, Personal, Plain, Privacy, data_subject, not_personal

ADOPTING, COLUMN = Adopting(Plain(), beside="email_sealed", phase="dual"), "email"


class Base(DeclarativeBase): ...


@data_subject
@not_personal("id", because="row id")
class Rider(Base):
    __tablename__ = "riders"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[
        Annotated[str | None, Personal("user.contact.email", purposes={"account"}, seal=True, adopting=ADOPTING)]
    ] = mapped_column(COLUMN)


privacy = Privacy(policy="policy.yaml", models=Base, keys=FileKeyring("keys.json"))
'''

SEALED = ('beside="email_sealed", phase="dual"), "email"', 'beside="email"), "email_sealed"')
FINISHED = ('beside="email"), "email_sealed"', 'beside="email", phase="finished"), "email_sealed"')


@pytest.fixture
def live(tmp_path: Path) -> Project:
    """A project with the first deploy, whose table was there before, with 30 rows."""
    for name, content in {"rides.py": APP, "policy.yaml": POLICY, "pyproject.toml": PROJECT}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    project = Project(tmp_path)
    assert 0 == project.run("keys", "init").code
    with closing(sqlite3.connect(tmp_path / "rides.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE riders (id INTEGER PRIMARY KEY, email TEXT)")
        connection.executemany(
            "INSERT INTO riders VALUES (?, ?)", [(number, f"planted{number}@secret.example") for number in range(30)]
        )
    project.python(
        "import rides, sqlalchemy; rides.Base.metadata.create_all(sqlalchemy.create_engine('sqlite:///rides.sqlite'))"
    )
    project.rows("ALTER TABLE riders ADD COLUMN privkit_key BLOB")
    return project


@pytest.fixture
def migrated(live: Project) -> Project:
    printed = live.run("seal", "riders.email", "--sql")
    assert 0 == printed.code
    with closing(sqlite3.connect(live.folder / "rides.sqlite")) as connection:
        connection.executescript(printed.out)
    return live


def test_without_the_trigger_nothing_is_sealed_and_the_statements_are_shown(migrated: Project) -> None:
    ((name,),) = migrated.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    migrated.rows(f"DROP TRIGGER {name}")
    ended = migrated.run("seal", "riders.email")
    assert 2 == ended.code
    assert "PK603" in ended.err
    assert "CREATE TRIGGER" in ended.err
    assert 1 == migrated.run("seal", "--status").code


def test_the_whole_way_from_plain_text_to_a_sealed_column(migrated: Project) -> None:
    before = migrated.run("seal", "--status")
    assert 1 == before.code
    assert "riders.email (dual)" in before.out
    ended = migrated.run("seal", "riders.email", "--batch", "7")
    assert (0, "riders.email: 30 sealed; 30 rows compared\n") == (ended.code, ended.out)
    assert 0 == migrated.run("seal", "--status").code
    migrated.edit("rides.py", *SEALED)
    assert "riders.email: 0 sealed" in migrated.run("seal", "riders.email").out
    assert 2 == migrated.run("seal", "riders.email", "--finish").code
    migrated.edit("rides.py", *FINISHED)
    ended = migrated.run("seal", "riders.email", "--finish")
    assert (0, "riders.email: 30 emptied; 30 rows compared\n") == (ended.code, ended.out)
    assert [(None,)] == migrated.rows("SELECT DISTINCT email FROM riders")
    ended = migrated.run("seal", "riders.email", "--undo")
    assert (0, "riders.email: 30 written back; 30 rows compared\n") == (ended.code, ended.out)
    assert [("planted7@secret.example",)] == migrated.rows("SELECT email FROM riders WHERE id = 7")


def test_rows_that_need_a_look_are_counted_and_named_by_key(migrated: Project) -> None:
    assert 0 == migrated.run("seal", "riders.email").code
    (envelope,) = migrated.rows("SELECT hex(email_sealed) FROM riders WHERE id = 1")[0]
    migrated.rows(f"UPDATE riders SET email = '{envelope}' WHERE id = 3")
    migrated.edit("rides.py", *SEALED)
    ended = migrated.run("seal", "riders.email")
    assert 1 == ended.code
    assert "1 with an envelope in place of the value" in ended.out
    assert "primary keys: 3" in ended.out


@pytest.mark.parametrize(
    "arguments", [(), ("riders.email", "--status"), ("riders.email", "--undo", "--finish"), ("riders.name",)]
)
def test_what_cannot_be_meant_is_refused(migrated: Project, arguments: tuple[str, ...]) -> None:
    ended = migrated.run("seal", *arguments)
    assert (2, "") == (ended.code, ended.out)
