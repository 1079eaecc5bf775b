"""``privkit check``, ``privkit report`` and ``privkit ledger verify``: what an auditor runs."""

from __future__ import annotations

import json

import pytest

from tests.cli.program import Project

UNUSED = """\
  marketing: {description: Advertise, legal_basis: consent, children: never, keep: {for: P1D, after: account_closed}}
"""


def test_a_covered_service_is_green(project: Project) -> None:
    ended = project.run("check")
    assert (0, "") == (ended.code, ended.err)
    assert ended.out.startswith("NOTE PK837: riders.born is needed to know whether an age is reached")
    assert ended.out.endswith("covered: 0 to mend, 1 to know\n")


def test_an_undecided_column_is_red_with_its_name_and_what_to_do(project: Project) -> None:
    project.edit("rides.py", "    country: Mapped", "    nickname: Mapped[str | None]\n    country: Mapped")
    ended = project.run("check", "--url", "sqlite:///rides.sqlite")
    assert 1 == ended.code
    assert "HIGH PK801: " in ended.out
    assert "riders.nickname" in ended.out
    assert "not covered: " in ended.out.splitlines()[-1]


def test_a_database_that_is_named_is_looked_at(project: Project) -> None:
    project.rows("CREATE TABLE rider_notes (id INTEGER PRIMARY KEY, note TEXT)")
    ended = project.run("check")
    assert 1 == ended.code
    assert "PK821" in ended.out
    assert "rider_notes" in ended.out


def test_without_a_database_the_models_alone_are_checked(project: Project) -> None:
    project.rows("CREATE TABLE rider_notes (id INTEGER PRIMARY KEY, note TEXT)")
    project.edit("pyproject.toml", 'url = "sqlite:///rides.sqlite"\n', "")
    assert 0 == project.run("check").code
    assert "none was looked at" in project.run("report").out


@pytest.mark.parametrize("command", ["check", "report"])
def test_a_database_that_is_named_and_cannot_be_used_is_never_passed_over(project: Project, command: str) -> None:
    for url in ("sqlite:///mistyped.sqlite", "nosuch://host/rides", "rides.sqlite"):
        assert 2 == project.run(command, PRIVKIT_URL=url).code, url


def test_a_finding_to_know_alone_is_green(project: Project) -> None:
    project.edit("policy.yaml", "purposes:\n", f"purposes:\n{UNUSED}")
    ended = project.run("check")
    assert 0 == ended.code
    assert "LOW PK810: " in ended.out
    assert ended.out.endswith("covered: 0 to mend, 2 to know\n")


def test_plain_values_in_a_sealed_column_are_red_and_never_shown(project: Project) -> None:
    project.python(
        "import sqlite3; c = sqlite3.connect('rides.sqlite'); c.execute('PRAGMA ignore_check_constraints = ON');"
        "c.execute(\"UPDATE riders SET email = 'planted9@secret.example' WHERE id = 9\"); c.commit(); c.close()"
    )
    ended = project.run("check")
    assert 1 == ended.code
    assert "CRITICAL PK826: " in ended.out


def test_a_policy_that_does_not_fit_cannot_be_checked(project: Project) -> None:
    project.edit("policy.yaml", "  pickup:", "  pickupp:")
    ended = project.run("check")
    assert (2, "") == (ended.code, ended.out)
    assert "PK101" in ended.err
    assert "pickup" in ended.err


def test_a_report_is_text_unless_another_form_is_asked_for(project: Project) -> None:
    text, html = project.run("report"), project.run("report", "--format", "html")
    document = json.loads(project.run("report", "--format", "json").out)
    assert (0, 0) == (text.code, html.code)
    assert "Table riders (Rider)" in text.out
    assert html.out.lstrip().lower().startswith("<!doctype html>")
    assert ["riders", "trips"] == sorted(table["name"] for table in document["tables"])


@pytest.mark.parametrize("form", ["text", "json", "html"])
def test_a_report_goes_into_a_file(project: Project, form: str) -> None:
    ended = project.run("report", "--format", form, "--out", "report")
    written = (project.folder / "report").read_text(encoding="utf-8")
    assert (0, "written: report\n", "") == (ended.code, ended.out, ended.err)
    assert "Rides Zoë Ltd" in written


def test_a_report_that_cannot_be_written_is_no_success(project: Project) -> None:
    ended = project.run("report", "--out", "nowhere/report")
    assert 2 == ended.code
    assert "nowhere/report cannot be written" in ended.err


def test_a_form_that_does_not_exist_is_refused(project: Project) -> None:
    assert 2 == project.run("report", "--format", "pdf").code


def test_a_terminal_without_the_letters_gets_them_escaped_and_json_stays_json(project: Project) -> None:
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    text = project.run("report", **ascii_only)
    document = json.loads(project.run("report", "--format", "json", **ascii_only).out)
    assert (0, "") == (text.code, text.err)
    assert "Rides Zo\\xeb Ltd" in text.out
    assert "Rides Zoë Ltd" in json.dumps(document, ensure_ascii=False)


def test_an_intact_ledger_is_green_and_prints_a_checkpoint_that_is_accepted_later(project: Project) -> None:
    empty = project.run("ledger", "verify")
    project.run("purge", "--yes")
    full = project.run("ledger", "verify")
    assert (0, 0) == (empty.code, full.code)
    assert "intact: 0 lines" in empty.out
    assert "intact: 7 lines" in full.out
    for ended in (empty, full):
        assert 0 == project.run("ledger", "verify", "--expected", ended.out.split()[-1]).code


def test_a_changed_line_is_a_finding(project: Project) -> None:
    project.run("purge", "--yes")
    project.rows("UPDATE privkit_ledger SET body = replace(body, '30', '29') WHERE seq = 2")
    ended = project.run("ledger", "verify")
    assert (1, "") == (ended.code, ended.err)
    assert "PK701: The ledger's chain breaks at line 2: changed." in ended.out


def test_a_cut_off_tail_is_a_finding_against_a_checkpoint(project: Project) -> None:
    project.run("purge", "--yes")
    checkpoint = project.run("ledger", "verify").out.split()[-1]
    project.rows("DELETE FROM privkit_ledger WHERE seq > 3")
    assert 0 == project.run("ledger", "verify").code
    ended = project.run("ledger", "verify", "--expected", checkpoint)
    assert 1 == ended.code
    assert "The ledger once had 7 lines and ends after 3." in ended.out


@pytest.mark.parametrize("checkpoint", ["7", "7:abc"])
def test_a_checkpoint_that_is_none_verifies_nothing(project: Project, checkpoint: str) -> None:
    ended = project.run("ledger", "verify", "--expected", checkpoint)
    assert (2, "") == (ended.code, ended.out)
    assert "PK501: A ledger checkpoint is a count and 64 hexadecimal digits" in ended.err


def test_without_the_keyring_the_ledger_cannot_be_verified(project: Project) -> None:
    project.run("purge", "--yes")
    (project.folder / "keys.json").unlink()
    ended = project.run("ledger", "verify")
    assert (2, "") == (ended.code, ended.out)
    assert "PK403" in ended.err
