"""Values at the precision of a purpose: reduced here, or by the storage room before they came here."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

import h3.api.basic_str as h3

from privkit.deidentify import reduce
from privkit.markers import AgeBand, Cell, Exact, Precision, Year

_BAND = re.compile(r"\d{1,3}(-\d{1,3}|\+)?")
_MANY = (list, tuple, set, frozenset)


def is_coarse(precision: Precision, value: Any) -> bool:
    """Return whether ``value``, or each of several, is already as coarse as ``precision``: an H3 id, year or band."""
    if isinstance(value, _MANY):
        return bool(value) and all(is_coarse(precision, each) for each in value)
    match precision:
        case Cell(resolution):
            return isinstance(value, str) and h3.is_valid_cell(value) and h3.get_resolution(value) <= resolution
        case Year():
            return type(value) is int and date.min.year <= value <= date.max.year
        case AgeBand():
            return isinstance(value, str) and _BAND.fullmatch(value) is not None
    return False


def coarsened(precision: Precision, value: Any, today: Callable[[], date]) -> Any:
    """Return ``value``, or a list of each of several, at ``precision``. Raises InvalidValue where it does not fit."""
    if isinstance(precision, Exact):
        return value
    if isinstance(value, _MANY):
        return [coarsened(precision, each, today) for each in value]
    return value if is_coarse(precision, value) else reduce(precision, value, today())


def described(precision: Precision) -> str:
    """Return a precision in words."""
    match precision:
        case Cell(resolution):
            return f"H3 cell {resolution}"
        case Year():
            return "year"
        case AgeBand():
            return "age band"
    return "exact"
