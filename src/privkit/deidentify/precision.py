"""Reduce a value to the precision that a purpose may see."""

from __future__ import annotations

import re
from bisect import bisect_right
from datetime import date, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from typing import Any
from unicodedata import normalize

import h3.api.basic_str as h3

from privkit.deidentify.order import coarser
from privkit.errors import InvalidValue
from privkit.location.cells import cell
from privkit.location.ip import truncated
from privkit.location.point import GeoPoint
from privkit.precisions import (
    AgeBand,
    AtLeastAge,
    Cell,
    Exact,
    InCountry,
    Initials,
    Is,
    Month,
    Precision,
    Predicate,
    Quarter,
    StandIn,
    TruncatedIp,
    Year,
)


class Reduced(str):
    """Text that says less than the value it was made of. No field takes it in place of that value.

    Text that is made of it, by ``str()`` too, is text like any other.
    """

    __slots__ = ("precision",)
    precision: Precision

    def __new__(cls, text: str, precision: Precision) -> Reduced:
        made = super().__new__(cls, text)
        made.precision = precision
        return made

    def __getnewargs__(self) -> tuple[str, Precision]:  # type: ignore[override]
        return str(self), self.precision


def reduce(precision: Precision, value: Any, today: date) -> Any:
    """Return ``value`` at ``precision``: itself, a year as int, yes or no as bool, or text as ``Reduced``.

    None stays None, and a list a list. What was reduced before is reduced further where that can be told from it, and
    never back. A datetime counts as the date that is written in it, without a change of zone. Raises InvalidValue
    where the precision does not fit the value, and for an age from a birth date after ``today``.
    """
    if value is None or isinstance(precision, Exact):
        return value
    if isinstance(value, list):
        return [reduce(precision, each, today) for each in value]
    if isinstance(value, Reduced):
        return _further(precision, value)
    match precision:
        case Cell(resolution) if isinstance(value, GeoPoint):
            return Reduced(cell(value, resolution), precision)
        case Year() | Quarter() | Month() if isinstance(value, date):
            return _period(precision, value.year, value.month)
        case AgeBand() if isinstance(value, date):
            return _band(precision, _age(value, today))
        case TruncatedIp() if isinstance(value, str | IPv4Address | IPv6Address):
            return Reduced(truncated(precision, str(value)), precision)
        case Initials() if isinstance(value, str):
            return Reduced(_initials(value), precision)
        case Is(predicate):
            return _holds(predicate, value, today)
    raise _misfit(precision, value)


def _further(precision: Precision, value: Reduced) -> Any:
    known = value.precision
    wanted = coarser(precision, known)
    if wanted == known:
        return value
    match wanted:
        case Cell(resolution):
            return Reduced(h3.cell_to_parent(str(value), resolution), wanted)
        case Year() | Quarter():
            month = int(value[5:]) if isinstance(known, Month) else 3 * int(value[-1])
            return _period(wanted, int(value[:4]), month)
        case AgeBand():
            return _band(wanted, _lowest(value))
        case TruncatedIp():
            return Reduced(truncated(wanted, str(value)), wanted)
        case Is(AtLeastAge(years)):
            return _lowest(value) >= years
    raise _misfit(precision, value)


def _misfit(precision: Precision, value: Any) -> InvalidValue:
    if isinstance(precision, StandIn):
        return InvalidValue(
            "A StandIn is made where a field is read from storage, and nowhere else.",
            "It takes the key of the row's data subject.",
            "Read the field in a purpose that sees the StandIn, and hand that on.",
        )
    given = f"text at {type(value.precision).__name__}" if isinstance(value, Reduced) else type(value).__name__
    return InvalidValue(
        f"{type(precision).__name__} does not fit a value of type {given}.",
        "",
        "Use Cell for a GeoPoint, Year, Quarter, Month or AgeBand for a date, TruncatedIp for an IP address, "
        "Initials for a name, Exact for anything else.",
    )


def _period(precision: Year | Quarter | Month, year: int, month: int) -> Any:
    match precision:
        case Year():
            return year
        case Quarter():
            return Reduced(f"{year:04}-Q{(month + 2) // 3}", precision)
        case Month():
            return Reduced(f"{year:04}-{month:02}", precision)


def _holds(predicate: Predicate, value: Any, today: date) -> bool:
    match predicate:
        case AtLeastAge(years) if isinstance(value, date):
            return _age(value, today) >= years
        case InCountry(codes) if isinstance(value, str):
            return value.strip().upper() in codes
    raise InvalidValue(
        f"{type(predicate).__name__} cannot be told from a value of type {type(value).__name__}.",
        "",
        "Ask AtLeastAge of a birth date, InCountry of a country code.",
    )


def _initials(name: str) -> str:
    letters = (next(filter(str.isalnum, word), "") for word in normalize("NFC", name).split())
    return " ".join(f"{letter}." for letter in letters if letter)


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


def _band(precision: AgeBand, age: int) -> Reduced:
    return Reduced(_labels(precision.bounds)[bisect_right(precision.bounds, age)], precision)


def _lowest(band: str) -> int:
    return int(re.split(r"[-+]", band)[0])


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
