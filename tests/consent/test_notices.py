"""What a policy says of consent: how long it counts, which notices there are, and how well a guardian is verified."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from privkit.errors import PolicyError
from privkit.policy import Policy, load

DIGEST = "ab" * 32
PURPOSE = "description: Find the rider, legal_basis: contract, keep: {for: P1D, after: closed}"


def policy(tmp_path: Path, purpose: str = "", further: str = "") -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(f"privkit: 1\nextends: [coppa]\npurposes:\n  pickup: {{{PURPOSE}{purpose}}}\n{further}\n")
    return load(path)


def test_without_a_word_consent_counts_for_ever_and_by_any_method(tmp_path: Path) -> None:
    terms = policy(tmp_path).consent_terms("pickup")
    assert (None, None, ()) == (terms.valid, terms.methods, terms.renewals)


def test_a_purpose_says_how_long_consent_to_it_counts(tmp_path: Path) -> None:
    assert "P1Y" == str(policy(tmp_path, ", consent: {valid: P1Y}").consent_terms("pickup").valid)


def test_what_is_disclosed_needs_a_method_that_is_good_enough_for_that(tmp_path: Path) -> None:
    listed = "recipients: {maps: {regions: [eu-west-1], purposes: [pickup]}}"
    for found in (policy(tmp_path, ", disclosure: true"), policy(tmp_path, "", listed)):
        methods = found.consent_terms("pickup").methods
        assert methods is not None
        assert "signed_form" in methods
        assert "email_plus" not in methods
    inside = policy(tmp_path, ", disclosure: false", listed)
    assert inside.consent_terms("pickup").methods is None
    assert "email_plus" not in (inside.consent_terms("pickup", disclosure=True).methods or ())


def test_from_the_day_of_a_material_notice_it_and_the_ones_after_it_count(tmp_path: Path) -> None:
    notices = f"""
notices:
  v3: {{texts: {{en: {DIGEST}}}}}
  v4: {{texts: {{en: {DIGEST}, de: {DIGEST}}}, material: true, from: 2026-02-01}}
  v4.1: {{texts: {{en: {DIGEST}}}}}
"""
    found = policy(tmp_path, "", notices)
    assert ((date(2026, 2, 1), ("v4", "v4.1")),) == found.consent_terms("pickup").renewals
    assert {"en": DIGEST, "de": DIGEST} == found.notices["v4"].texts
    elsewhere = notices.replace("from: 2026-02-01", "from: 2026-02-01, purposes: [pickup]").replace(
        "\n  v4.1", "\n  w1"
    )
    assert ((date(2026, 2, 1), ("v4", "w1")),) == policy(tmp_path, "", elsewhere).consent_terms("pickup").renewals


@pytest.mark.parametrize(
    ("notice", "expected"),
    [
        ("v4: {texts: {}}", "texts is empty"),
        ("v4: {texts: {en: the text itself}}", "SHA-256"),
        ("v4: {material: true}", "texts"),
        (f"'a text': {{texts: {{en: {DIGEST}}}}}", "needs a name"),
        (f"v4: {{texts: {{en: {DIGEST}}}, purposes: [pickups]}}", "not declared"),
    ],
)
def test_a_notice_that_could_show_nothing_is_refused(tmp_path: Path, notice: str, expected: str) -> None:
    with pytest.raises(PolicyError, match=expected):
        policy(tmp_path, "", f"notices:\n  {notice}")
