"""What is about somebody who was a child when its period began is kept for the child's period, if that is shorter."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from privkit.errors import PolicyError
from privkit.lifetime import Status
from privkit.policy import load
from tests.databases import raw_rows
from tests.sqlalchemy.rides import Clock
from tests.sqlalchemy.school import POLICY, Note, Pupil, School, open_school

LONG = POLICY.replace("keep: {for: P30D", "keep: {for: P6M") + "  keep: P30D\n"
LEFT = datetime(2026, 3, 10, 15, 30)
CHILD, GROWN, GREW_UP, UNKNOWN = 1, 2, 3, 4
BORN = {CHILD: date(2018, 1, 1), GROWN: date(1990, 1, 1), GREW_UP: date(2013, 3, 15), UNKNOWN: None}


@pytest.fixture
def school(database_url: str, tmp_path: Path) -> Iterator[School]:
    """Four pupils of Great Britain who left on one day; one of them came of age five days later."""
    made = open_school(database_url, tmp_path, Clock(datetime(2026, 3, 10, 16, tzinfo=UTC)), LONG)
    with made.privacy.purpose("check"), Session(made.engine) as session:
        for number, born in BORN.items():
            pupil = Pupil(id=number, name=f"Pupil {number}", born=born, country="GB", left_at=LEFT)
            session.add(pupil)
            session.add(Note(pupil=pupil, said="a note"))
        session.commit()
    yield made
    made.engine.dispose()


def readable(school: School) -> tuple[set[int], set[int]]:
    with school.privacy.purpose("check"), Session(school.engine) as session:
        names = {number for number, name in session.execute(select(Pupil.id, Pupil.name)) if name is not None}
        notes = {number for number, said in session.execute(select(Note.pupil_id, Note.said)) if said is not None}
    return names, notes


def test_a_child_s_data_ends_earlier_and_an_adult_s_does_not(school: School) -> None:
    everybody = {CHILD, GROWN, GREW_UP, UNKNOWN}
    school.clock.now = datetime(2026, 4, 9, 15, 29, 59, tzinfo=UTC)
    assert (everybody, everybody) == readable(school)
    school.clock.now = datetime(2026, 4, 9, 15, 30, tzinfo=UTC)
    assert ({GROWN}, {GROWN}) == readable(school)
    school.clock.now = datetime(2026, 9, 10, 15, 30, tzinfo=UTC)
    assert (set(), set()) == readable(school)


def test_a_run_destroys_what_a_child_s_period_has_ended_and_nothing_else(school: School, database_url: str) -> None:
    school.clock.now = datetime(2026, 4, 9, 15, 30, tzinfo=UTC)
    plan = school.privacy.plan(school.engine)
    assert ["parents.name"] == [step.name for step in plan.refused]  # whose column can hold nothing in its place
    run = school.privacy.purge(school.engine, plan, yes_this_many=plan.due)
    assert (0, 8) == (run.overdue, run.done)
    rows = raw_rows(database_url, "SELECT id, length(name) FROM pupils ORDER BY id")
    assert {GROWN} == {number for number, size in rows if size > 1}
    assert "P6M after left, or P30D of a child" in {step.rule for step in plan.steps if step.field == "name"}.pop()


def test_who_came_of_age_before_leaving_is_kept_as_anybody(school: School, database_url: str) -> None:
    raw_rows(database_url, f"UPDATE pupils SET left_at = '2026-03-16 15:30:00.000000' WHERE id = {GREW_UP}")
    school.clock.now = datetime(2026, 5, 1, tzinfo=UTC)
    assert {GROWN, GREW_UP} == readable(school)[0]


def test_what_is_explained_is_what_is_read_and_planned_at_any_instant(school: School, database_url: str) -> None:
    chance = Random(5)
    for number in range(10, 30):
        with school.privacy.purpose("check"), Session(school.engine) as session:
            born = chance.choice([None, date(2013, 3, 1) + timedelta(days=chance.randrange(60))])
            session.add(Pupil(id=number, name="P", born=born, country="GB", left_at=LEFT))
            session.commit()
        left = LEFT + timedelta(hours=chance.randrange(24 * 60))
        raw_rows(database_url, f"UPDATE pupils SET left_at = '{left:%Y-%m-%d %H:%M:%S.%f}' WHERE id = {number}")
    for _ in range(12):
        now = school.clock.now = datetime(2026, 3, 20, tzinfo=UTC) + timedelta(hours=chance.randrange(24 * 100))
        told: dict[int, Any] = {}
        for number in [*BORN, *range(10, 30)]:
            parts = school.privacy.explain(school.engine, Pupil, number, at=now).fields
            told[number] = next(part.status for part in parts if part.name == "pupils.name")
        kept = {number for number, status in told.items() if status is Status.KEEP}
        assert kept == readable(school)[0], now
        [step] = [step for step in school.privacy.plan(school.engine).steps if step.name == "pupils.name"]
        assert len(told) - len(kept) == step.due


def test_an_explanation_says_of_a_child_that_its_period_is_shorter(school: School) -> None:
    told = school.privacy.explain(school.engine, Pupil, CHILD).text()
    assert "check: P6M, of a child P30D, after left; left 2026-03-10 15:30:00 UTC, ends 2026-04-09 15:30:00 UTC" in told
    assert "of a child" not in school.privacy.explain(school.engine, Pupil, GROWN).text()


def test_the_shortest_period_of_policy_and_packs_counts_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(LONG)
    assert "P30D" == str(load(path).child_keep)
    path.write_text(POLICY + "  keep: 30 days\n")
    with pytest.raises(PolicyError, match="ISO 8601"):
        load(path)
