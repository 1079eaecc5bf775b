"""What a technique leaves of a value: when its lifetime has ended, and when its table is handed on.

``changed`` is the one meaning of a technique for one value. A purge, a data set on this machine and one on a cluster
all call it.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode
from binascii import Error as NotBase32
from datetime import date, time, timedelta
from decimal import Decimal
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

from privkit.crypto.search import NORMALISERS
from privkit.deidentify.keyed import below, siv
from privkit.deidentify.numbers import binned, clamped, noisy
from privkit.deidentify.order import in_words
from privkit.deidentify.precision import reduce
from privkit.deidentify.pseudonyms import token
from privkit.deidentify.substitutes import substituted
from privkit.errors import InvalidValue, SealedError
from privkit.location.noise import PlanarLaplace, add_noise
from privkit.location.point import GeoPoint
from privkit.markers import Aggregate, Delete, Technique
from privkit.precisions import (
    AddNoise,
    Bins,
    Cell,
    Clamp,
    Displace,
    Generalise,
    KeepLast,
    Map,
    Microaggregate,
    Pseudonymise,
    Redact,
    Reversible,
    ShiftDates,
    Substitute,
    Suppress,
    Zip3,
)

_SPARSE = "036 059 063 102 203 556 692 790 821 823 830 831 878 879 884 890 893"
SPARSE = frozenset(_SPARSE.split())
"""The first three digits of ZIP codes under which 20,000 people or fewer live."""
SPARSE_SOURCE = "ZIP codes by the 2000 Census (45 CFR 164.514(b)(2)(i)(B))"

# Types whose text tells one value from another; a repr that hides its value would make everybody equal.
_TELLING = (str, int, float, Decimal, date, time, UUID, IPv4Address, IPv6Address)


def residue(
    technique: Technique | Aggregate, value: Any, *, key: bytes, today: date, subject: str | None = None
) -> str | None:
    """Return the text that stays in place of ``value``, or None where nothing does. As ``changed``."""
    found = changed(technique, value, key=key, today=today, subject=subject)
    return None if found is None else str(found)


def changed(
    technique: Technique | Aggregate, value: Any, *, key: bytes, today: date, subject: str | None = None
) -> Any:
    """Return what stays in place of ``value``: of its own type where that can be, else text. None leaves None.

    ``key``: the keyring's secret of ``secret_name(technique)``. ``today``: what ages are counted to. ``subject``: what
    tells data subjects apart, where ``needs_subject(technique)``.

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
    match technique:
        case Generalise(to):
            return reduce(to, value, today)
        case Substitute():
            return substituted(technique, value, key)
        case ShiftDates():
            return _shifted(technique, value, key, _required(subject, technique))
        case Bins():
            return binned(technique, value)
        case Clamp():
            return clamped(technique, value)
        case AddNoise():
            return noisy(technique, value, key, _required(subject, technique))
        case Displace():
            return _displaced(technique, value, key, _required(subject, technique))
        case Microaggregate():
            raise InvalidValue(
                "Microaggregate needs a whole column, and was given one value.",
                "A group of one is the value itself.",
                "Use it in a data set's plan; for a field, Bins((...)).",
            )
    return _of_text(technique, _told(technique, value), value, key)


