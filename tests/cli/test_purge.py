"""``privkit purge``: asks, executes exactly what it showed, can be stopped, and is red when anything is left."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.cli.program import PASSWORD, Project
from tests.cli.test_plan import DUE, counts

STATE = "SELECT id, email, name, born, home FROM riders UNION ALL SELECT id, start, '', '', '' FROM trips"


def destroyed(project: Project) -> Counter[str]:
    """What the ledger says was destroyed, per table and field."""
    found: Counter[str] = Counter()
    for (body,) in project.rows("SELECT body FROM privkit_ledger WHERE kind = 'batch'"):
        line = json.loads(body)
        found[line["table"] + (f".{line['field']}" if line["field"] else "")] += line["count"]
    return found


def test_after_a_purge_nothing_is_overdue(project: Project) -> None:
    ended = project.run("purge", "--yes")
    assert (0, "") == (ended.code, ended.err)
    assert ended.out.endswith("overdue: 0\n")
    shown, done = ended.out.split("Run ")
    assert DUE | {"total": 110} == counts(shown)
    assert DUE | {"overdue:": 0} == counts(done)
    assert +Counter(DUE) == destroyed(project)
    assert 0 == project.run("status").code


def test_the_plan_is_shown_and_a_question_asked_before_anything_is_destroyed(project: Project) -> None:
    before = project.rows(STATE)
    ended = project.run("purge", stdin="n\n")
    assert 1 == ended.code
    assert 110 == counts(ended.out)["total"]
    assert "Destroy 110 values and rows? [y/N]" in ended.err
    assert ended.out.endswith("Nothing was destroyed.\n")
    assert before == project.rows(STATE)


@pytest.mark.parametrize("answer", ["yes please\n", "1\n", "\n"])
def test_only_yes_means_yes(project: Project, answer: str) -> None:
    before = project.rows(STATE)
    assert 1 == project.run("purge", stdin=answer).code
    assert before == project.rows(STATE)


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_yes_in_either_length_starts_the_run(project: Project, answer: str) -> None:
    ended = project.run("purge", stdin=answer)
    assert (0, 0) == (ended.code, project.run("status").code)


def test_where_nobody_can_be_asked_the_way_to_do_it_is_named(project: Project) -> None:
    ended = project.run("purge", stdin="")
    assert 2 == ended.code
    assert "PK901: There is nobody to ask." in ended.err
    assert "privkit purge --yes" in ended.err


def test_with_nothing_due_nothing_is_asked(project: Project) -> None:
    project.run("purge", "--yes")
    ended = project.run("purge")
    assert (0, "") == (ended.code, ended.err)
    assert +Counter(DUE) == destroyed(project)


def test_a_plan_from_a_file_is_executed_and_nothing_that_fell_due_later(project: Project) -> None:
    project.run("plan", "--at", "2026-01-02T00:00:00Z", "--out", "plan.json")
    ended = project.run("purge", "--plan", "plan.json", "--yes")
    assert 0 == ended.code
    assert "Due at 2026-01-02 00:00:00 UTC" in ended.out
    assert {"riders.born": 20, "riders.home": 20} == destroyed(project)
    assert project.run("status").out.endswith("overdue: 70\n")


def test_a_plan_of_another_policy_is_refused(project: Project) -> None:
    project.run("plan", "--out", "plan.json")
    project.edit("policy.yaml", "P30D", "P60D")
    before = project.rows(STATE)
    ended = project.run("purge", "--plan", "plan.json", "--yes")
    assert 2 == ended.code
    assert "PK601: The plan was not run: the policy has changed since it was made (riders.email was due by" in ended.err
    assert "Make a new one and read it: privkit plan" in ended.err
    assert before == project.rows(STATE)


def test_a_plan_of_the_future_is_refused(project: Project) -> None:
    project.run("plan", "--at", "2027-01-01T00:00:00Z", "--out", "plan.json")
    ended = project.run("purge", "--plan", "plan.json", "--yes")
    assert 2 == ended.code
    assert "its instant lies in the future" in ended.err
    assert Counter() == destroyed(project)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "PK901: plan.json cannot be read."),
        (b"\xff\xfe", "PK901: plan.json cannot be read."),
        (b"", "PK601: This is not a privkit plan, or it is damaged."),
        (b'{"privkit_plan": 1}', "PK601: This plan is of format 1, which an earlier release of privkit wrote."),
        (b'["planted1@secret.example"]', "PK601: This is not a privkit plan, or it is damaged."),
    ],
)
def test_a_file_that_is_no_plan_is_refused(project: Project, content: bytes | None, message: str) -> None:
    if content is not None:
        (project.folder / "plan.json").write_bytes(content)
    ended = project.run("purge", "--plan", "plan.json", "--yes")
    assert 2 == ended.code
    assert message in ended.err
    assert Counter() == destroyed(project)


def test_a_batch_is_a_transaction_with_a_ledger_line_of_its_own(project: Project) -> None:
    assert 0 == project.run("purge", "--yes", "--batch", "7").code
    bodies = [json.loads(body) for (body,) in project.rows("SELECT body FROM privkit_ledger WHERE kind = 'batch'")]
    assert [7, 7, 7, 7, 2] == [body["count"] for body in bodies if body["table"] == "trips"]


@pytest.mark.parametrize("batch", ["0", "many"])
def test_a_batch_that_is_no_number_of_rows_is_refused(project: Project, batch: str) -> None:
    assert 2 == project.run("purge", "--yes", "--batch", batch).code


def test_a_value_that_does_not_open_is_left_and_makes_the_run_red(project: Project) -> None:
    ((sealed,),) = project.rows("SELECT name FROM riders WHERE id = 2")
    before = sealed[:-1] + bytes([sealed[-1] ^ 1])
    project.rows(f"UPDATE riders SET name = x'{before.hex()}' WHERE id = 2")
    ended = project.run("purge", "--yes")
    assert 1 == ended.code
    assert "riders.name: 1 left as they are, because they do not open\n" in ended.out
    assert ended.out.endswith("overdue: 1\n")
    assert [(before,)] == project.rows("SELECT name FROM riders WHERE id = 2")
    assert Counter(DUE) - Counter({"riders.name": 1}) == destroyed(project)


@pytest.mark.parametrize("moment", ["commit:1", "commit:5", "before_cursor_execute:40"])
def test_a_run_stopped_by_ctrl_c_says_so_and_is_finished_by_the_next(project: Project, moment: str) -> None:
    ended = project.run("purge", "--yes", "--batch", "7", RIDES_STOP=moment)
    assert 130 == ended.code
    assert "Stopped. What was committed stays, the rest was rolled back; run it again to go on." in ended.err
    left = counts(project.run("plan").out)["total"]
    assert 110 == left + destroyed(project).total()
    assert left > 0
    assert 0 == project.run("ledger", "verify").code
    assert 0 == project.run("purge", "--yes").code
    assert +Counter(DUE) == destroyed(project)


def test_a_run_that_gets_sigterm_ends_after_the_batch_in_hand_and_is_finished_by_the_next(project: Project) -> None:
    stop = {"RIDES_STOP": "commit:3", "RIDES_SIGNAL": "SIGTERM"}
    ended = project.run("purge", "--yes", "--batch", "7", **stop)
    assert 1 == ended.code
    assert "ended early: it was asked to end; run it again to go on" in ended.out
    left = counts(project.run("plan").out)["total"]
    assert 0 < left < 110
    assert 110 == left + destroyed(project).total()
    assert 0 == project.run("purge", "--yes").code
    assert +Counter(DUE) == destroyed(project)


def test_a_sentinel_file_keeps_a_run_from_doing_anything(project: Project) -> None:
    (project.folder / "stop").touch()
    ended = project.run("purge", "--yes", "--sentinel", "stop")
    assert 1 == ended.code
    assert "ended early: the sentinel file exists" in ended.out
    assert Counter() == destroyed(project)
    (project.folder / "stop").unlink()
    assert 0 == project.run("purge", "--yes", "--sentinel", "stop").code


def test_a_run_whose_time_is_over_says_so_and_is_red_by_what_is_overdue(project: Project) -> None:
    ended = project.run("purge", "--yes", "--max-seconds", "0")
    assert 1 == ended.code
    assert "ended early: its time was over" in ended.out
    assert ended.out.endswith("overdue: 110\n")


def test_a_lag_that_the_database_cannot_tell_is_refused(project: Project) -> None:
    ended = project.run("purge", "--yes", "--max-lag", "10")
    assert 2 == ended.code
    assert "PK601: How far replicas are behind cannot be told on sqlite." in ended.err
    assert Counter() == destroyed(project)


def test_without_the_keyring_nothing_is_destroyed(project: Project) -> None:
    (project.folder / "keys.json").unlink()
    before = project.rows(STATE)
    ended = project.run("purge", "--yes")
    assert 2 == ended.code
    assert "PK403: There is no keyring at " in ended.err
    assert before == project.rows(STATE)


def test_a_keyring_that_others_can_read_is_refused(project: Project) -> None:
    (project.folder / "keys.json").chmod(0o644)
    ended = project.run("purge", "--yes")
    assert 2 == ended.code
    assert "can be read or written by others" in ended.err
    assert Counter() == destroyed(project)


def test_the_whole_job_on_postgresql_shows_no_password(project: Project, pg_url: str) -> None:
    url = pg_url.replace("postgres@", f"postgres:{PASSWORD}@")
    project.python("import os, rides; rides.fill(os.environ['PRIVKIT_URL'], 40)", PRIVKIT_URL=url)
    plan = project.run("plan", "--url", url, "--out", "plan.json")
    assert (0, 110) == (plan.code, counts(plan.out)["total"])
    assert PASSWORD not in (project.folder / "plan.json").read_text()
    assert 1 == project.run("status", PRIVKIT_URL=url).code
    assert 0 == project.run("purge", f"--url={url}", "--plan", "plan.json", "--yes", "--workers", "3").code
    assert 0 == project.run("status", PRIVKIT_URL=url).code
    assert 0 == project.run("check", PRIVKIT_URL=url).code
    assert 0 == project.run("ledger", "verify", PRIVKIT_URL=url).code
    assert project.run("status").out.endswith("overdue: 110\n")  # the database of pyproject.toml is another one
