"""Rule packs: dated, sourced, checked like the organisation's file, and overridden by it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from privkit.errors import PolicyError
from privkit.policy import AgeRule, load, pack_names, packs_folder

ROOT = Path(__file__).resolve().parents[2]
FACTS = ROOT.parent / "shared" / "data" / "consent-ages.yaml"

SMALL = "purposes: {p: {description: d, legal_basis: contract, keep: {for: P1D, after: closed}}}\nprivkit: 1\n"
PACK = 'privkit_pack: 1\nas_of: 2026-01-01\nsources: ["a statute"]\n'
AGES = "child: {age_of_digital_consent: {default: {age: 17, status: U, source: s}}}\n"


@pytest.fixture
def load_with(tmp_path):
    """Load a policy text against packs of the test's own."""

    def with_packs(text, **packs):
        folder = tmp_path / "packs"
        folder.mkdir(exist_ok=True)
        for name, content in packs.items():
            (folder / f"{name}.yaml").write_text(content)
        (tmp_path / "policy.yaml").write_text(SMALL + text)
        return load(tmp_path / "policy.yaml", packs=folder)

    return with_packs


@pytest.fixture
def rides():
    return load(ROOT / "policies" / "rides.yaml")


def problems(caught):
    return [(Path(problem.file).name, problem.line, problem.message) for problem in caught.value.data["problems"]]


def test_the_shipped_packs_are_found():
    assert {"gdpr", "coppa", "consent-ages"} <= set(pack_names())
    assert packs_folder().is_dir()


@pytest.mark.parametrize("name", pack_names())
def test_every_shipped_pack_loads_and_is_dated(tmp_path, name):
    path = tmp_path / "policy.yaml"
    path.write_text(SMALL + f"extends: [{name}]\n")
    policy = load(path)
    assert date(2026, 11, 25) == dict(policy.packs)[name]


@pytest.mark.parametrize(
    "category",
    [
        "user.demographic.race_ethnicity",
        "user.demographic.political_opinion",
        "user.demographic.religious_belief",
        "user.demographic.philosophical_belief",
        "user.demographic.union_membership",
        "user.demographic.sexual_orientation",
        "user.health.genetic",
        "user.health_and_medical.genetic",
        "user.biometrics.fingerprint",
        "user.biometric.voice",
        "user.authorization.biometrics",
        "user.criminal_history",
        "user.location.precise",
    ],
)
def test_what_the_gdpr_calls_special_is_sensitive_with_its_article(rides, category):
    assert rides.must_seal(category)
    cited = next(text for key, text in rides.sensitive_categories.items() if category.startswith(key))
    assert cited.startswith("GDPR Art. ")


def test_an_ordinary_category_is_not_sensitive(rides):
    asked = ("user.contact.email", "user.location.coarse", "user.name")
    assert [False] * 3 == [rides.sensitive(key) for key in asked]


def test_every_fact_of_the_gathered_table_is_in_the_shipped_pack(rides):
    if not FACTS.exists():
        pytest.skip("the gathered table is not beside this repository")
    facts = YAML(typ="safe", pure=True).load(FACTS.read_text())
    expected = {
        country: AgeRule(
            country, row["age"], row["status"], row["source"], row.get("from"), row.get("joint_below", False)
        )
        for country, row in facts["rows"].items()
    }
    assert expected == dict(rides.ages)
    assert facts["default"] == {"age": rides.default_age.age, "source": rides.default_age.source}
    assert facts["as_of"] == dict(rides.packs)["consent-ages"]
    methods = {
        name: (row["disclosure"], row.get("evidence"), tuple(row.get("countries", ())))
        for name, row in facts["verification_methods"].items()
    }
    assert methods == {
        name: (method.disclosure, method.evidence, method.countries)
        for name, method in rides.verification_methods.items()
    }


@pytest.mark.parametrize(
    ("country", "age"),
    [("GB", 13), ("gb", 13), ("DE", 16), ("IN", 18), ("CO", 18), ("NO", 16), ("JP", 16), ("BR", 12), ("US", 13)],
)
def test_d18_the_age_of_consent_is_each_countrys_own_and_uncertain_rows_take_the_stricter(rides, country, age):
    assert age == rides.age_of_consent(country).age


@pytest.mark.parametrize("country", [None, "", "EU", "XX", "YU", "GBR", "ß"])
def test_d18_an_unknown_country_takes_the_default(rides, country):
    assert AgeRule(None, 16, "U", "GDPR Art. 8(1)") == rides.age_of_consent(country)


def test_d19_an_age_carries_the_day_from_which_it_holds(rides):
    assert date(2024, 1, 1) == rides.age_of_consent("DK").valid_from


