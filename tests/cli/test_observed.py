"""``privkit observed``: what a service did without a purpose, counted where the policy observes, refused elsewhere."""

from __future__ import annotations

from tests.cli.program import Project

JOB = """
import rides
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session
from privkit import PrivkitError

def nightly_job(session):
    session.execute(select(rides.Rider.name)).all()

engine = create_engine("sqlite:///rides.sqlite")
rides.privacy.protect(engine)
with Session(engine) as session:
    try:
        nightly_job(session)
    except PrivkitError:
        pass
"""


def run_job(project: Project) -> None:
    (project.folder / "job.py").write_text(JOB)
    project.python("import job")


def test_nothing_was_counted(project: Project) -> None:
    ended = project.run("observed")
    assert 0 == ended.code
    assert "compliant: 0" in ended.out


def test_what_goes_through_is_listed_with_its_place_and_is_to_be_mended(project: Project) -> None:
    project.edit("policy.yaml", "privkit: 1", "privkit: 1\nenforcement: observe")
    run_job(project)
    ended = project.run("observed", COLUMNS="120")
    assert 1 == ended.code
    assert "gap: riders.name without a purpose at job:nightly_job:8" in " ".join(ended.out.split())
    assert 0 == project.run("observed", "--since", "2026-06-02").code
    assert "riders is in observe since 2026-06-01 (0 days)" in " ".join(project.run("check").out.split())


def test_what_was_refused_is_listed_and_is_no_reason_for_alarm(project: Project) -> None:
    run_job(project)
    ended = project.run("observed", COLUMNS="120")
    assert 0 == ended.code
    assert "refused: riders.name without a purpose" in " ".join(ended.out.split())
