"""The organisation's file: what loads, what is refused, and where the refusal points."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privkit.errors import PolicyError
from privkit.periods import Period
from privkit.policy import Keep, Policy, Problem, load
from privkit.policy.rules import withdrawn_purpose

ROOT = Path(__file__).resolve().parents[2]
RIDES = ROOT / "policies" / "rides.yaml"

EXAMPLE = """\
privkit: 1
extends: [gdpr, coppa]                 # rule packs shipped in policies/packs/
controller: {name: Rides Ltd, contact: privacy@rides.example, regions: [eu-west-1]}
purposes:
  pickup:     {description: "Find the rider", legal_basis: contract, keep: {for: P1D, after: account_closed}}
  receipts:   {description: "Send a receipt", legal_basis: contract, keep: {for: P2Y, after: account_closed}}
  navigation: {description: "Guide the driver", legal_basis: contract, keep: {for: P1D, after: trip_ended}}   # ...
  account:    {description: "Run the account", legal_basis: contract, keep: {for: P30D, after: account_closed}}
duties:
  tax:      {citation: "Tax Code s.12", keep: {for: P7Y, after: trip_ended}}
categories:
  user.location.precise: {seal: required, severity: {scale: 3, scope: 2, irremediable: 3}, child: off}
recipients:
  maps_inc: {contract: "2026-03-01", regions: [eu-west-1], purposes: [pickup], safeguards: [no-onward-transfer]}
"""

SMALL = """\
privkit: 1
purposes:
  pickup: {description: Find the rider, legal_basis: contract, keep: {for: P1D, after: account_closed}}
"""

Load = Callable[[str], Policy]
Problems = Callable[[str], list[Problem]]


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    """Load a policy from its text."""

    def from_text(text: str | bytes) -> Policy:
        path = tmp_path / "policy.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load(path)

    return from_text


@pytest.fixture
def problems_of(load_text: Load) -> Problems:
    """Return the problems for which a policy's text is refused."""

    def of(text: str) -> list[Problem]:
        with pytest.raises(PolicyError) as caught:
            load_text(text)
        problems: list[Problem] = caught.value.data["problems"]
        assert problems
        return problems

    return of


def only(problems: list[Problem]) -> Problem:
    assert 1 == len(problems), [str(problem) for problem in problems]
    return problems[0]


def test_the_example_of_the_design_loads(load_text):
    policy = load_text(EXAMPLE)
    assert Keep(Period.parse("P1D"), "account_closed") == policy.purposes["pickup"].keep
    assert Keep(Period.parse("P7Y"), "trip_ended") == policy.duties["tax"].keep
    assert "Tax Code s.12" == policy.duties["tax"].citation
    assert ("eu-west-1",) == policy.controller["regions"]
    assert "enforce" == policy.enforcement
    assert policy.naive_datetimes is None
    maps = policy.recipients["maps_inc"]
    assert ("2026-03-01", ("pickup",), ("no-onward-transfer",)) == (maps.contract, maps.purposes, maps.safeguards)
    rule = policy.category("user.location.precise")
    assert rule is not None
    assert (True, (3, 2, 3), True) == (rule.seal, rule.severity, rule.child_off)


def test_the_ride_services_policy_loads():
    policy = load(RIDES)
    keeps = {name: purpose.keep for name, purpose in policy.purposes.items()}
    periods = {name: (str(keep.period), keep.after) for name, keep in keeps.items() if keep is not None}
    expected = {
        "account": ("P30D", "account_closed"),
        "receipts": ("P2Y", "account_closed"),
        "age_check": ("P1D", "account_closed"),
        "pickup": ("P1D", "account_closed"),
        "demand_map": ("P1Y", "account_closed"),
        "navigation": ("P1D", "trip_ended"),
    }
    assert expected == {name: period for name, period in periods.items() if name in expected}
    assert "UTC" == policy.naive_datetimes
    assert policy.purposes["marketing"].prohibited


def test_every_rule_knows_its_file_and_line(load_text, tmp_path):
    policy = load_text(EXAMPLE)
    assert f"{tmp_path / 'policy.yaml'}:6" == policy.purposes["receipts"].where
    assert f"{tmp_path / 'policy.yaml'}:10" == policy.duties["tax"].where


def test_a_policy_that_is_loaded_already_is_returned_as_it_is():
    policy = load(str(RIDES))
    assert load(policy) is policy


def test_a_policy_cannot_be_changed(load_text):
    policy = load_text(SMALL)
    with pytest.raises(TypeError):
        policy.purposes["other"] = policy.purposes["pickup"]
    with pytest.raises(AttributeError):
        policy.enforcement = "other"