def test_a_policy_without_packs_still_knows_the_ages_and_says_from_where(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(SMALL)
    policy = load(path)
    assert (16, 13) == (policy.age_of_consent(None).age, policy.age_of_consent("GB").age)
    assert ["consent-ages"] == [name for name, _ in policy.packs]


def test_the_stricter_default_age_holds(load_with):
    pack = PACK + AGES
    assert 18 == load_with("extends: [a]\nchild: {default_age: 18}\n", a=pack).age_of_consent(None).age
    assert 17 == load_with("extends: [a]\nchild: {default_age: 13}\n", a=pack).age_of_consent(None).age


def test_the_organisations_file_overrides_its_packs_and_a_later_pack_an_earlier(load_with):
    duty = 'duties: {{tax: {{citation: "{0}", keep: {{for: P{1}Y, after: sold}}}}}}\n'
    one, two = PACK + AGES + duty.format("one", 1), PACK + duty.format("two", 2)
    assert "two" == load_with("extends: [one, two]\n", one=one, two=two).duties["tax"].citation
    assert "one" == load_with("extends: [two, one]\n", one=one, two=two).duties["tax"].citation
    assert "own" == load_with("extends: [one, two]\n" + duty.format("own", 3), one=one, two=two).duties["tax"].citation


def test_a_category_of_the_file_adds_to_the_packs_rule_for_it(load_with):
    pack = PACK + AGES + "categories: {user.location: {seal: required, child: off}}\n"
    policy = load_with("extends: [a]\ncategories: {user.location: {child: on}}\n", a=pack)
    rule = policy.category("user.location")
    assert (True, False) == (rule.seal, rule.child_off)


def test_the_order_of_packs_that_do_not_touch_does_not_change_the_digest(load_with):
    packs = {"a": PACK + AGES, "b": PACK + "sensitive: [user.name]\n"}
    assert load_with("extends: [a, b]\n", **packs).digest == load_with("extends: [b, a]\n", **packs).digest


def test_a_changed_pack_changes_the_digest(load_with):
    before = load_with("extends: [a]\n", a=PACK + AGES).digest
    assert before != load_with("extends: [a]\n", a=PACK + AGES.replace("17", "18")).digest
    assert before != load_with("extends: [a]\n", a=PACK.replace("2026-01-01", "2026-01-02") + AGES).digest


def test_an_unknown_pack_is_refused_with_the_nearest_names(load_with):
    with pytest.raises(PolicyError) as caught:
        load_with("extends: [gdpr, ../a]\n", gpdr=PACK + AGES)
    assert [
        ("policy.yaml", 3, "There is no rule pack 'gdpr'."),
        ("policy.yaml", 3, "There is no rule pack '../a'."),
    ] == (problems(caught))
    assert ("gpdr",) == caught.value.data["problems"][0].nearest


def test_mistakes_of_a_pack_are_reported_with_those_of_the_file_under_the_packs_name(load_with):
    pack = (
        "privkit_pack: 2\nas_of: soon\nsources: []\nsensitiv: [user.name]\n"
        "child:\n  age_of_digital_consent:\n    rows:\n      gb: {age: 13, status: A, source: s}\n"
        "      FR: {age: 0, status: C}\n"
    )
    with pytest.raises(PolicyError) as caught:
        load_with("extends: [a]\nenforcement: no\n", a=pack)
    found = problems(caught)
    assert [("policy.yaml", 4)] + [("a.yaml", line) for line in (1, 2, 3, 4, 8, 9, 9, 9)] == [
        (file, line) for file, line, _ in found
    ]


def test_a_pack_may_not_state_what_is_not_yet_in_force(load_with):
    late = "{age: 15, status: A, source: s, from: 2026-01-02}"
    pack = PACK + f"child:\n  age_of_digital_consent: {{default: {late}}}\n"
    with pytest.raises(PolicyError, match="later than as_of"):
        load_with("extends: [a]\n", a=pack)


def test_a_pack_may_not_extend_or_declare_purposes(load_with):
    with pytest.raises(PolicyError) as caught:
        load_with("extends: [a]\n", a=PACK + AGES + "extends: [b]\npurposes: {}\n")
    assert ["There is an unknown key 'extends'.", "There is an unknown key 'purposes'."] == [
        message for _, _, message in problems(caught)
    ]


def test_packs_that_take_ages_from_each_other_end(load_with):
    policy = load_with("extends: [a]\n", a=PACK + "child: {ages: b}\n", b=PACK + AGES[:-2] + ", ages: a}\n")
    assert 17 == policy.age_of_consent(None).age


def test_packs_without_any_default_age_are_refused(load_with):
    empty = {"a": PACK, "consent-ages": PACK}
    with pytest.raises(PolicyError, match="default age of consent"):
        load_with("extends: [a]\n", **empty)


@pytest.mark.parametrize("content", ["", "# nothing\n", "[]\n"])
def test_a_pack_that_says_nothing_is_refused(load_with, content):
    with pytest.raises(PolicyError) as caught:
        load_with("extends: [a]\n", a=content)
    assert ["a.yaml"] == [file for file, _, _ in problems(caught)]
