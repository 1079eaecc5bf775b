"""What a policy says of data that is kept on a consent that is missing, and what cannot be said."""

from pathlib import Path

import pytest

from privkit.errors import PolicyError
from privkit.policy import Keep, Policy, load

FILE = """\
privkit: 1
purposes:
  news: {{description: d, legal_basis: consent, keep: {news}}}
  play: {{description: d, legal_basis: contract, keep: {{for: P1D, after: left}}}}
  help: {{description: d, legal_basis: consent, keep: {{for: P1D, after: left}}, children: allowed}}
  none: {{description: d, legal_basis: consent, keep: {{for: P1D, after: left}}, children: never}}
child:
  default_age: 16
  {child}
"""
P1D = "{for: P1D, after: left}"


def read(folder: Path, child: str, news: str = P1D) -> Policy:
    path = folder / "policy.yaml"
    path.write_text(FILE.format(child=child, news=news), encoding="utf-8")
    return load(path)


def lapses(policy: Policy) -> dict[str, list[str]]:
    found = {name: purpose.keep for name, purpose in policy.purposes.items()}
    return {name: [str(each) for each in keep.lapses] for name, keep in found.items() if isinstance(keep, Keep)}


def test_a_purpose_ends_where_the_consent_that_it_needs_is_missing(tmp_path: Path) -> None:
    found = lapses(read(tmp_path, "without_consent: {guardian: P14D, in_person: P30D}"))
    own, guardian = "P30D without the data subject's own consent", "P14D without a guardian's consent"
    assert {"news": [guardian, own], "play": [guardian], "help": [], "none": []} == found
    assert {"news": [own], "play": [], "help": [], "none": []} == lapses(
        read(tmp_path, "without_consent: {in_person: P30D}")
    )


def test_without_the_section_nothing_ends_by_it_and_the_rules_are_others(tmp_path: Path) -> None:
    without, with_it = read(tmp_path, "finite_periods: true"), read(tmp_path, "without_consent: {in_person: P30D}")
    assert {"news": [], "play": [], "help": [], "none": []} == lapses(without)
    assert without.digest != with_it.digest


@pytest.mark.parametrize(
    ("child", "news", "said"),
    [
        ("without_consent: {}", P1D, "child.without_consent says for nobody how long data is kept without consent."),
        ("without_consent: {parent: P14D}", P1D, "child.without_consent has an unknown key"),
        ("without_consent: {guardian: P0D}", P1D, "a period of zero length"),
        ("without_consent: P14D", P1D, "child.without_consent must be a mapping."),
        (
            "without_consent: {in_person: P30D}",
            "{forever: true, because: b}",
            "purposes.news needs consent and keeps for ever, and child.without_consent ends it.",
        ),
    ],
)
def test_what_cannot_be_is_an_error_with_its_line(tmp_path: Path, child: str, news: str, said: str) -> None:
    with pytest.raises(PolicyError) as error:
        read(tmp_path, child, news)
    assert any(said in problem.message for problem in error.value.data["problems"]), error.value
    assert all(problem.line > 1 for problem in error.value.data["problems"])
