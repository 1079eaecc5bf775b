"""``privkit keys init``."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from tests.cli.program import Project


def test_a_keyring_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    ended = Project(tmp_path).run("keys", "init", "service-keys.json")
    made = tmp_path / "service-keys.json"
    assert 0 == ended.code
    assert "Created service-keys.json (mode 0600)." in ended.out
    assert 0o600 == stat.S_IMODE(made.stat().st_mode)


def test_nothing_of_a_key_is_shown(tmp_path: Path) -> None:
    ended = Project(tmp_path).run("keys", "init")
    document = json.loads((tmp_path / "keys.json").read_text())
    secrets = [document["root"], *document["generations"].values()]
    assert [] == [secret for secret in secrets if secret in ended.seen]


def test_an_existing_keyring_is_refused_and_left_as_it_is(project: Project) -> None:
    before = (project.folder / "keys.json").read_bytes()
    ended = project.run("keys", "init")
    assert (2, "") == (ended.code, ended.out)
    assert "PK403: The keyring " in ended.err
    assert "keys.json exists already." in ended.err
    assert "A keyring is never overwritten" in ended.err
    assert before == (project.folder / "keys.json").read_bytes()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = Project(tmp_path).run("keys", "init", "nowhere/keys.json")
    assert 2 == ended.code
    assert "nowhere/keys.json cannot be created" in ended.err


def test_a_path_is_printed_as_it_is_even_when_it_looks_like_markup(tmp_path: Path) -> None:
    ended = Project(tmp_path).run("keys", "init", f"[bold]{'long' * 30}.json")
    assert 0 == ended.code
    assert f"Created [bold]{'long' * 30}.json (mode 0600)." in ended.out
