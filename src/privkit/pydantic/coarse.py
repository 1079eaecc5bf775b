"""Values at the precision of a purpose: reduced here, or by the storage room before they came here."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

import h3.api.basic_str as h3

from privkit.deidentify import Reduced, coarser, reduce
from privkit.errors import InvalidValue
from privkit.markers import AgeBand, Cell, Exact, Initials, Is, Month, Precision, Quarter, TruncatedIp, Year

_BAND = re.compile(r"\d{1,3}(-\d{1,3}|\+)?")
_QUARTER = re.compile(r"\d{4}-Q[1-4]")
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_MANY = (list, tuple, set, frozenset)


def is_coarse(precision: Precision, value: Any) -> bool:
    """Return whether ``value``, or each of several, is already as coarse as ``precision``.

    Text is known by its form, or by its mark; a StandIn by its mark alone.
    """
    if isinstance(value, _MANY):
        return bool(value) and all(is_coarse(precision, each) for each in value)
    if isinstance(value, Reduced):
        return coarser(precision, value.precision) == value.precision
    match precision:
        case Cell(resolution):
            return isinstance(value, str) and h3.is_valid_cell(value) and h3.get_resolution(value) <= resolution
        case Year():
            return type(value) is int and date.min.year <= value <= date.max.year
        case AgeBand():
            return isinstance(value, str) and _BAND.fullmatch(value) is not None
        case Quarter():
            return isinstance(value, str) and _QUARTER.fullmatch(value) is not None
        case Month():
            return isinstance(value, str) and _MONTH.fullmatch(value) is not None
        case Is():
            return type(value) is bool
        case TruncatedIp() | Initials():
            return isinstance(value, str) and _is_unchanged(precision, value)
    return False


def _is_unchanged(precision: TruncatedIp | Initials, value: str) -> bool:
    try:
        return bool(reduce(precision, value, date.min) == value)
    except InvalidValue:
        return False


def coarsened(precision: Precision, value: Any, today: Callable[[], date]) -> Any:
    """Return ``value``, or a list of each of several, at ``precision``. Raises InvalidValue where it does not fit."""
    if isinstance(precision, Exact):
        return value
    if isinstance(value, _MANY):
        return [coarsened(precision, each, today) for each in value]
    return value if is_coarse(precision, value) else reduce(precision, value, today())
