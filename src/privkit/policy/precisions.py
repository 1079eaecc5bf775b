"""Whether a precision, or a technique, fits the values of a field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any, get_args

from privkit.catalog import Field
from privkit.markers import (
    AddNoise,
    AgeBand,
    AtLeastAge,
    Bins,
    BirthDate,
    Cell,
    Clamp,
    Displace,
    Exact,
    Generalise,
    InCountry,
    Initials,
    Is,
    KeepLast,
    Location,
    Map,
    Microaggregate,
    Month,
    Precision,
    Quarter,
    Redact,
    Reversible,
    ShiftDates,
    StandIn,
    Substitute,
    Technique,
    TruncatedIp,
    Year,
    Zip3,
)
from privkit.precisions import PlaceNoise

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


_FITTING: dict[type, tuple[type, ...]] = {
    Substitute: (str, int),
    Reversible: (str,),
    KeepLast: (str,),
    Redact: (str,),
    Map: (str,),
    Zip3: (str, int),
    ShiftDates: (date,),
    Bins: (int, float, Decimal),
    Clamp: (int, float, Decimal),
    AddNoise: (int, float, Decimal),
}


def unfit(item: Field, technique: Technique) -> Iterator[tuple[str, str]]:
    """Say what a technique asks of a field that it cannot give, or of itself, each with a fix."""
    name = type(technique).__name__
    if isinstance(technique, Generalise):
        if isinstance(technique.to, Exact | StandIn | Is):
            yield "the residue is not coarser than the value.", "Suppress()"
        yield from ((f"the residue {misfit}", fix) for misfit, fix in misfits(item, technique.to, sealed=True))
        return
    if isinstance(technique, Microaggregate):
        yield "Microaggregate needs a whole column, so it is for data sets.", "Bins((20, 40, 60))"
    if isinstance(technique, Displace) and (item.many or not place_like(item)):
        yield "Displace does not fit values of its type.", "Suppress()"
    kinds = _FITTING.get(type(technique), ())
    if kinds and (item.many or not (_date_like(item) if kinds == (date,) else _is(item, *kinds))):
        yield f"{name} does not fit values of its type.", "Suppress()"
    yield from ((f"{name} {mistake}", fix) for mistake, fix in mistakes(technique))


def mistakes(technique: Any) -> Iterator[tuple[str, str]]:
    """Say what is wrong with a technique whatever it is used for, each with a fix."""
    match technique:
        case ShiftDates(days) if days < 1:
            yield "moves nothing.", "ShiftDates(365)"
        case KeepLast(n) if n < 1:
            yield "keeps nothing.", "KeepLast(4)"
        case Bins(bounds) if not bounds or sorted(set(bounds)) != list(bounds):
            yield "has no rising bounds.", "Bins((20, 40, 60))"
        case Clamp(None, None):
            yield "has no bound.", "Clamp(high=90)"
        case AddNoise(scale, low, high) if not (scale > 0 and low < high):
            yield "has no scale above 0, or no room between its bounds.", "AddNoise(2.0, low=0, high=120)"
        case Displace(noise) if not isinstance(noise, PlaceNoise):
            yield "has no noise.", "Displace(PlanarLaplace(metres=500))"
        case Microaggregate(k) if k < 2:
            yield "has groups of one, which are the values themselves.", "Microaggregate(5)"
        case Substitute(_, kind) if kind not in ("shape", "name", "email"):
            yield "has a kind that is not known.", 'Substitute("email", "email")'
        case Redact(pattern) if not _redacts(pattern):
            yield "has a pattern that is no regular expression, or matches the empty text.", 'Redact(r"[0-9]{6,}")'


def _redacts(pattern: str) -> bool:
    try:
        return re.search(pattern, "") is None
    except re.error:
        return False


def _is_code(code: object) -> bool:
    return isinstance(code, str) and len(code) == 2 and code.isascii() and code.isalpha() and code.isupper()


def place_like(item: Field) -> bool:
    """Whether the values of a field are places. A track is none: its cells, in order, still tell whose way it is."""
    kind = _element(item)
    if kind is None:
        return isinstance(item.marker, Location)
    if kind.__name__ == "GeoPoint":
        return True
    return isinstance(item.marker, Location) and kind.__name__ != "GeoTrack" and not issubclass(kind, _NEVER_A_PLACE)


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
