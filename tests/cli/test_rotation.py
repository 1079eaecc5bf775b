"""``privkit keys rotate``, ``roll`` and ``status``, ``privkit reseal``, and a keyring under a passphrase."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from privkit import FileKeyring
from tests.cli.program import Project, Terminal


def generations(project: Project) -> list[str]:
    return list(json.loads((project.folder / "keys.json").read_text())["generations"])


def emails(project: Project) -> None:
    """Open every stored e-mail address in a process of its own."""
    project.python(
        "import rides; from sqlalchemy import create_engine, select; from sqlalchemy.orm import Session\n"
        "engine = create_engine('sqlite:///rides.sqlite'); rides.privacy.protect(engine)\n"
        "with rides.privacy.purpose('account'), Session(engine) as session:\n"
        "    found = session.scalars(select(rides.Rider.email).where(rides.Rider.closed_at.is_(None))).all()\n"
        "    assert 20 == len(found) and all('@secret.example' in each for each in found)\n"
    )


def test_rotating_shows_keys_and_values_and_keeps_the_old_generation(project: Project) -> None:
    ended = project.run("keys", "rotate")
    assert 0 == ended.code, ended.seen
    assert ["1", "2"] == generations(project)
    assert "generation 2 wraps all keys; the older ones are still held" in ended.out
    assert "riders.email" in ended.out
    assert "Values after" in ended.out
    emails(project)


def test_rolling_destroys_the_old_generation(project: Project) -> None:
    ended = project.run("keys", "roll", "--yes")
    assert 0 == ended.code, ended.seen
    assert ["2"] == generations(project)
    assert "destroyed: 1. Back up the key tables now." in ended.out
    emails(project)


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, ["1"]), ("y\n", 0, ["2"])])
def test_a_roll_asks_first(project: Project, answer: str, code: int, left: list[str]) -> None:
    ended = project.run("keys", "roll", stdin=answer)
    assert code == ended.code, ended.seen
    assert "Destroy generation 1?" in ended.err
    assert left == generations(project)


def test_a_roll_with_nobody_to_ask_destroys_nothing(project: Project) -> None:
    ended = project.run("keys", "roll")
    assert 2 == ended.code
    assert "privkit keys roll --yes" in ended.err
    assert ["1"] == generations(project)


def test_all_databases_of_a_keyring_are_rolled_together(project: Project) -> None:
    shutil.copy(project.folder / "rides.sqlite", project.folder / "other.sqlite")
    ended = project.run("keys", "roll", "--yes", "--url", "sqlite:///rides.sqlite", "--url=sqlite:///other.sqlite")
    assert 0 == ended.code, ended.seen
    assert "Keys of database 2" in ended.out
    shutil.copy(project.folder / "other.sqlite", project.folder / "rides.sqlite")
    emails(project)


def test_a_database_without_keys_is_an_error_and_adds_no_generation(project: Project) -> None:
    project.python("import rides; rides.fill('sqlite:///empty.sqlite', 0)")
    for verb in ("rotate", "roll"):
        ended = project.run("keys", verb, *(["--yes"] if verb == "roll" else []), "--url", "sqlite:///empty.sqlite")
        assert (2, ["1"]) == (ended.code, generations(project))
        assert "The database holds no key" in ended.err


def test_a_key_that_does_not_open_makes_the_roll_red_and_is_seen_in_the_status(project: Project) -> None:
    project.rows("UPDATE privkit_key SET wrapped = CAST(substr(wrapped, 1, 63) || x'00' AS BLOB) WHERE rowid = 1")
    ended = project.run("keys", "roll", "--yes")
    assert 1 == ended.code
    assert "not done" in ended.out
    assert ["1", "2"] == generations(project)
    status = project.run("keys", "status")
    assert 1 == status.code
    assert "generations: 1, 2; wraps: 2" in status.out
    assert "last roll: never" in status.out


def test_the_status_tells_the_last_roll_and_scans_all_columns(project: Project) -> None:
    assert 0 == project.run("keys", "status").code
    project.run("keys", "roll", "--yes")
    project.rows("CREATE TABLE notes (said TEXT)")
    ended = project.run("keys", "status", "--scan")
    assert 0 == ended.code, ended.seen
    assert "last roll: 2026-06-01T12:00:00+00:00" in ended.out
    assert "notes" not in ended.out
    project.rows("INSERT INTO notes SELECT '0101' || hex(zeroblob(60))")
    ended = project.run("keys", "status", "--scan")
    assert 1 == ended.code
    assert "notes.said" in ended.out
    assert 2 == project.run("keys", "roll", "--yes").code


def test_resealing_follows_a_changed_id_and_tells_counts(project: Project) -> None:
    project.edit(
        "rides.py", 'Personal("user.name", ', 'Personal("user.name", id="people.name", formerly="riders.name", '
    )
    ended = project.run("reseal", "--batch", "7")
    assert 0 == ended.code, ended.seen
    assert "riders.name" in ended.out
    assert 2 == project.run("reseal", "--field", "riders.nmae").code
    project.rows("UPDATE riders SET name = substr(name, 1, length(name) - 1) WHERE id = 2")
    assert 1 == project.run("reseal", "--field", "riders.name").code


def test_a_keyring_is_made_under_the_passphrase_of_the_environment(tmp_path: Path) -> None:
    ended = Project(tmp_path).run("keys", "init", PRIVKIT_PASSPHRASE="correct horse")
    assert 0 == ended.code, ended.seen
    assert "correct horse" not in ended.seen
    assert "generations" not in json.loads((tmp_path / "keys.json").read_text())
    assert 1 == FileKeyring(tmp_path / "keys.json", passphrase="correct horse").generation


def test_a_passphrase_is_asked_for_twice_on_a_terminal(tmp_path: Path) -> None:
    for second, code in (("other", 2), ("battery staple", 0)):
        terminal = Terminal(Project(tmp_path), "keys", "init", "--passphrase")
        terminal.read_until("Passphrase: ")
        terminal.write("battery staple\n")
        terminal.read_until("Once more: ")
        terminal.write(f"{second}\n")
        ended = terminal.end()
        assert code == ended.code
        assert "battery staple" not in ended.seen
    assert 1 == FileKeyring(tmp_path / "keys.json", passphrase="battery staple").generation


def test_a_passphrase_with_nobody_to_ask_makes_no_keyring(tmp_path: Path) -> None:
    ended = Project(tmp_path).run("keys", "init", "--passphrase")
    assert 2 == ended.code
    assert "PRIVKIT_PASSPHRASE" in ended.err
    assert not (tmp_path / "keys.json").exists()
