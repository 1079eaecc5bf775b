"""What a technique leaves of a value when its lifetime has ended."""

from __future__ import annotations

from datetime import date, time
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

from privkit.deidentify.precision import reduce
from privkit.deidentify.pseudonyms import token
from privkit.errors import InvalidValue
from privkit.markers import Aggregate, Cell, Delete, Generalise, Pseudonymise, Suppress, Technique

# Types whose text tells one value from another; a repr that hides its value would make everybody equal.
_TELLING = (str, int, float, Decimal, date, time, UUID, IPv4Address, IPv6Address)


def residue(technique: Technique | Aggregate, value: Any, *, key: bytes, today: date) -> str | None:
    """Return the text that stays in place of ``value``, or None where nothing does. None leaves None.

    Raises InvalidValue for ``Delete``, which ends a row and not a value, and for a value that the technique
    does not fit.
    """
    if isinstance(technique, Delete | Aggregate):
        raise InvalidValue(
            f"{type(technique).__name__} ends a row, not a field.",
            "",
            "Declare @expire_row(Delete()) on the class, and Suppress() on the field.",
        )
    if value is None or isinstance(technique, Suppress):
        return None
    if isinstance(technique, Generalise):
        return str(reduce(technique.to, value, today))
    if not isinstance(value, _TELLING):
        raise InvalidValue(
            f"Pseudonymise does not fit a value of type {type(value).__name__}.",
            "Different values could get one token.",
            "Use Generalise(Cell(...)) for a location, Suppress() for anything without one text form.",
        )
    return token(key, technique.domain, str(value))


def leaves_residue(technique: Technique | Aggregate) -> bool:
    """Return whether a value survives the technique in a coarser or keyed form."""
    return isinstance(technique, Generalise | Pseudonymise)


def label(technique: Technique | Aggregate) -> str:
    """Return the technique in words for a report. None of them claims that what remains is nobody's."""
    match technique:
        case Delete():
            return "deleted with its row"
        case Aggregate(into):
            return f"counted in {into} and deleted"
        case Suppress():
            return "suppressed"
        case Generalise(Cell(resolution)):
            return f"generalised to H3 cell {resolution}"
        case Generalise():
            return "generalised to the year"
        case Pseudonymise(domain):
            return f"pseudonymised in domain {domain!r}"
