"""Numbers that tell less: classes, bounds, noise, and the means of groups."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any, TypeVar

from privkit.deidentify.keyed import drawn
from privkit.errors import InvalidValue
from privkit.precisions import AddNoise, Bins, Clamp

Number = TypeVar("Number", int, float, Decimal)


def number(value: Any) -> Any:
    """Return an int, float or Decimal as it is. Raises InvalidValue for anything else, NaN and a bool above all."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and not math.isnan(value):
        return value
    raise InvalidValue(
        f"A number was expected, and a value of type {type(value).__name__} was given.",
        "NaN and yes or no are no numbers here.",
        "Use Suppress() or Map(...) for it, or store None where the number is not known.",
    )


def binned(technique: Bins, value: Any) -> str:
    """Return the class of a number. Each class holds its lower bound and not its upper one."""
    bounds = technique.bounds
    if not bounds or any(low >= high for low, high in pairwise(bounds)):
        raise InvalidValue("The bounds of Bins are not rising numbers.", "", "Give for example Bins((10, 20, 30)).")
    place = bisect_right(bounds, number(value))
    if place == 0:
        return f"under {bounds[0]}"
    return f"{bounds[-1]} or more" if place == len(bounds) else f"{bounds[place - 1]} to under {bounds[place]}"


def clamped(technique: Clamp, value: Any) -> Any:
    """Return a number within the bounds, of the type that it had."""
    given = number(value)
    if technique.low is not None and given < technique.low:
        return type(given)(technique.low)
    if technique.high is not None and given > technique.high:
        return type(given)(technique.high)
    return given


def noisy(technique: AddNoise, value: Any, key: bytes, subject: str) -> Any:
    """Return a number with Laplace noise by the inverse of its distribution, of the type that it had.

    A value of a data subject has one noise for ever. This hides a value; it is not differential privacy, which
    draws anew for each answer and counts what it spends.
    """
    given = number(value)
    seed = drawn(key, "noise", technique.domain, subject, repr(float(given)))
    share = ((int.from_bytes(seed[:8]) >> 11) + 0.5) / (1 << 53) - 0.5
    moved = float(given) - math.copysign(technique.scale, share) * math.log1p(-2 * abs(share))
    rounded = round(min(max(moved, technique.low), technique.high), technique.digits)
    return Decimal(repr(rounded)) if isinstance(given, Decimal) else type(given)(rounded)


def groups(counts: Mapping[float, int], k: int) -> dict[float, float]:
    """Return for each number of a column the mean of its group of at least ``k`` neighbours (microaggregation).

    ``counts``: how often each number occurs. Equal numbers stay in one group; what is left at the end joins the last.
    Raises InvalidValue where the column has fewer than ``k`` numbers: their mean would tell of fewer.
    """
    found: list[list[float]] = [[]]
    size = 0
    for each in sorted(counts):
        if size >= k:
            found.append([])
            size = 0
        found[-1].append(each)
        size += counts[each]
    if size < k and len(found) > 1:
        last = found.pop()
        found[-1] += last
    elif 0 < size < k:
        raise InvalidValue(
            f"A column has fewer than {k} numbers, so there is no group of {k}.", "", "Use Suppress(), or a lower k."
        )
    means = ((each, math.fsum(n * counts[n] for n in each) / sum(counts[n] for n in each)) for each in found if each)
    return {each: mean for members, mean in means for each in members}
