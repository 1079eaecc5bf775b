"""Nested purposes: every block has to need a field, and within one block any of its names will do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.errors import PurposeError
from privkit.markers import AgeBand, Cell, Exact, Precision, Year
from privkit.policy import load
from privkit.purposes import INTERNAL, Scope, narrowed, scope_for
from tests.meta import ROOT

NAMES = ("account", "receipts", "pickup", "demand_map")
blocks = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple), min_size=1, max_size=3)
needs = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([Exact(), Cell(3), Cell(7), Year()]))


def nested(*groups: tuple[str, ...]) -> Scope:
    scope = None
    for group in groups:
        scope = narrowed(scope, Scope(group, {}))
    assert scope is not None
    return scope


def test_a_scope_alone_is_one_group() -> None:
    assert (("account", "receipts"),) == Scope(("account", "receipts"), {}).groups


def test_two_names_of_one_block_are_one_or_the_other_and_two_blocks_are_both() -> None:
    needed = {"account": Exact()}
    assert Exact() == nested(("account", "pickup")).precision(needed)
    assert nested(("account",), ("pickup",)).precision(needed) is None
    assert Exact() == nested(("account", "pickup"), ("account",)).precision(needed)


def test_a_block_that_repeats_the_names_of_the_outer_ones_does_not_widen_them() -> None:
    both = nested(("account",), ("pickup",), ("account", "pickup"))
    assert (("account",), ("pickup",), ("account", "pickup")) == both.groups
    assert ("account", "pickup") == both.names
    assert both.precision({"account": Exact()}) is None


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        ({"account": Exact(), "pickup": Cell(7)}, Cell(7)),
        ({"account": Cell(5), "pickup": Cell(7)}, Cell(5)),
        ({"account": Exact(), "pickup": AgeBand()}, AgeBand()),
        ({"account": Year(), "pickup": Cell(7)}, None),
        ({"pickup": Exact()}, None),
        ({}, None),
    ],
)
def test_of_nested_purposes_the_coarser_precision_counts(
    needed: dict[str, Precision], expected: Precision | None
) -> None:
    assert expected == nested(("account",), ("pickup",)).precision(needed)


def test_of_several_purposes_of_one_block_the_most_exact_precision_counts() -> None:
    assert Exact() == nested(("demand_map", "pickup")).precision({"demand_map": Cell(7), "pickup": Exact()})


def test_privkits_own_work_sees_everything() -> None:
    assert Exact() == INTERNAL.precision({})


@given(blocks, st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple), needs)
def test_one_more_block_never_lets_more_through(
    groups: list[tuple[str, ...]], more: tuple[str, ...], needed: dict[str, Precision]
) -> None:
    if nested(*groups).precision(needed) is None:
        assert nested(*groups, more).precision(needed) is None


@given(blocks, needs)
def test_a_field_needed_by_a_name_of_every_block_at_full_precision_is_let_through(
    groups: list[tuple[str, ...]], needed: dict[str, Precision]
) -> None:
    exact = {name: precision for name, precision in needed.items() if precision == Exact()}
    expected = Exact() if all(set(group) & exact.keys() for group in groups) else None
    assert expected == nested(*groups).precision(exact)


def test_a_scope_carries_the_clock_that_it_was_made_with() -> None:
    policy, now = load(ROOT / "policies" / "rides.yaml"), datetime(2026, 1, 1, tzinfo=UTC)
    outer, inner = scope_for(policy, (), ("account",)), scope_for(policy, (), ("pickup",), clock=lambda: now)
    assert now == narrowed(outer, inner).clock()


def test_a_prohibited_purpose_cannot_be_entered() -> None:
    policy = load(ROOT / "policies" / "rides.yaml")
    with pytest.raises(PurposeError, match="prohibited"):
        scope_for(policy, (), ("account", "marketing"))
