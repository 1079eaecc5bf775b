"""``privkit packs`` and ``privkit ages``: the rules on children, and whether what is stored follows them."""

from __future__ import annotations

from tests.cli.program import Project


def test_packs_are_listed_with_their_days_and_sources_without_an_application(project: Project) -> None:
    (project.folder / "pyproject.toml").unlink()
    ended = project.run("packs")
    assert 0 == ended.code
    assert "coppa as of 2026-11-25; rules on children: 1" in ended.out
    assert "16 CFR 312.2" in ended.out
    assert "uncertain, the stricter holds: PL, SI, NO" in ended.out


def test_the_retention_policy_for_children_is_printed_to_be_published(project: Project) -> None:
    ended = project.run("retention-text")
    assert 0 == ended.code
    assert ended.out.startswith("# How long Rides Zoë Ltd keeps children's data")
    assert " after account closed\n" in ended.out
    assert project.run("retention-text", "--html").out.startswith("<!DOCTYPE html>")


def test_ages_that_are_not_as_the_policy_gives_are_counted_then_stored(project: Project) -> None:
    assert 0 == project.run("ages").code
    project.rows("UPDATE riders SET privkit_adult_on = NULL")
    before = project.run("ages")
    assert 1 == before.code
    stored = project.run("ages", "--store")
    assert 0 == stored.code
    assert "riders" in stored.out
    assert 0 == project.run("ages").code
    assert [] == project.rows("SELECT id FROM riders WHERE privkit_adult_on IS NULL AND born IS NOT NULL")