def _of_text(technique: Technique, text: str, value: Any, key: bytes) -> str:
    match technique:
        case Pseudonymise(domain, normaliser):
            return token(key, domain, text if normaliser == "case" else NORMALISERS[normaliser](text))
        case Reversible(domain):
            hidden = siv(key, domain).hide(b"\x01" + text.encode("utf-8", "surrogatepass"), domain.encode())
            return b32encode(hidden).decode("ascii").rstrip("=").lower()
        case KeepLast(n):
            shown = min(n, len(text) // 2)
            return f"*{text[len(text) - shown :]}"
        case Redact(pattern, by):
            return _compiled(pattern).sub(lambda _: by, text)
        case Map(_, other):
            return _categories(technique).get(text, other)
        case Zip3():
            return _zip3(value)
    raise TypeError(type(technique).__name__)


def restore(key: bytes, domain: str, text: str) -> str:
    """Return the text that ``Reversible(domain)`` made ``text`` of.

    ``key``: the keyring's secret ``"reversible:" + domain``; who may not ask does not get it. Raises SealedError for a
    token that was not made with it.
    """
    try:
        hidden = b32decode(text.upper() + "=" * (-len(text) % 8))
    except (NotBase32, ValueError):
        hidden = b""
    plain = siv(key, domain).turn_back(hidden, domain.encode())
    if plain[:1] != b"\x01":
        raise SealedError("A reversible token is of a version that is not known.", "", "Use a newer privkit.")
    return plain[1:].decode("utf-8", "surrogatepass")


def secret_name(technique: Technique | Aggregate) -> str:
    """Return the name of the keyring's secret that a technique takes: a reversible domain has one of its own."""
    return f"reversible:{technique.domain}" if isinstance(technique, Reversible) else "pseudonym"


def needs_subject(technique: Technique | Aggregate) -> bool:
    """Return whether what stays depends on whose value it is."""
    return isinstance(technique, ShiftDates | AddNoise | Displace)


def leaves_residue(technique: Technique | Aggregate) -> bool:
    """Return whether a value survives the technique in a coarser or keyed form."""
    return not isinstance(technique, Delete | Aggregate | Suppress)


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
        case Generalise(to):
            return f"generalised to the {in_words(to)}"
        case Pseudonymise(domain):
            return f"pseudonymised in domain {domain!r}"
        case Reversible(domain):
            return f"replaced by a reversible token in domain {domain!r}"
        case Substitute(domain, kind):
            return f"replaced by a stand-in ({kind}) in domain {domain!r}"
        case KeepLast(n):
            return f"cut to the last {n} characters"
        case Redact():
            return "redacted where a pattern matches"
        case ShiftDates(days):
            return f"moved by up to {days} days, all dates of a data subject alike"
        case Zip3():
            return "generalised to the first three digits of a ZIP code (2000 Census)"
        case Bins():
            return "generalised to classes of numbers"
        case Clamp():
            return "limited to a highest and lowest number"
        case Map():
            return "generalised to declared categories"
        case AddNoise(scale):
            return f"given noise of scale {scale}"
        case Displace():
            return "moved by noise, each place of a data subject once"
        case Microaggregate(k):
            return f"replaced by the mean of {k} or more"


def _told(technique: Technique, value: Any) -> str:
    if isinstance(value, _TELLING):
        return str(value)
    raise InvalidValue(
        f"{type(technique).__name__} does not fit a value of type {type(value).__name__}.",
        "Different values could get one token.",
        "Use Generalise(Cell(...)) for a location, Suppress() for anything without one text form.",
    )


def _required(subject: str | None, technique: Technique) -> str:
    if subject:
        return subject
    raise InvalidValue(
        f"{type(technique).__name__} was given a value of nobody.",
        "It depends on whose value it is.",
        'Name the data subject\'s column: subject="rider_id". Rows without one take Suppress().',
    )


def _shifted(technique: ShiftDates, value: Any, key: bytes, subject: str) -> date:
    if not isinstance(value, date):
        raise InvalidValue(f"ShiftDates does not fit a value of type {type(value).__name__}.", "", "Give it dates.")
    if technique.days < 1:
        raise InvalidValue("ShiftDates moves nothing.", "The exact dates would stay.", "Give it for example 365 days.")
    drawn = below(key, 2 * technique.days, "shift", technique.domain, subject)
    try:
        return value + timedelta(days=drawn - technique.days + (drawn >= technique.days))
    except OverflowError:
        pass  # raised below, so that no context is chained
    raise InvalidValue("A date cannot be moved out of the calendar.", "", "Store None where a date is not known.")


def _displaced(technique: Displace, value: Any, key: bytes, subject: str) -> str:
    if not isinstance(technique.noise, PlanarLaplace) or not isinstance(value, GeoPoint):
        raise InvalidValue("Displace moves a place by a PlanarLaplace.", "", "Displace(PlanarLaplace(metres=500))")
    shown = add_noise(technique.noise, value, key=key, domain=technique.domain, subject=subject)
    return f"POINT ({shown.lon:.5f} {shown.lat:.5f})"


def _zip3(value: Any) -> str:
    text = str(value)
    if isinstance(value, int):  # spreadsheets and databases that take a ZIP code for a number drop its zeros
        text = text.zfill(5 if value < 100_000 else 9)
    found = re.fullmatch(r"([0-9]{3})[0-9]{2}(-?[0-9]{4})?", "".join(text.split()))
    if found is None:
        return ""
    return "000" if found[1] in SPARSE else found[1]


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@lru_cache(maxsize=256)
def _categories(technique: Map) -> dict[str, str]:
    return dict(technique.to)