def test_enforcement_is_enforce_unless_the_file_says_otherwise(load_text):
    assert "enforce" == load_text(SMALL).enforcement_of("riders")
    assert "observe" == load_text(SMALL + "enforcement: observe\n").enforcement_of("riders")


def test_a_table_may_be_enforced_otherwise_than_the_rest(load_text):
    policy = load_text(SMALL + "enforcement: {default: enforce, tables: {legacy_notes: observe}}\n")
    assert ("enforce", "observe") == (policy.enforcement_of("riders"), policy.enforcement_of("legacy_notes"))
    assert policy.digest != load_text(SMALL).digest


def test_the_repr_of_a_policy_names_the_file_and_no_content(load_text):
    assert "privacy@rides.example" not in repr(load_text(EXAMPLE))


TEN_MISTAKES = """\
privkit: 1
extends: [gpdr]
purposes:
  pickup: {description: Find the rider, legal_basis: contrct, keep: {for: P1D, after: account_closed}}
  receipts: {description: Send a receipt, legal_basis: contract, keep: {for: 2 years, after: account_closed}}
  account: {description: Run the account, legal_basis: contract}
  pickup: {description: Twice, legal_basis: contract, keep: {for: P1D, after: account_closed}}
  navigation:
    descripton: Guide the driver
    legal_basis: contract
    keep: {for: P1D, after: trip_ended}
categories:
  user.location.precise: {seal: required, severity: {scale: 4, scope: 2, irremediable: 3}}
recipients:
  maps_inc: {contract: "2026-02-30", regions: eu-west-1, purposes: [pikup]}
"""


def test_all_mistakes_of_a_file_are_reported_at_once_each_with_its_line(problems_of):
    found = [(problem.line, problem.message.partition(".")[0]) for problem in problems_of(TEN_MISTAKES)]
    assert [line for line, _ in found] == [2, 4, 5, 6, 7, 8, 9, 13, 15, 15, 15]


def test_each_mistake_says_what_was_probably_meant(problems_of):
    by_line = {problem.line: problem for problem in reversed(problems_of(TEN_MISTAKES))}
    assert "gdpr" == by_line[2].nearest[0]
    assert ("contract",) == by_line[4].nearest
    assert "purposes: {pickup: {legal_basis: contract}}" == by_line[4].fix
    assert "purposes: {receipts: {keep: {for: P30D}}}" == by_line[5].fix
    assert ("description",) == by_line[9].nearest


def test_the_error_lists_file_line_message_nearest_and_fix(load_text, tmp_path):
    with pytest.raises(PolicyError) as caught:
        load_text(TEN_MISTAKES)
    message = str(caught.value)
    path = tmp_path / "policy.yaml"
    assert message.startswith(f"PK101: The policy {path} has 11 mistakes.\n")
    line = f"{path}:4: purposes.pickup.legal_basis is 'contrct'; it must be one of"
    assert line in message
    assert "Nearest: contract.\n    purposes: {pickup: {legal_basis: contract}}" in message


def test_the_error_survives_pickling(load_text):
    with pytest.raises(PolicyError) as caught:
        load_text(TEN_MISTAKES)
    assert caught.value.data["problems"] == pickle.loads(pickle.dumps(caught.value)).data["problems"]  # noqa: S301


def test_a_purpose_without_a_period_says_what_that_means_and_both_ways_out(problems_of):
    text = "privkit: 1\npurposes:\n  pickup: {description: Find, legal_basis: contract}\n"
    problem = only(problems_of(text))
    expected = (
        "purposes.pickup has no retention period. Data held for it would be kept for ever. "
        "Give it a period, or say why not:"
    )
    assert expected == problem.message
    assert 'purposes: {pickup: {keep: forever, because: "..."}}' in problem.fix
    assert "purposes: {pickup: {keep: {for: P30D, after: account_closed}}}" in problem.fix


@pytest.mark.parametrize(
    "keep", ['keep: forever, because: "a public register"', 'keep: {forever: true, because: "a public register"}']
)
def test_forever_with_a_reason_is_a_period(load_text, keep):
    policy = load_text(f"privkit: 1\npurposes:\n  register: {{description: d, legal_basis: public_task, {keep}}}\n")
    assert policy.purposes["register"].keep is None
    assert "a public register" == policy.purposes["register"].because


