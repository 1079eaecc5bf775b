"""``privkit dataset deidentify``, run as a process in a project's folder."""

from __future__ import annotations

import json

from tests.cli.program import Project

COLUMNS = "id,email,name,born,home,country,closed_at"
PLAN = """
from datetime import date

from privkit import Generalise, NotPersonal, AgeBand
from privkit.datasets.plan import DatasetPlan

plan = DatasetPlan({"born": Generalise(AgeBand()), "id": NotPersonal("a row number")}, at=date(2026, 1, 1))
"""


def test_a_model_of_the_application_decides_and_a_second_run_does_nothing(project: Project) -> None:
    file = project.folder / "riders.csv"
    file.write_text(f"{COLUMNS}\n1,planted@secret.example,Planted 1,1984-03-01,POINT(0.1717 51.4242),GB,\n")
    ended = project.run("dataset", "deidentify", "riders.csv", "shared/riders.csv", "--model", "Rider")
    assert (0, "pseudonymised: 1 rows in 1 files, 1 of them written now\n") == (ended.code, ended.out)
    written = (project.folder / "shared" / "riders.csv").read_text()
    assert '"1",,"' in written
    assert "lanted" not in written
    manifest = json.loads((project.folder / "shared" / "_privkit_manifest-riders.csv.json").read_text())
    assert ("2026-06-01", "suppressed") == (manifest["reference_date"], manifest["columns"]["email"])
    later = project.run(
        "dataset", "deidentify", "riders.csv", "shared/riders.csv", "--model", "Rider", RIDES_NOW="2027-01-01T00:00:00Z"
    )
    assert (0, "pseudonymised: 1 rows in 1 files, 0 of them written now\n") == (later.code, later.out)


def test_an_undecided_column_and_another_day_are_refused(project: Project) -> None:
    (project.folder / "plans.py").write_text(PLAN)
    (project.folder / "people.csv").write_text("id,born,nickname\n1,1984-03-01,planted\n")
    ended = project.run("dataset", "deidentify", "people.csv", "out", "--model", "plans:plan")
    assert (2, True) == (ended.code, "1 columns are undecided: nickname" in ended.err)
    assert not (project.folder / "out").exists()
    ended = project.run("dataset", "deidentify", "people.csv", "out", "--model", "plans:plan", "--at", "2026-01-02")
    assert (2, True) == (ended.code, "A plan has its day" in ended.err)


def test_what_is_no_model_and_no_day_is_refused(project: Project) -> None:
    (project.folder / "people.csv").write_text("id\n1\n")
    for model, more, said in (
        ("Driver", (), "Give one of Rider, Trip"),
        ("rides:NOW", (), "neither a class nor a DatasetPlan"),
        ("rides:Rider", ("--at", "tomorrow"), "--at is no date"),
    ):
        ended = project.run("dataset", "deidentify", "people.csv", "out", "--model", model, *more)
        assert (2, True) == (ended.code, said in ended.err), ended.err
