"""Purposes with a minimum group, in the policy and as scopes."""

from pathlib import Path

import pytest

from privkit.errors import PolicyError
from privkit.policy import load

PURPOSE = "description: Count people, legal_basis: public_task, keep: {for: P1D, after: left}"


def policy(folder: Path, more: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(f"privkit: 1\npurposes:\n  statistics: {{{PURPOSE}{more}}}\n", encoding="utf-8")
    return path


def test_a_purpose_has_a_minimum_group_where_the_policy_gives_one(tmp_path: Path) -> None:
    assert 10 == load(policy(tmp_path, ", minimum_group: 10")).purposes["statistics"].minimum_group
    assert load(policy(tmp_path, "")).purposes["statistics"].minimum_group is None


def test_a_minimum_is_part_of_what_the_digest_is_over(tmp_path: Path) -> None:
    digests = {load(policy(tmp_path, f", minimum_group: {each}")).digest for each in (2, 3)}
    assert 2 == len(digests)


@pytest.mark.parametrize("value", ["1", "0", "-5", "ten", "'10'", "2.5", "1001", ""])
def test_a_minimum_that_is_no_whole_number_from_two_is_an_error_with_its_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(PolicyError, match=r"purposes\.statistics\.minimum_group") as refused:
        load(policy(tmp_path, f", minimum_group: {value}"))
    (problem,) = refused.value.data["problems"]
    assert 3 == problem.line
