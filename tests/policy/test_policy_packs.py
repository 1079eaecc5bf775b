"""Rule packs: dated, sourced, checked like the organisation's file, and overridden by it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ruamel.yaml import YAML

from privkit.errors import PolicyError
from privkit.policy import AgeRule, codes_of, load, pack_names, packs_folder, places_of, read_packs

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


def load_pack(name):
    """Return a policy that extends one shipped pack."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(SMALL + f"extends: [{name}]\n")
        return load(path)


@pytest.fixture
def rides():
    return load(ROOT / "policies" / "rides.yaml")


def problems(caught):
    return [(Path(problem.file).name, problem.line, problem.message) for problem in caught.value.data["problems"]]


def test_the_shipped_packs_are_found():
    children = {"uk-childrens-code", "dpdp", "lgpd-eca", "pipa", "ccpa-minors"}
    assert {"gdpr", "coppa", "consent-ages"} | children == set(pack_names())
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
    assert expected == {place: rules[-1] for place, rules in rides.ages.items() if "-" not in place}
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


@pytest.mark.parametrize("country", [None, "", " ", "XX", "YU", "SU", "GBR", "ß", 7, b"GB"])
def test_d18_an_unknown_country_takes_the_strictest_row_and_says_which(rides, country):
    found = rides.age_of_consent(country)
    assert (None, 18, "U") == (found.country, found.age, found.status)
    assert found.source.startswith("unknown country: the strictest row, ")


def test_d18_the_european_union_takes_its_own_default(rides):
    assert AgeRule(None, 16, "U", "GDPR Art. 8(1)") == rides.age_of_consent("eu")


@pytest.mark.parametrize(("code", "country"), [("UK", "GB"), ("el", "GR"), ("DD", "DE"), ("FX", "FR")])
def test_d18_another_code_of_a_country_is_understood(rides, code, country):
    assert rides.age_of_consent(country) == rides.age_of_consent(code)
    assert code.upper() in codes_of(rides.ages)


@pytest.mark.parametrize(
    ("country", "region", "places"),
    [
        ("CA", "QC", ("CA-QC", "CA")),
        ("ca", "ca-qc", ("CA-QC", "CA")),
        (None, "CA-QC", ("CA-QC", "CA")),
        ("CA-QC", None, ("CA-QC", "CA")),
        (None, "QC", ()),
        (None, None, ()),
    ],
)
def test_a_part_of_a_country_goes_before_it(country, region, places):
    assert places == places_of(country, region)


def test_a_part_with_a_row_has_its_own_age_and_one_without_its_countrys(rides):
    assert [14, 16, 13] == [rides.age_of_consent(*place).age for place in (("CA", "QC"), ("CA", "ON"), ("US", "CA"))]


def test_a_service_that_is_offered_in_some_countries_takes_the_strictest_of_theirs(load_with):
    ages = {"GB": 13, "FR": 15, "IN": 18}
    rows = "{" + ", ".join(f"{code}: {{age: {age}, status: A, source: s}}" for code, age in ages.items()) + "}"
    pack = PACK + AGES[:-3] + f", rows: {rows}}}}}\n"
    assert 18 == load_with("extends: [a]\n", a=pack).age_of_consent(None).age
    assert 15 == load_with("extends: [a]\nchild: {offered_in: [GB, FR]}\n", a=pack).age_of_consent("XX").age
    assert 18 == load_with("extends: [a]\nchild: {offered_in: [NZ]}\n", a=pack).age_of_consent(None).age
    with pytest.raises(PolicyError, match="no code of a country"):
        load_with("extends: [a]\nchild: {offered_in: [Britain]}\n", a=pack)


def test_d19_an_age_holds_from_its_day_on(rides):
    days = [date(2023, 12, 31), date(2024, 1, 1), date(2024, 1, 2)]
    assert [13, 15, 15] == [rides.age_of_consent("DK", day=day).age for day in days]


RAISED = "{GB: [{age: 13, status: A, source: s}, {age: 16, status: B, source: t, from: 2027-03-01}]}"


def test_d19_an_age_that_is_going_to_be_raised_is_known_before(load_with):
    policy = load_with("extends: [a]\n", a=PACK + AGES[:-3] + f", rows: {RAISED}}}}}\n")
    day = date(2027, 3, 1)
    assert [13, 16] == [rule.age for rule in policy.ages_of_consent("GB", None, date(2027, 2, 28))]
    assert [16] == [rule.age for rule in policy.ages_of_consent("GB", None, day)]
    assert [13, 16] == [policy.age_of_consent(None, day=each).age for each in (date(2027, 2, 28), day)]


def test_ages_of_one_place_follow_one_another(load_with):
    mixed = "{GB: [{age: 16, status: A, source: s, from: 2020-01-01}, {age: 13, status: A, source: s}]}"
    with pytest.raises(PolicyError, match="do not follow one another"):
        load_with("extends: [a]\n", a=PACK + AGES[:-3] + f", rows: {mixed}}}}}\n")


def test_every_rule_and_age_of_a_pack_has_its_source_and_is_within_its_days():
    for name in pack_names():
        policy = load_pack(name)
        for rule in policy.child_rules.values():
            assert rule.source
            assert rule.where.startswith(str(packs_folder() / name))
            assert rule.valid_from is None or rule.valid_from <= dict(policy.packs)[name]


def test_the_packs_are_listed_with_their_days_sources_and_uncertain_rows():
    found = {pack.name: pack for pack in read_packs()}
    assert set(pack_names()) == set(found)
    assert all(pack.sources for pack in found.values())
    assert {"NO", "PL", "JP"} < set(found["consent-ages"].uncertain)
    assert (0, 2) == (found["ccpa-minors"].ages, found["ccpa-minors"].rules)


def test_packs_with_mistakes_are_not_listed(tmp_path):
    (tmp_path / "a.yaml").write_text(PACK.replace("2026-01-01", "soon") + AGES)
    with pytest.raises(PolicyError, match="as_of"):
        read_packs(tmp_path)


def test_a_mistake_in_a_rule_is_told_with_its_line_and_what_is_near(load_with):
    rule = "child: {rules: {r: {then: forbidden, below: 13, status: A, source: s, uses: [profilling]}}}\n"
    with pytest.raises(PolicyError) as caught:
        load_with(rule)
    assert ["child.rules.r.then is 'forbidden'; it must be one of allowed, own_consent, consent, prohibited."] == [
        message for _, _, message in problems(caught)
    ]
    with pytest.raises(PolicyError, match=r"child\.rules\.r\.uses has 'profilling'"):
        load_with(rule.replace("forbidden", "prohibited"))


def test_a_policy_without_packs_still_knows_the_ages_and_says_from_where(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(SMALL)
    policy = load(path)
    assert (18, 13) == (policy.age_of_consent(None).age, policy.age_of_consent("GB").age)
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
