"""Rules of the packs that reach beyond the age of digital consent: the documents name each, and what it asks."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from privkit.consent.rules import decide
from privkit.policy import Policy, load
from tests.consent.test_country_days import DAY, FACTS, holding

ROOT = Path(__file__).resolve().parents[2]
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    name: (path.stem, rule)
    for path in sorted((ROOT / "policies/packs").glob("*.yaml"))
    for name, rule in YAML(typ="safe").load(path.read_text(encoding="utf-8"))["child"].get("rules", {}).items()
}


def reached(place: str) -> int:
    """The age of digital consent of a place that has a row, or of its country; of the Union as a whole the default."""
    if place == "EU":
        return int(FACTS["default"]["age"])
    return holding(place if place in FACTS["rows"] else place.partition("-")[0], DAY)


BEYOND = {name for name, (_, rule) in RULES.items() if any(rule["below"] > reached(place) for place in rule["places"])}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """One that extends all packs, with a purpose for each rule, which is what that rule is about."""
    purposes = "".join(
        f"  {name}: {{description: p, legal_basis: {rule.get('bases', ['contract'])[0]}, children: by_law,\n"
        f"    keep: {{for: P1D, after: left}}, uses: [{', '.join(rule.get('uses', [])[:1])}]}}\n"
        for name, (_, rule) in RULES.items()
    )
    packs = sorted({pack for pack, _ in RULES.values()})
    path = tmp_path_factory.mktemp("older") / "policy.yaml"
    path.write_text(
        f"privkit: 1\nextends: [{', '.join(packs)}]\n"
        f"controller: {{name: Club, contact: p@club.example, regions: [eu-west-1]}}\npurposes:\n{purposes}",
        encoding="utf-8",
    )
    return load(path)


def test_the_documents_name_each_rule_that_reaches_beyond_the_age_of_digital_consent_and_no_other() -> None:
    text = (ROOT / "docs/children.md").read_text(encoding="utf-8")
    table = text.partition("### Young people above")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \(`[\w-]+`\) (\|.*)$", table, flags=re.MULTILINE))
    assert BEYOND == set(rows)
    for name, row in rows.items():
        pack, rule = RULES[name]
        assert f"`{name}` (`{pack}`)" in table
        assert f"| `{rule['then']}` |" in row
        assert all(f"`{use}`" in row for use in rule["uses"]), name


@pytest.mark.parametrize("name", sorted(BEYOND))
def test_whoever_is_just_below_a_rule_s_age_is_decided_on_by_it_and_nobody_older(policy: Policy, name: str) -> None:
    _, rule = RULES[name]
    for place in rule["places"]:
        country, _, region = place.partition("-")
        for age in range(max(reached(place), rule.get("from_age", 0)), rule["below"] + 1):
            found = decide(policy, name, age=age, country=country, region=region or None, day=DAY)
            expected = (rule["then"], name) if age < rule["below"] else ("allowed", "")
            assert expected == (found.outcome, found.rule), (place, age)
