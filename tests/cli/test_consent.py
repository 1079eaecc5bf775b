"""``privkit consent``: words of guardians are recorded and shown, by key id, and nobody's name is."""

from __future__ import annotations

import pytest

from tests.cli.program import Project
from tests.cli.test_holds import key_of

SAID = ("--guardian", "Planted guardian", "--method", "signed_form")


@pytest.fixture
def child(project: Project) -> str:
    """The key id of a rider whose age is not known, who is a child until shown otherwise."""
    project.rows("UPDATE riders SET born = NULL, privkit_adult_on = NULL, closed_at = NULL WHERE id = 1")
    return key_of(project, 1)


def test_a_consent_is_recorded_shown_and_withdrawn(project: Project, child: str) -> None:
    none = project.run("consent", "status", child)
    assert (0, "no word of consent\n") == (none.code, none.out)
    granted = project.run("consent", "grant", child, "--purpose", "pickup", "--purpose", "account", *SAID)
    assert (0, "consent is recorded: account, pickup\n", "") == (granted.code, granted.out, granted.err)
    assert "account: given\npickup: given\n" == project.run("consent", "status", child).out
    withdrawn = project.run("consent", "withdraw", child, "--purpose", "pickup")
    assert (0, "withdrawal is recorded: pickup\n") == (withdrawn.code, withdrawn.out)
    assert "account: given\npickup: withdrawn\n" == project.run("consent", "status", child).out
    history = project.run("consent", "history", child, "--purpose", "pickup", COLUMNS="200")
    assert 0 == history.code
    assert [line for line in history.out.splitlines() if "given" in line and "signed_form" in line and "no" in line]
    assert [line for line in history.out.splitlines() if "withdrawn" in line and "for all" in line]


def test_a_second_yes_is_one_to_giving_data_to_others(project: Project, child: str) -> None:
    both = ("--purpose", "pickup", "--disclosure", "pickup", "--until", "2027-01-01T00:00:00Z")
    assert 0 == project.run("consent", "grant", child, *both, *SAID).code
    shown = project.run("consent", "history", child, COLUMNS="200").out
    assert [line for line in shown.splitlines() if "yes" in line and "2027-01-01" in line]
    assert [(1,)] == project.rows("SELECT disclosure FROM privkit_consent")


def test_who_is_to_be_asked_is_listed_by_key_id(project: Project, child: str) -> None:
    assert "to ask: 0; consent is missing already: 0\n" == project.run("consent", "due").out
    soon = ("--purpose", "pickup", "--until", "2026-06-10T00:00:00Z", *SAID)
    assert 0 == project.run("consent", "grant", child, *soon).code
    due = project.run("consent", "due")
    assert 0 == due.code
    assert f"{child}  riders  guardian  from 2026-06-10  pickup\n" in due.out
    assert "to ask: 0" in project.run("consent", "due", "--days", "5").out
    missing = project.run("consent", "due", RIDES_NOW="2026-06-11T00:00:00+00:00")
    assert (1, True) == (missing.code, "consent is missing already: 1\n" in missing.out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("status", "planted1@secret.example"), "hexadecimal"),
        (("grant", "00" * 16, "--purpose", "pickup", *SAID), "No data subject has this key"),
        (("withdraw", "00" * 16, "--purpose", "pickup"), "No data subject has this key"),
        (("grant", "CHILD", "--purpose", "pickpu", *SAID), "pickup"),
        (("grant", "CHILD", "--purpose", "pickup", "--method", "signed_form"), "--guardian REF or --in-person"),
        (("grant", "CHILD", "--purpose", "pickup", "--in-person", *SAID), "--guardian REF or --in-person"),
        (("grant", "CHILD", "--purpose", "pickup", "--in-person", "--method", "form"), ""),
        (("grant", "CHILD", "--purpose", "pickup", "--disclosure", "account", *SAID), "not consented to itself"),
        (("history", "CHILD", "--purpose", "pickpu"), "pickup"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_shows_nobody(
    project: Project, child: str, arguments: tuple[str, ...], told: str
) -> None:
    ended = project.run("consent", *(child if each == "CHILD" else each for each in arguments))
    assert (2, "") == (ended.code, ended.out)
    assert told in " ".join(ended.err.split())
    assert [] == project.rows("SELECT seq FROM privkit_consent")