@pytest.mark.parametrize(
    "keep",
    [
        "keep: forever",
        'keep: forever, because: ""',
        "keep: forever, because:",
        "keep: {forever: true}",
        "keep: {forever: false, because: x}",
        'keep: {forever: "true", because: x}',
        "keep: {forever: true, because: x, for: P1D}",
        "keep: true",
        "keep:",
        "keep: []",
        "keep: {for: P1D}",
        "keep: {after: account_closed}",
        "keep: {for: P1D, after: account closed}",
        "keep: {for: P0D, after: account_closed}",
        "keep: {for: P9999Y, after: account_closed}",
        "keep: {for: -P1D, after: account_closed}",
        "keep: {for: P1D, after: account_closed, epoch: week}",
    ],
)
def test_a_keep_that_is_not_clear_is_refused(problems_of, keep):
    text = f"privkit: 1\npurposes:\n  register:\n    {{description: d, legal_basis: public_task, {keep}}}\n"
    assert all(problem.line in (3, 4) for problem in problems_of(text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("enforcement: off", "enforcement is 'off'; it must be one of enforce, observe."),
        ("enforcement: enforced", "enforcement is 'enforced'; it must be one of enforce, observe."),
        ("enforcement: {tables: {notes: observe}}", "enforcement has no 'default'."),
        ("enforcement: {default: enforce, tables: [notes]}", "enforcement.tables is a list; it must be a mapping."),
        ("enforcement: {default: enforce, tables: {notes: on}}", "enforcement.tables.notes is 'on'; it must be one of"),
        ("enforcement: {default: enforce, until: 2027}", "enforcement has an unknown key 'until'."),
        ("naive_datetimes: Europe/Paris", "naive_datetimes is 'Europe/Paris'; it must be UTC."),
        ("enforcment: observe", "There is an unknown key 'enforcment'."),
        ("extends: gdpr", "extends must be a list."),
        ("extends: [[gdpr]]", "extends is a list; it must be a list of texts."),
        ("controller: {contact: x}", "controller has no 'name'."),
        ("sensitive: [User.Health]", "sensitive names 'User.Health', which is not a dotted Fideslang key."),
        ("sensitive: user.health", "sensitive must be a list."),
        ("categories: {user..location: {seal: required}}", "categories names 'user..location', which is not a dotted"),
        ("categories: {user.name: required}", "categories.user.name must be a mapping."),
        ("categories: {user.name: {child: maybe}}", "categories.user.name.child must be on or"),
        ("duties: {tax: {keep: {for: P1D, after: sold}}}", "duties.tax has no 'citation'."),
        ("duties: {tax: {citation: Tax Code}}", "duties.tax has no period."),
        ("duties: {tax: {citation: c, keep: forever}}", "duties.tax.keep must be a mapping."),
        ("duties: {tax: {citation: c, keep: {for: P1D, after: x, epoch: P1D}}}", "duties.tax.keep has an unknown key"),
        ("recipients: {m: {purposes: [pickup]}}", "recipients.m has no 'regions'."),
        ("recipients: {m: {regions: [r], purposes: [pikup]}}", "recipients.m names purpose 'pikup', which is not"),
        ("child: {default_age: 99}", "child.default_age must be a whole number from 1 to 21."),
        ("child: {ages: consent-agse}", "There is no rule pack 'consent-agse'."),
        ("<<: {a: b}", "There is an unknown key '<<'."),
        ("? [a]\n: b", "A key must be a name."),
        ("enforcement: !!python/name:os.system x", "A tag (!name) is not allowed here."),
        ("controller: &c {name: n}\nsensitive: *c", "An alias (*name) is not allowed here."),
        ("enforcement: *nobody", "An alias (*name) is not allowed here."),
        ("a: b: c", "This is not YAML: mapping values are not allowed here."),
        ('enforcement: "\\UFFFFFFFF"', "This is not YAML."),
        ("--- \nprivkit: 1", "A second document starts here (---)."),
        ("x: " + "[" * 5000, "The file is nested deeper than 20 levels."),
    ],
)
def test_each_wrong_line_is_a_problem_on_that_line(problems_of, line, message):
    found = problems_of(SMALL + line + "\n")
    assert any(problem.message.startswith(message) for problem in found), [str(problem) for problem in found]
    assert {4, 5} >= {problem.line for problem in found}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The file is empty."),
        (b"# only a comment\n", "The file is empty."),
        (b"- privkit: 1\n", "The file is a list; it must be a mapping."),
        (b"privkit\n", "The file must be a mapping."),
        (b"\xff\xfep\x00", "The file is not UTF-8 text."),
        (b"privkit: \x00", "The file holds a character that YAML does not allow."),
        (b"#" * 1_000_001, "The file is larger than 1000000 bytes."),
        (b"%YAML 1.1\n---\nprivkit: 1\n", "A policy is YAML 1.2."),
    ],
)
def test_a_file_that_is_no_policy_is_refused(load_text, content, message):
    with pytest.raises(PolicyError) as caught:
        load_text(content)
    assert message in [problem.message for problem in caught.value.data["problems"]]


