"""What a change of policy would destroy, and keep longer, before it is merged."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from privkit import policy
from privkit.errors import PolicyError
from privkit.retention import PolicyDiff, RuleChange
from privkit.retention.diff import FOREVER
from tests.databases import raw_rows
from tests.sqlalchemy.rides import POLICY, Rider, RideService, Trip, rider
from tests.sqlalchemy.rides import GeoPoint as Place

ACCOUNT = "legal_basis: contract\n    keep: {for: P30D, after: account_closed}"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "new.yaml"


def changed(path: Path, old: str, new: str) -> Path:
    text = POLICY.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def by_name(diff: PolicyDiff) -> dict[str, RuleChange]:
    return {each.name: each for each in diff.changes}


def test_a_shorter_period_destroys_and_the_way_back_keeps_as_many(service: RideService, other: Path) -> None:
    service.sign_up(
        rider(1, closed_at=datetime(2025, 12, 10), trips=[]),
        rider(2, closed_at=datetime(2025, 11, 1), trips=[]),
        rider(3, trips=[]),
    )
    changed(other, ACCOUNT, ACCOUNT.replace("P30D", "P7D"))
    there = service.privacy.diff(service.engine, POLICY, other)
    name = by_name(there)["riders.name"]
    assert (name.before, name.after) == ("account: P30D after account_closed", "account: P7D after account_closed")
    assert (name.sooner, name.longer, name.technique) == (1, 0, "pseudonymised in domain 'name'")
    assert set(by_name(there)) == {"riders.name"}  # the e-mail address is kept two years for receipts
    back = service.privacy.diff(service.engine, other, POLICY)
    assert (back.sooner, back.longer, back.ok) == (0, 1, False)


def test_the_same_policy_differs_in_nothing(service: RideService) -> None:
    service.sign_up(rider(1, closed_at=datetime(2020, 1, 1), trips=[]))
    diff = service.privacy.diff(service.engine, POLICY, POLICY)
    assert (diff.changes, diff.ok, diff.before) == ((), True, diff.after)


def test_a_value_that_goes_with_its_row_counts_with_the_row_alone(service: RideService, other: Path) -> None:
    service.sign_up(rider(1, trips=[Trip(start=Place(51.5, 0.2), ended_at=datetime(2025, 12, 31, 6))]))
    changed(other, "{for: P1D, after: trip_ended}", "{for: P1Y, after: trip_ended}")
    found = by_name(service.privacy.diff(service.engine, other, POLICY))
    assert (found["trips"].sooner, found["trips.start"].sooner) == (1, 0)
    found = by_name(service.privacy.diff(service.engine, POLICY, other))
    assert (found["trips"].longer, found["trips.start"].longer) == (1, 0)


def test_a_rule_that_becomes_for_ever_keeps_all_that_was_due(service: RideService, other: Path) -> None:
    service.sign_up(rider(1, closed_at=datetime(2020, 1, 1), trips=[]))
    changed(other, ACCOUNT, 'legal_basis: contract\n    keep: forever\n    because: "the archive"\n    children: never')
    found = by_name(service.privacy.diff(service.engine, POLICY, other))
    assert (found["riders.name"].after, found["riders.name"].longer) == (FOREVER, 1)
    assert found["riders.email"].longer == 1
    back = by_name(service.privacy.diff(service.engine, other, POLICY))
    assert (back["riders.name"].before, back["riders.name"].sooner) == (FOREVER, 1)


def test_a_field_that_is_to_be_sealed_is_told(service: RideService, other: Path) -> None:
    changed(other, "  user.name:\n", "  user.name:\n    seal: required\n")
    found = by_name(service.privacy.diff(service.engine, POLICY, other))
    assert found["riders.name"].sealing == "is to be sealed: a migration"


def test_both_counts_are_those_of_the_plans_under_each_policy(service: RideService, other: Path) -> None:
    service.sign_up(*(rider(number, closed_at=datetime(2025, 12, number), trips=[]) for number in range(1, 25)))
    changed(other, ACCOUNT, ACCOUNT.replace("P30D", "P12D"))
    diff = by_name(service.privacy.diff(service.engine, POLICY, other))["riders.name"]
    now = {step.name: step.due for step in service.privacy.plan(service.engine).steps}["riders.name"]
    assert (now, diff.sooner) == (2, 18)  # due by 2 December, and by 20 December


def test_nothing_is_changed_and_the_columns_stay_bound_to_the_policy_in_force(
    service: RideService, other: Path, database_url: str
) -> None:
    service.sign_up(rider(1, closed_at=datetime(2025, 12, 10), trips=[]))
    before = raw_rows(database_url, "SELECT name, email FROM riders"), service.privacy.plan(service.engine).due
    changed(other, ACCOUNT, ACCOUNT.replace("P30D", "P1D"))
    assert service.privacy.diff(service.engine, POLICY, other).sooner == 1
    after = raw_rows(database_url, "SELECT name, email FROM riders"), service.privacy.plan(service.engine).due
    assert before == after
    with service.privacy.purpose("account"), Session(service.engine) as session:
        assert session.scalars(select(Rider)).one().name == "Rider 1"  # the 30 days are in force


def test_a_policy_that_does_not_fit_the_models_is_refused_with_its_lines(service: RideService, other: Path) -> None:
    changed(other, "after: account_closed", "after: account_ended")
    with pytest.raises(PolicyError, match="maps no event 'account_ended'") as refused:
        service.privacy.diff(service.engine, POLICY, other)
    assert "new.yaml:" in str(refused.value)
    changed(other, "P30D", "P30")
    with pytest.raises(PolicyError, match=r"new.yaml has a mistake|new.yaml"):
        service.privacy.diff(service.engine, POLICY, other)


def test_a_diff_is_json_and_takes_policies_that_were_loaded(service: RideService, other: Path) -> None:
    changed(other, ACCOUNT, ACCOUNT.replace("P30D", "P7D"))
    loaded = policy.load(other)
    body = json.loads(service.privacy.diff(service.engine, service.privacy.policy, loaded).json())
    assert (body["after"], [each["field"] for each in body["changes"]]) == (loaded.digest, ["name"])
