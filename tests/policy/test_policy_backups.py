"""How long backups are kept is a period, or nobody said."""

from pathlib import Path

import pytest

from privkit.errors import PolicyError
from privkit.policy import load

TEXT = """\
privkit: 1
purposes:
  account: {description: Run the account, legal_basis: contract, keep: {for: P30D, after: account_closed}}
"""


def test_backups_are_kept_for_a_period_or_nobody_said(tmp_path: Path) -> None:
    (tmp_path / "said.yaml").write_text(TEXT + "backups: P35D\n")
    (tmp_path / "unsaid.yaml").write_text(TEXT)
    assert ("P35D", None) == (str(load(tmp_path / "said.yaml").backups), load(tmp_path / "unsaid.yaml").backups)


@pytest.mark.parametrize("given", ["35", "35 days", "[P35D]", "P0D", ""])
def test_anything_else_is_a_mistake_with_the_way_to_mend_it(tmp_path: Path, given: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"{TEXT}backups: {given}\n")
    with pytest.raises(PolicyError, match=r"policy\.yaml:4") as raised:
        load(path)
    assert "backups: P30D" in str(raised.value)
