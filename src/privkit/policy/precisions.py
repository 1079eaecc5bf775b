"""Whether a precision fits the values of a field."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from ipaddress import IPv4Address, IPv6Address
from typing import get_args

from privkit.catalog import Field
from privkit.markers import (
    AgeBand,
    AtLeastAge,
    BirthDate,
    Cell,
    Exact,
    InCountry,
    Initials,
    Is,
    Location,
    Month,
    Precision,
    Quarter,
    StandIn,
    TruncatedIp,
    Year,
)

_NEVER_A_PLACE = (str, int, float, bool, date)


def misfits(item: Field, precision: Precision, *, sealed: bool) -> Iterator[tuple[str, str]]:
    """Say what a precision asks of a field that it cannot give, each with a fix."""
    name = type(precision).__name__
    match precision:
        case Exact():
            return
        case Cell(resolution):
            if not place_like(item):
                yield "is a Cell, which only a location has.", "Exact()"
            if not 0 <= resolution <= 15:
                yield "is a Cell whose resolution is not 0 to 15.", "Cell(7)"
        case Year() | Quarter() | Month() | AgeBand() | Is(AtLeastAge()):
            if not _date_like(item):
                yield f"is {name}, which only a date has.", "Exact()"
        case TruncatedIp(v4, v6):
            if not _is(item, str, IPv4Address, IPv6Address):
                yield "is TruncatedIp, which only an IP address has.", "Exact()"
            if not (0 <= v4 <= 31 and 0 <= v6 <= 63):
                yield "is a TruncatedIp that truncates nothing, or names one household.", "TruncatedIp(v4=24, v6=48)"
        case Initials() | StandIn() | Is(InCountry()):
            if not _is(item, str):
                yield f"is {name}, which only text has.", "Exact()"
            yield from _misfits_of_text(item, precision, sealed=sealed)
        case _:
            yield "is not a precision.", "Exact()"


def _misfits_of_text(item: Field, precision: Precision, *, sealed: bool) -> Iterator[tuple[str, str]]:
    match precision:
        case StandIn(audience) if not isinstance(audience, str) or not audience:
            yield "is a StandIn for nobody.", 'StandIn("drivers")'
        case StandIn() if item.many:
            yield "is a StandIn, and the field holds many values.", "Initials()"
        case StandIn() if not sealed:
            yield "is a StandIn, which is made from the key that a field is sealed with; this one is not.", "seal=True"
        case Is(InCountry(codes)) if not codes or not all(_is_code(code) for code in codes):
            yield "names something else than two-letter country codes in capitals.", 'Is(InCountry({"DE", "FR"}))'


def _is_code(code: object) -> bool:
    return isinstance(code, str) and len(code) == 2 and code.isascii() and code.isalpha() and code.isupper()


def place_like(item: Field) -> bool:
    """Whether the values of a field are places."""
    kind = _element(item)
    if kind is None:
        return isinstance(item.marker, Location)
    if kind.__name__ == "GeoPoint":
        return True
    return isinstance(item.marker, Location) and not issubclass(kind, _NEVER_A_PLACE)


def _date_like(item: Field) -> bool:
    kind = _element(item)
    return isinstance(item.marker, BirthDate) if kind is None else issubclass(kind, date)


def _is(item: Field, *kinds: type) -> bool:
    kind = _element(item)
    return not isinstance(item.marker, Location | BirthDate) if kind is None else issubclass(kind, kinds)


def _element(item: Field) -> type | None:
    """The type of the value, or of each of many; None where it is not known."""
    kind = item.python_type
    if item.many and get_args(kind):
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and kind is not object else None