@pytest.mark.parametrize("privkit", ["2", '"1"', "1.0", "true", "", "one"])
def test_a_file_of_another_version_is_refused(problems_of, privkit):
    problem = only(problems_of(SMALL.replace("privkit: 1", f"privkit: {privkit}")))
    assert ("privkit: 1", 1) == (problem.fix, problem.line)


@pytest.mark.parametrize("text", ["privkit: 1\n", "privkit: 1\npurposes:\n", "privkit: 1\npurposes: {}\n"])
def test_a_policy_without_a_purpose_is_refused(problems_of, text):
    assert "purposes" in only(problems_of(text)).message


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path, Path("a\0b")):
        with pytest.raises(PolicyError) as caught:
            load(path)
        assert only(caught.value.data["problems"]).message.startswith("The file cannot be read (")


def test_aliases_that_multiply_are_refused_before_they_grow(problems_of):
    laughs = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi"))  # noqa: B905
    assert any("alias" in problem.message for problem in problems_of(SMALL + laughs))


def test_an_ordinary_word_is_never_a_boolean(load_text):
    text = SMALL + "child: {age_of_digital_consent: {rows: {NO: {age: 15, status: A, source: s}}}}\n"
    assert 15 == load_text(text).age_of_consent("no").age


@pytest.mark.parametrize(("value", "off"), [("off", True), ("false", True), ("on", False), ("true", False)])
def test_a_childs_switch_reads_on_and_off_in_both_spellings(load_text, value, off):
    rule = load_text(SMALL + f"categories: {{user.location: {{child: {value}}}}}\n").category("user.location")
    assert rule is not None
    assert off == rule.child_off


def test_a_value_that_may_name_a_person_is_not_repeated_in_the_error(load_text):
    with pytest.raises(PolicyError) as caught:
        load_text(SMALL + "controller: {name: n, contact: [ada@rides.example]}\n")
    assert "ada@rides.example" not in str(caught.value)


# The digest


def test_comments_order_and_layout_do_not_change_the_digest(load_text):
    spaced = (
        "# a comment\npurposes:\n  pickup:\n    keep:\n      after: account_closed   # event\n      for: P1D\n"
        "    legal_basis: 'contract'\n    description: \"Find the rider\"\nenforcement: enforce\nprivkit: 1\n"
    )
    assert load_text(SMALL).digest == load_text(spaced).digest


def test_the_place_of_the_file_does_not_change_the_digest(tmp_path, load_text):
    text = SMALL + "child: {default_age: 18}\n"
    other = tmp_path / "elsewhere.yaml"
    other.write_text("\n\n" + text)
    assert load_text(text).digest == load(other).digest


@pytest.mark.parametrize(
    "changed",
    [
        SMALL.replace("P1D", "P2D"),
        SMALL.replace("account_closed", "trip_ended"),
        SMALL.replace("contract", "consent"),
        SMALL.replace("Find the rider", "Find a rider"),
        SMALL.replace("legal_basis", "prohibited: true, legal_basis"),
        SMALL.replace("legal_basis", "children: never, legal_basis"),
        SMALL + "naive_datetimes: UTC\n",
        SMALL + "extends: [gdpr]\n",
        SMALL + "sensitive: [user.name]\n",
        SMALL + "categories: {user.name: {seal: required}}\n",
        SMALL + "duties: {tax: {citation: c, keep: {for: P1D, after: sold}}}\n",
        SMALL + "recipients: {m: {regions: [r], purposes: [pickup]}}\n",
        SMALL + "child: {default_age: 18}\n",
        SMALL + "controller: {name: Rides Ltd}\n",
        SMALL + "backups: P35D\n",
    ],
)
def test_every_rule_changes_the_digest(load_text, changed):
    before = load_text(SMALL).digest
    assert 64 == len(before)
    assert before != load_text(changed).digest


# What a policy answers


def test_an_unknown_purpose_raises_with_the_nearest_names():
    with pytest.raises(PolicyError) as caught:
        load(RIDES).purpose("pickpu")
    assert "pickup" == caught.value.data["nearest"][0]
    assert "There is no purpose 'pickpu' in" in str(caught.value)


