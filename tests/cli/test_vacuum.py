"""``privkit purge --vacuum`` and ``privkit erase``: what the operator reads about the disk is what is on it."""

from __future__ import annotations

import json

import pytest

from privkit.cli.screen import run_view
from privkit.periods import Period
from privkit.retention import Outcome, Run
from privkit.sqlalchemy.physical import Physical
from tests.cli.program import Project, copy_of
from tests.cli.test_screen import FINALITY, STEPS, drawn

KEPT = "privkit: 1\nbackups: P35D\n"


@pytest.fixture(scope="module")
def purged(tmp_path_factory: pytest.TempPathFactory, made_once: Project) -> tuple[Project, str]:
    """A copy of the project whose policy keeps backups for 35 days, purged with --vacuum, and what that printed."""
    project = copy_of(made_once, tmp_path_factory.mktemp("vacuum") / "rides")
    project.edit("policy.yaml", "privkit: 1\n", KEPT)
    ended = project.run("purge", "--yes", "--vacuum", COLUMNS="200")
    assert 0 == ended.code, ended.seen
    return project, ended.out


def test_a_purge_with_vacuum_says_by_when_it_is_gone_from_every_disk(purged: tuple[Project, str]) -> None:
    _, out = purged
    assert "values under destroyed keys: unreadable here by" in out
    assert "other values and rows: logically gone at" in out
    assert ", physically by 20" in out


def test_the_report_repeats_it(purged: tuple[Project, str]) -> None:
    project, _ = purged
    text, page = project.run("report", COLUMNS="200").out, project.run("report", "--format", "html").out
    (line,) = json.loads(project.run("report", "--format", "json").out)["on_disks"]
    assert "physically by 20" in line
    assert f"destroyed last  {line}" in text
    assert f"<dd>{line}</dd>" in page


def test_before_anything_was_destroyed_the_report_says_nothing_of_it(project: Project) -> None:
    assert "destroyed last" not in project.run("report").out


def test_notes_stand_below_the_instants() -> None:
    left = Physical(FINALITY.destroyed, None, "VACUUM FULL of trips", Period.parse("P35D"), ("trips: 12 dead rows",))
    run = Run("0", (Outcome(STEPS[0], 3),), 0, FINALITY, physically=left)
    lines = drawn(run_view(run), 200).splitlines()
    at = next(number for number, line in enumerate(lines) if "physically P35D after VACUUM FULL of trips" in line)
    assert ["trips: 12 dead rows", "overdue: 0"] == [line.strip() for line in lines[at + 1 :]]


def test_an_erasure_says_both(project: Project) -> None:
    ((key,),) = project.rows("SELECT hex(privkit_key) FROM riders WHERE id = 1")
    ended = project.run("erase", key, "--by", "Ada", "--yes", COLUMNS="200")
    assert 0 == ended.code, ended.seen
    assert "sealed values: unreadable here by" in ended.out
    assert "other values: logically gone at" in ended.out
