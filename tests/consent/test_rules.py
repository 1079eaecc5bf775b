"""What a purpose needs for a child: by place, day, age, legal basis and use, with the rule that decided."""

from __future__ import annotations

from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from privkit.consent.rules import ChildDecision, decide
from privkit.errors import PolicyError
from privkit.policy import OUTCOMES, USES, Policy, load, pack_names

DAY = date(2026, 11, 27)


def written(folder: Path, packs: str, **purposes: str) -> Policy:
    lines = []
    for name, more in purposes.items():
        basis = "" if "legal_basis" in more else "legal_basis: contract, "
        lines.append(f"  {name}: {{description: d, {basis}keep: {{for: P1D, after: closed}}, {more}}}")
    (folder / "policy.yaml").write_text(f"privkit: 1\nextends: [{packs}]\npurposes:\n" + "\n".join(lines))
    return load(folder / "policy.yaml")


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    by_law = "children: by_law"
    return written(
        tmp_path,
        ", ".join(pack_names()),
        ride="because: x",
        law=by_law,
        asked=f"legal_basis: consent, {by_law}",
        help=f"legal_basis: consent, {by_law}, uses: [counselling]",
        ads=f"{by_law}, uses: [targeted_advertising]",
        sale=f"{by_law}, uses: [sale]",
        map=f"{by_law}, uses: [precise_location]",
        open="children: allowed",
        open_ads="children: allowed, uses: [tracking]",
        adults="children: never",
    )


def outcome(policy: Policy, purpose: str, age: int | None, country: str | None, **more: Any) -> tuple[str, str]:
    found = decide(policy, purpose, age=age, country=country, **{"day": DAY} | more)
    return found.outcome, found.rule


@pytest.mark.parametrize(
    ("purpose", "age", "country", "region", "expected"),
    [
        ("law", 12, "US", None, ("consent", "coppa_parental_consent")),
        ("law", 13, "US", None, ("allowed", "")),
        ("law", 12, "DE", None, ("allowed", "")),
        ("asked", 15, "DE", None, ("consent", "age_of_digital_consent.DE")),
        ("asked", 16, "DE", None, ("allowed", "")),
        ("help", 15, "DE", None, ("allowed", "gdpr_counselling")),
        ("help", 12, "GB", None, ("allowed", "uk_counselling")),
        ("help", 12, "US", None, ("consent", "coppa_parental_consent")),
        ("law", 17, "IN", None, ("consent", "dpdp_parental_consent")),
        ("ads", 17, "IN", None, ("prohibited", "dpdp_tracking")),
        ("ads", 18, "IN", None, ("allowed", "")),
        ("ads", 17, "BR", None, ("prohibited", "eca_advertising")),
        ("ads", 17, "GB", None, ("own_consent", "uk_code_profiling")),
        ("map", 17, "GB", None, ("own_consent", "uk_code_location")),
        ("map", 18, "GB", None, ("allowed", "")),
        ("asked", 13, "KR", None, ("consent", "pipa_legal_representative")),
        ("asked", 11, "BR", None, ("consent", "lgpd_parental_consent")),
        ("law", 11, "BR", None, ("allowed", "")),
        ("sale", 15, "US", "CA", ("own_consent", "ccpa_sale_13_to_15")),
        ("sale", 16, "US", "CA", ("allowed", "")),
        ("sale", 15, "US", "NY", ("allowed", "")),
        ("asked", 13, "CA", "QC", ("consent", "age_of_digital_consent.CA-QC")),
        ("ride", 15, "DE", None, ("consent", "purposes.ride")),
        ("adults", 15, "DE", None, ("prohibited", "purposes.adults")),
        ("open", 5, "US", None, ("allowed", "")),
        ("open_ads", 5, "IN", None, ("prohibited", "dpdp_tracking")),
    ],
)
def test_the_strictest_rule_of_the_place_decides_and_is_named(
    policy: Policy, purpose: str, age: int, country: str, region: str | None, expected: tuple[str, str]
) -> None:
    assert expected == outcome(policy, purpose, age, country, region=region)