def test_a_category_rule_covers_what_lies_below_it_and_the_longest_prefix_wins(load_text):
    text = "categories: {user.contact: {seal: required}, user.contact.url: {seal: optional}}\n"
    policy = load_text(SMALL + text)
    asked = ["user.contact", "user.contact.email", "user.contact.url", "user.contact.url.x", "user.contacts", "user"]
    assert [True, True, False, False, False, False] == [policy.must_seal(key) for key in asked]
    assert policy.category("user.contacts") is None


def test_a_narrower_rule_keeps_what_it_does_not_say_itself(load_text):
    rules = "categories: {user.location: {seal: required, child: off}, user.location.precise: {severity: %s}}\n"
    rule = load_text(SMALL + rules % "{scale: 1, scope: 1, irremediable: 1}").category("user.location.precise.home")
    assert rule is not None
    assert (True, True, (1, 1, 1)) == (rule.seal, rule.child_off, rule.severity)


def test_a_sensitive_category_must_be_sealed_unless_a_rule_says_otherwise(load_text):
    policy = load_text(SMALL + "sensitive: [user.health, user.belief]\ncategories: {user.belief: {seal: optional}}\n")
    assert (True, True) == (policy.sensitive("user.health.genetic"), policy.must_seal("user.health.genetic"))
    assert (True, False) == (policy.sensitive("user.belief"), policy.must_seal("user.belief"))
    assert (False, False) == (policy.sensitive("user.healthy"), policy.must_seal("user.healthy"))


def test_a_recipients_contract_may_be_written_without_quotes(load_text):
    policy = load_text(SMALL + "recipients: {m: {contract: 2026-03-01, regions: [r], purposes: [pickup]}}\n")
    assert date(2026, 3, 1).isoformat() == policy.recipients["m"].contract


# A law: any text either loads or is refused with a PolicyError that holds problems

_LINES = RIDES.read_text().splitlines()
_PIECES = [
    *"{}[]:,&*!|>#%@-? \n\t\"'",
    "a",
    "1",
    "---",
    "<<",
    "privkit: 1",
    "keep",
    "forever",
    "P1D",
    "\\U",
    "\x85",
    "é",
]


@st.composite
def _spoilt(draw: st.DrawFn) -> str:
    lines = list(_LINES)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        cut = draw(st.integers(0, len(lines[at])))
        lines[at] = lines[at][:cut] + draw(st.sampled_from(_PIECES)) + lines[at][cut + draw(st.integers(0, 3)) :]
    return "\n".join(lines)


@settings(deadline=None, max_examples=200)
@given(st.text() | st.lists(st.sampled_from(_PIECES), max_size=30).map("".join) | _spoilt())
def test_any_text_loads_or_is_refused(text):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        policy: Policy | None = None
        problems: list[Problem] = []
        try:
            policy = load(path)
        except PolicyError as error:
            problems = error.data["problems"]
    assert (policy is None) == bool(problems)
    assert policy is None or all(purpose.keep or purpose.because for purpose in policy.purposes.values())


def test_a_purpose_may_count_from_the_withdrawal_of_its_own_consent(load_text):
    text = EXAMPLE.replace("{for: P1D, after: account_closed}", "{for: P30D, after: consent_withdrawn}", 1)
    keep = load_text(text).purposes["pickup"].keep
    assert "P30D after consent_withdrawn:pickup" == str(keep)
    assert "pickup" == withdrawn_purpose(keep.after)
    assert withdrawn_purpose("account_closed") is None


def test_a_duty_counts_from_no_consent(problems_of):
    text = EXAMPLE.replace("{for: P7Y, after: trip_ended}", "{for: P7Y, after: consent_withdrawn}")
    assert "duties.tax.keep.after is consent_withdrawn, from which only a purpose's" in only(problems_of(text)).message


def test_b07_a_keep_may_name_the_row_s_own_end_unless_it_has_epochs(load_text, problems_of):
    old, new = "{for: P1D, after: account_closed", ", until: expires"
    keep = load_text(EXAMPLE.replace(old, old + new, 1)).purposes["pickup"].keep
    assert ("account_closed", "expires") == keep.events
    assert "P1D after account_closed, or until expires" == str(keep)
    both = problems_of(EXAMPLE.replace(old, old + new + ", epoch: P1D", 1))
    assert "until stands beside an epoch" in only(both).message
    withdrawn = problems_of(EXAMPLE.replace(old, old + ", until: consent_withdrawn", 1))
    assert "until is consent_withdrawn" in only(withdrawn).message


def test_a_purpose_cannot_have_the_name_under_which_a_duty_is_entered(problems_of):
    text = EXAMPLE.replace("  pickup:", '  "duty tax":', 1)
    assert any("the name under which a duty is entered" in problem.message for problem in problems_of(text))
