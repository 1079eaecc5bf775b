"""Which of two precisions tells less, and how each is called in a report."""

from __future__ import annotations

from collections.abc import Iterable

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
    Quarter,
    StandIn,
    TruncatedIp,
    Year,
)

_PERIODS = (Month, Quarter, Year)


def coarser(one: Precision, other: Precision) -> Precision | None:
    """Return the finest precision that tells no more than either, or None where there is none.

    What it returns can be computed from a value at ``one`` and from one at ``other``: of two bands, those bounds that
    both have. A year and an age band do not compare, nor do two different questions.
    """
    match one, other:
        case (Exact(), found) | (found, Exact()):
            return found
        case Cell(a), Cell(b):
            return Cell(min(a, b))
        case TruncatedIp(v4, v6), TruncatedIp(other_v4, other_v6):
            return TruncatedIp(min(v4, other_v4), min(v6, other_v6))
        case AgeBand(bounds), AgeBand(others):
            return AgeBand(tuple(bound for bound in bounds if bound in others))
        case (AgeBand(bounds), Is(AtLeastAge(years)) as found) | (Is(AtLeastAge(years)) as found, AgeBand(bounds)):
            return found if years in bounds else None
        case Month() | Quarter() | Year(), Month() | Quarter() | Year():
            return max(one, other, key=lambda each: _PERIODS.index(type(each)))
    return one if one == other else None


def finest(precisions: Iterable[Precision]) -> Precision:
    """Return the precision that tells most; of such as do not compare, the first."""
    found, *rest = precisions
    for each in rest:
        found = each if coarser(found, each) == found else found
    return found


def in_words(precision: Precision) -> str:
    """Return a precision as a reader who writes no code would say it."""
    match precision:
        case Exact():
            return "exact"
        case Cell(resolution):
            return f"H3 cell {resolution}"
        case Year() | Quarter() | Month():
            return type(precision).__name__.lower()
        case AgeBand():
            return "age band"
        case TruncatedIp(v4, v6):
            return f"network of the IP address, /{v4} or /{v6}"
        case Initials():
            return "initials"
        case Is(AtLeastAge(years)):
            return f"only whether aged {years} or over"
        case Is(InCountry(codes)):
            return f"only whether in {', '.join(codes)}"
        case StandIn(audience):
            return f"stand-in name for {audience!r}"
    raise TypeError(type(precision).__name__)