def test_a_sale_below_thirteen_in_california_needs_a_parent(policy: Policy) -> None:
    assert "consent" == outcome(policy, "sale", 12, "US", region="CA")[0]


@pytest.mark.parametrize(("day", "expected"), [("2026-03-16", "allowed"), ("2026-03-17", "prohibited")])
def test_d19_a_rule_holds_from_its_day_on(policy: Policy, day: str, expected: str) -> None:
    assert expected == outcome(policy, "ads", 17, "BR", day=date.fromisoformat(day))[0]


def test_a_rule_ends_with_its_last_day(tmp_path: Path) -> None:
    policy = written(tmp_path, "gdpr", law="children: by_law")
    text = (tmp_path / "policy.yaml").read_text()
    rule = "{then: prohibited, below: 18, status: U, source: s, until: 2026-12-31}"
    (tmp_path / "policy.yaml").write_text(f"{text}\nchild: {{rules: {{own: {rule}}}}}\n")
    policy = load(tmp_path / "policy.yaml")
    days = (date(2026, 12, 31), date(2027, 1, 1))
    assert ["prohibited", "allowed"] == [outcome(policy, "law", 5, "DE", day=day)[0] for day in days]
    assert decide(policy, "law", age=5, country="DE", day=days[0]).uncertain


def test_d01_an_unknown_age_is_the_youngest(policy: Policy) -> None:
    found = decide(policy, "law", age=None, country="US", day=DAY)
    assert ("consent", True) == (found.outcome, found.uncertain)


def test_d18_an_unknown_country_takes_every_rule_and_says_so(policy: Policy) -> None:
    found = decide(policy, "ads", age=17, country=None, day=DAY)
    assert ("prohibited", True) == (found.outcome, found.uncertain)
    assert decide(policy, "asked", age=17, country=None, day=DAY).outcome == "consent"


def test_below_fifteen_in_france_child_and_parent_consent_together(policy: Policy) -> None:
    found = decide(policy, "asked", age=14, country="FR", day=DAY)
    assert ("consent", True) == (found.outcome, found.jointly)
    assert found.source.startswith("Data Protection Act art. 45")


def test_an_uncertain_row_takes_the_stricter_age_and_says_so(policy: Policy) -> None:
    found = decide(policy, "asked", age=15, country="NO", day=DAY)
    assert ("consent", "age_of_digital_consent.NO", True) == (found.outcome, found.rule, found.uncertain)


def test_an_adult_needs_nothing(policy: Policy) -> None:
    for purpose, country in product(policy.purposes, ("US", "IN", "GB", None)):
        assert ChildDecision("allowed", "", "") == decide(policy, purpose, age=21, country=country, day=DAY)


def test_an_unknown_purpose_is_refused(policy: Policy) -> None:
    with pytest.raises(PolicyError):
        decide(policy, "nothing", age=5, country="GB", day=DAY)


def test_storage_is_never_milder_than_the_decision_for_anybody_below_the_age_of_consent(tmp_path: Path) -> None:
    kinds = {
        f"p{number}": f"legal_basis: consent, children: by_law, uses: [{use}]"
        if basis == "consent"
        else f"children: by_law, uses: [{use}]"
        for number, (basis, use) in enumerate(product(("consent", "contract"), USES))
    }
    policy = written(tmp_path, ", ".join(pack_names()), **kinds)
    strength = {"allowed": 0, "consent": 2, "never": 3}
    for name, country, age in product(policy.purposes, ("US", "GB", "DE", "IN", "BR", "KR"), range(18)):
        if age < policy.age_of_consent(country).age:
            found = decide(policy, name, age=age, country=country, region="CA", day=DAY).outcome
            needs = 0 if found == "own_consent" else OUTCOMES.index(found)
            assert strength[policy.children_under(name)] >= needs


def test_by_law_asks_nobody_in_storage_where_no_pack_does(tmp_path: Path) -> None:
    policy = written(tmp_path, "gdpr", law="children: by_law", asked="legal_basis: consent, children: by_law")
    assert ["allowed", "consent"] == [policy.children_under(name) for name in ("law", "asked")]
