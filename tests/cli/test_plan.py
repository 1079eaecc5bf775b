"""``privkit plan`` and ``privkit status``: what is due, seen and not touched."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.cli.program import Project

DUE = {"trips": 30, "trips.start": 0, "riders.email": 20, "riders.name": 20, "riders.born": 20, "riders.home": 20}


def counts(shown: str) -> dict[str, int]:
    """The first number of each line of a table that begins with a name."""
    words = [line.split() for line in shown.splitlines()]
    return {line[0]: int(line[1].replace(",", "")) for line in words if len(line) > 1 and line[1][0].isdigit()}


def digest(project: Project) -> str:
    return hashlib.sha256((project.folder / "rides.sqlite").read_bytes()).hexdigest()


def test_a_plan_counts_what_is_due_per_table_and_field(project: Project) -> None:
    ended = project.run("plan")
    assert (0, "") == (ended.code, ended.err)
    assert DUE | {"total": 110} == counts(ended.out)


def test_a_plan_says_what_becomes_of_it_by_which_rule_and_when(project: Project) -> None:
    ended = project.run("plan", COLUMNS="200")
    assert "Due at 2026-06-01 12:00:00 UTC" in ended.out
    lines = {line.split()[0]: line for line in ended.out.splitlines() if line.strip()}
    assert "deleted with its row" in lines["trips"]
    assert "navigation: P1D after trip_ended" in lines["trips"]
    assert "pseudonymised in domain 'name'" in lines["riders.name"]
    assert "account: P30D after account_closed" in lines["riders.name"]


def test_a_plan_changes_nothing(project: Project) -> None:
    before = digest(project)
    project.run("plan", "--out", "plan.json")
    assert before == digest(project)


@pytest.mark.parametrize(
    ("at", "due"),
    [
        ("2026-01-01T23:59:59Z", 0),
        ("2026-01-02T01:00:00+01:00", 40),
        ("2026-05-02T00:00:00Z", 110),
        ("0001-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59Z", 110),
    ],
)
def test_a_plan_is_for_the_instant_it_is_asked_for(project: Project, at: str, due: int) -> None:
    ended = project.run("plan", "--at", at)
    assert (0, "") == (ended.code, ended.err)
    assert due == counts(ended.out)["total"]


@pytest.mark.parametrize("at", ["yesterday", "2026-01-31T00:00:00", "0001-01-01T00:00:00+23:59"])
def test_an_instant_that_is_none_is_refused_with_an_example(project: Project, at: str) -> None:
    ended = project.run("plan", "--at", at)
    assert (2, "") == (ended.code, ended.out)
    assert "PK901: --at is not an ISO 8601 instant with a time zone." in ended.err
    assert "Example: --at 2026-01-31T00:00:00Z" in ended.err


def test_a_plan_that_is_written_holds_what_was_shown(project: Project) -> None:
    ended = project.run("plan", "--out", "plan.json")
    document = json.loads((project.folder / "plan.json").read_text())
    steps = {step["table"] + (f".{step['field']}" if step["field"] else ""): step["due"] for step in document["steps"]}
    assert "written: plan.json" in ended.out
    assert DUE == steps


def test_a_plan_that_is_written_is_its_owner_s_alone_to_read(project: Project) -> None:
    path = project.folder / "plan.json"
    path.write_text("{}")
    path.chmod(0o644)
    project.run("plan", "--out", "plan.json")
    assert 0o600 == path.stat().st_mode & 0o777


def test_a_plan_shows_shares_the_database_and_what_it_would_refuse(project: Project) -> None:
    project.rows("CREATE TRIGGER noted BEFORE DELETE ON trips BEGIN SELECT RAISE(ABORT, 'no'); END")
    ended = project.run("plan", COLUMNS="200")
    assert 1 == ended.code
    assert DUE | {"total": 110} == counts(ended.out)
    assert re.search(r"riders\.born +20 +50% ", ended.out)
    assert "trips: refused, the run will leave it alone: the database refuses it: trigger" in ended.out
    assert "trips: fires the trigger noted" in ended.out
    assert f"in sqlite {project.folder / 'rides.sqlite'}; expected to take 0:00:01" in ended.out


def test_a_plan_that_is_stale_is_refused_with_the_difference_and_nothing_is_destroyed(project: Project) -> None:
    project.run("plan", "--out", "plan.json")
    project.rows("UPDATE riders SET closed_at = '2026-01-01 00:00:00.000000' WHERE id IN (1, 3)")
    project.edit("policy.yaml", "keep: {for: P1D, after: trip_ended}", "keep: {for: P2D, after: trip_ended}")
    ended = project.run("purge", "--plan", "plan.json", "--yes")
    assert 2 == ended.code
    assert "PK601: The plan was not run: the policy has changed since it was made (trips was due by" in ended.err
    assert "navigation: P1D after trip_ended, and is by navigation: P2D after trip_ended" in ended.err
    project.edit("policy.yaml", "keep: {for: P2D, after: trip_ended}", "keep: {for: P1D, after: trip_ended}")
    ended = project.run("purge", "--plan", "plan.json", "--yes")
    assert 2 == ended.code
    assert re.search(r"riders\.born: \d more (is|are) due than planned, 0 fewer", ended.err)
    assert "overdue: 1" in project.run("status").out


def test_a_large_share_of_a_table_needs_the_plan_s_number(project: Project) -> None:
    project.python("import rides; rides.fill('sqlite:///big.sqlite', 160)")
    big = ("--url", "sqlite:///big.sqlite")
    due = counts(project.run("plan", *big).out)["total"]
    ended = project.run("purge", *big, "--yes")
    assert 2 == ended.code
    assert "more than 20 % of a table: trips (120 of 160: navigation: P1D after trip_ended)" in ended.err
    assert f"--yes-this-many {due}" in ended.err
    assert 2 == project.run("purge", *big, "--yes-this-many", str(due - 1)).code
    ended = project.run("purge", *big, "--yes-this-many", str(due))
    assert (0, "") == (ended.code, ended.err)
    assert ended.out.endswith("overdue: 0\n")


@pytest.mark.parametrize("out", ["nowhere/plan.json", "."])
def test_a_plan_that_cannot_be_written_is_no_success(project: Project, out: str) -> None:
    ended = project.run("plan", "--out", out)
    assert 2 == ended.code
    assert f"{Path(out)} cannot be written" in ended.err


def test_a_plan_needs_no_keys(project: Project) -> None:
    (project.folder / "keys.json").unlink()
    assert 110 == counts(project.run("plan").out)["total"]


def test_status_prints_the_overdue_number_and_is_red(project: Project) -> None:
    ended = project.run("status")
    assert (1, "") == (ended.code, ended.err)
    assert ended.out.endswith("no run yet\noverdue: 110\n")
    assert DUE | {"overdue:": 110} == counts(ended.out)


def test_status_is_green_when_nothing_is_overdue(project: Project) -> None:
    ended = project.run("status", RIDES_NOW="2026-01-01T12:00:00+00:00")
    assert (0, "") == (ended.code, ended.err)
    assert ended.out.endswith("overdue: 0\n")
