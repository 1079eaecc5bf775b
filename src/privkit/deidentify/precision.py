"""Reduce a value to the precision that a purpose may see."""

from __future__ import annotations

from bisect import bisect_right
from datetime import date, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any

from privkit.errors import InvalidValue
from privkit.location.cells import cell
from privkit.location.point import GeoPoint
from privkit.markers import AgeBand, Cell, Exact, Precision, Year


def reduce(precision: Precision, value: Any, today: date) -> Any:
    """Return ``value`` at ``precision``: itself, an H3 id, a year as int, or an age band such as ``"13-15"``.

    None stays None. A datetime counts as the date that is written in it, without a change of zone. Raises
    InvalidValue where the precision does not fit the value, and for an age from a birth date after ``today``.
    """
    if value is None:
        return None
    match precision:
        case Exact():
            return value
        case Cell(resolution) if isinstance(value, GeoPoint):
            return cell(value, resolution)
        case Year() if isinstance(value, date):
            return value.year
        case AgeBand(bounds) if isinstance(value, date):
            return _labels(bounds)[bisect_right(bounds, _age(value, today))]
    raise InvalidValue(
        f"{type(precision).__name__} does not fit a value of type {type(value).__name__}.",
        "",
        "Use Cell for a GeoPoint, Year or AgeBand for a date, Exact for anything else.",
    )


def _age(born: date, today: date) -> int:
    """Return whole years. Who was born on 29 February is older from 1 March in a year without one."""
    # Only the written date counts, and a date does not compare with a datetime.
    birthday, now = (born.month, born.day), (today.month, today.day)
    if (born.year, *birthday) > (today.year, *now):
        raise InvalidValue(
            "A birth date lies in the future.",
            "No age can be told from it.",
            "Correct the birth date, or store None where it is unknown.",
        )
    return today.year - born.year - (now < birthday)


@lru_cache(maxsize=256)
def _labels(bounds: tuple[int, ...]) -> tuple[str, ...]:
    lows = (0, *bounds)
    if any(low >= high for low, high in pairwise(lows)):
        raise InvalidValue(
            "The bounds of an AgeBand are not rising ages above 0.", "", "Give for example AgeBand((13, 16, 18))."
        )
    bands = (f"{low}-{high - 1}" if high - low > 1 else f"{low}" for low, high in pairwise(lows))
    return (*bands, f"{lows[-1]}+")


def written_date(value: date) -> date:
    """Return the date that is written in ``value``, whatever its zone: a birth date is a day, not an instant."""
    return value.date() if isinstance(value, datetime) else value
