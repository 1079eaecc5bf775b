"""Noise over whole numbers is what the Laplace mechanism says."""

from collections import Counter
from decimal import Decimal
from math import exp, sqrt

import pytest

from privkit.deidentify.private import noisy


def drawn(count: int, *, unit: str = "1", most: str = "1", epsilon: float = 0.5) -> Counter[Decimal]:
    return Counter(noisy(Decimal(7), unit=Decimal(unit), most=Decimal(most), epsilon=epsilon) - 7 for _ in range(count))


@pytest.mark.parametrize(("most", "epsilon"), [("1", 0.5), ("3", 1.5), ("1", 2.0)])
def test_neighbours_are_told_apart_by_no_more_than_epsilon(most: str, epsilon: float) -> None:
    """Each step away from the number is less likely by exp(epsilon / most): within five standard errors."""
    count, ratio = 4_000, exp(-epsilon / int(most))
    found = drawn(count, most=most, epsilon=epsilon)
    for step in range(-3, 4):
        share = (1 - ratio) / (1 + ratio) * ratio ** abs(step)
        assert abs(found[Decimal(step)] / count - share) < 5 * sqrt(share * (1 - share) / count)


def test_noise_is_drawn_in_whole_units() -> None:
    found = drawn(500, unit="0.05", most="2.00")
    assert all(each % Decimal("0.05") == 0 for each in found)
    assert len(found) > 100


def test_what_a_row_cannot_change_has_no_noise() -> None:
    assert drawn(50, most="0") == {Decimal(0): 50}
