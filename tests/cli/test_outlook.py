"""``privkit status``, ``forecast`` and ``diff``: what is overdue, what falls due, what a policy would change."""

from __future__ import annotations

import json

from tests.cli.program import Project
from tests.cli.test_plan import digest


def test_a_status_after_a_run_tells_how_it_ended_and_is_green(project: Project) -> None:
    assert 0 == project.run("purge", "--yes").code
    ended = project.run("status", COLUMNS="200")
    assert (0, "") == (ended.code, ended.err)
    assert "last run: 2026-06-01 12:00:00 UTC, took 0:00:00, 110 destroyed: nothing left" in ended.out
    assert "last proven run, with nothing left: 2026-06-01 12:00:00 UTC" in ended.out
    assert ended.out.endswith("overdue: 0\n")


def test_a_status_is_green_within_the_grace_and_red_after_it(project: Project) -> None:
    project.run("purge", "--yes")
    project.rows("UPDATE riders SET closed_at = '2026-05-31 18:00:00.000000' WHERE id = 1")
    later = {"RIDES_NOW": "2026-06-02T12:00:00+00:00"}
    ended = project.run("status", "--json", **later)
    body = json.loads(ended.out)
    assert (0, 2, 0) == (ended.code, body["due"], body["overdue"])
    ended = project.run("status", "--grace", "PT6H", **later)
    assert 1 == ended.code
    assert ended.out.endswith("overdue: 2\n")
    assert 2 == project.run("status", "--grace", "P1M").code


def test_a_status_is_written_for_node_exporter(project: Project) -> None:
    ended = project.run("status", "--textfile", "privkit.prom")
    assert 1 == ended.code
    text = (project.folder / "privkit.prom").read_text()
    assert 'privkit_overdue_rows{table="trips",field="",rule="navigation: P1D after trip_ended"} 30.0\n' in text
    assert 2 == project.run("status", "--textfile", "nowhere/privkit.prom").code


def test_a_clock_behind_the_ledger_is_no_green_status(project: Project) -> None:
    project.run("purge", "--yes")
    ended = project.run("status", RIDES_NOW="2026-01-01T12:00:00+00:00")
    assert (2, "") == (ended.code, ended.out)
    assert "seconds behind the last line of the ledger" in ended.err


def test_a_forecast_is_printed_and_drawn_and_changes_nothing(project: Project) -> None:
    before = digest(project)
    ended = project.run("forecast", "--days", "30", RIDES_NOW="2026-01-01T12:00:00+00:00", COLUMNS="150")
    assert (0, "") == (ended.code, ended.err)
    lines = {line.split()[0]: line.split()[1:] for line in ended.out.splitlines() if line.split()}
    assert ["0", "20"] == lines["riders.email"][:2]
    assert ["40", "█" * 30] == lines["2026-01-02"]
    assert ["0"] == lines["2026-01-03"]
    assert before == digest(project)


def test_a_forecast_is_json_as_well(project: Project) -> None:
    body = json.loads(project.run("forecast", "--json", "--days", "2").out)
    assert 110 == sum(each["falling"][0] for each in body["expected"])
    assert 3 == len(body["instants"])
    assert 2 == project.run("forecast", "--days", "0").code


def test_a_diff_counts_what_a_policy_would_destroy_and_destroys_nothing(project: Project) -> None:
    before = digest(project)
    policy = (project.folder / "policy.yaml").read_text(encoding="utf-8")
    (project.folder / "new.yaml").write_text(policy.replace("P30D", "P60D"), encoding="utf-8")
    now = {"RIDES_NOW": "2026-02-15T12:00:00+00:00", "COLUMNS": "200"}
    ended = project.run("diff", "policy.yaml", "new.yaml", **now)
    assert (1, "") == (ended.code, ended.err)
    (line,) = [line for line in ended.out.splitlines() if line.split()[:1] == ["riders.name"]]
    assert ["0", "20"] == line.split()[1:3]
    assert "account: P30D after account_closed -> account: P60D after account_closed" in line
    assert 20 == json.loads(project.run("diff", "new.yaml", "policy.yaml", "--json", **now).out)["changes"][0]["sooner"]
    assert 0 == project.run("diff", "policy.yaml", "policy.yaml").code
    assert before == digest(project)


def test_a_policy_that_does_not_fit_the_models_is_refused_with_its_line(project: Project) -> None:
    policy = (project.folder / "policy.yaml").read_text(encoding="utf-8")
    (project.folder / "new.yaml").write_text(policy.replace("  pickup:", "  fetch:"), encoding="utf-8")
    ended = project.run("diff", "policy.yaml", "new.yaml")
    assert (2, "") == (ended.code, ended.out)
    assert "pickup" in ended.err
    assert "rides.py:" in ended.err
