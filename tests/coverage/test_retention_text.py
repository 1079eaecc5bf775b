"""The text on how long children's data is kept says what the policy says, and holds nothing else."""

from __future__ import annotations

from pathlib import Path

from privkit import FileKeyring, Privacy
from tests.sqlalchemy import camp, members
from tests.sqlalchemy.rides import POLICY, Base


def privacy(folder: Path, policy: Path = POLICY, models: type = Base) -> Privacy:
    return Privacy(policy, models, FileKeyring.create(folder / "keys.json"))


def test_each_category_has_its_purposes_their_basis_and_their_period_in_words(tmp_path: Path) -> None:
    said = privacy(tmp_path).retention_text().markdown()
    place = said.partition("## user.location.precise")[2].partition("\n## ")[0]
    assert "- Find the rider (contract): 1 day after account closed\n" in place
    assert "- Guide the driver (contract): 1 day after trip ended\n" in place
    assert "Switched off for children" in place
    assert "When the last of these ends it is deleted." in place
    assert "- Send a receipt and answer questions about a fare (contract): 2 years after account closed\n" in said
    assert "When the last of these ends it is replaced by a token." in said
    assert said.startswith("# How long Rides Ltd keeps children's data\n")
    assert "privacy@rides.example" in said


def test_duties_are_named_with_their_law_and_what_has_no_end_says_so(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(camp.POLICY)
    said = privacy(tmp_path, policy, camp.Base).retention_text().markdown()
    assert "- Kept for the law alone (Camps Act s.1): 1 year after left\n" in said
    assert "- Call (contract): without an end\n" in said
    assert said.startswith("# How long we keep children's data\n")


def test_the_html_escapes_what_the_policy_says(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.read_text().replace("Find the rider", "'Find <b>&'"))
    said = privacy(tmp_path, policy).retention_text().html()
    assert "Find &lt;b&gt;&amp;" in said
    assert "<b>" not in said
    assert said.startswith('<!DOCTYPE html>\n<html lang="en">')


def test_data_subjects_who_cannot_be_children_are_not_in_it(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(members.POLICY.format(enforcement="enforce"))
    assert () == privacy(tmp_path, policy, members.Base).retention_text().kept
