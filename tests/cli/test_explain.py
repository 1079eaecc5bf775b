"""``privkit explain``: why one row is still there, without its values or its key."""

from __future__ import annotations

import pytest

from tests.cli.program import Project


def test_the_rules_the_instants_and_the_next_run_are_told(project: Project) -> None:
    ended = project.run("explain", "riders", "2", COLUMNS="200")
    assert 0 == ended.code, ended.seen
    assert "riders.home: delete (pickup), since 2026-01-02 00:00:00 UTC" in ended.out
    assert "pickup: P1D after account_closed; account_closed 2026-01-01 00:00:00 UTC, ends 2026-01-02" in ended.out
    assert "a run from 2026-01-02 00:00:00 UTC on: suppressed" in ended.out


def test_another_instant_may_be_asked_about(project: Project) -> None:
    ended = project.run("explain", "trips", "1", "--at", "2026-01-01T00:00:00Z")
    assert 0 == ended.code, ended.seen
    assert "a row of trips at 2026-01-01 00:00:00 UTC" in ended.out
    assert "trips.start: keep (navigation)" in ended.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("riders", "pl4nted-pw"), "does not fit the table"),
        (("riders", "999"), "has no row with this key"),
        (("rider", "1"), "One of: riders, trips."),
        (("riders", "1,2"), "does not fit the table"),
    ],
)
def test_what_names_no_row_is_refused_without_repeating_it(
    project: Project, arguments: tuple[str, str], told: str
) -> None:
    ended = project.run("explain", *arguments)
    assert 2 == ended.code
    assert told in " ".join(ended.err.split())
