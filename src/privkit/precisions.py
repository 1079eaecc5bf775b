"""How exact a value a purpose may see: frozen facts without behaviour.

What they do to values is in ``privkit.deidentify``, with the order among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exact:
    """The value itself."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The H3 cell of a location, as its hexadecimal id. ``resolution`` 0 (continent) to 15 (square metre)."""

    resolution: int


@dataclass(frozen=True, slots=True)
class Year:
    """The year of a date, as an int."""


@dataclass(frozen=True, slots=True)
class Quarter:
    """The quarter of a date, as ``"2012-Q4"``."""


@dataclass(frozen=True, slots=True)
class Month:
    """The month of a date, as ``"2012-12"``."""


@dataclass(frozen=True, slots=True)
class AgeBand:
    """An age as a band such as ``"13-15"``; ``bounds`` are the lowest ages of the bands after the first."""

    bounds: tuple[int, ...] = (13, 16, 18, 25, 35, 45, 55, 65, 75, 90)


@dataclass(frozen=True, slots=True)
class TruncatedIp:
    """The network of an IP address, as ``"203.0.113.0/24"``: the first ``v4`` or ``v6`` bits.

    ``v4`` is 0 to 31. ``v6`` is 0 to 63, as 64 bits name one household. An IPv6 address that holds an IPv4 one, by
    mapping or 6to4, shows no more than ``v4`` bits of that.
    """

    v4: int = 24
    v6: int = 48


@dataclass(frozen=True, slots=True)
class Initials:
    """The first letter of each word of a name, as ``"A. L."``. A word of one letter is its own initial."""


@dataclass(frozen=True, slots=True)
class AtLeastAge:
    """Whether somebody of a birth date has had the birthday of this many years, wherever on earth."""

    years: int


@dataclass(frozen=True, slots=True)
class InCountry:
    """Whether a country code is one of ``codes`` (ISO 3166-1 alpha-2, capitals)."""

    codes: Iterable[str]

    def __post_init__(self) -> None:
        given = (self.codes,) if isinstance(self.codes, str) else self.codes
        object.__setattr__(self, "codes", tuple(sorted(set(given))))


Predicate = AtLeastAge | InCountry


@dataclass(frozen=True, slots=True)
class Is:
    """Only yes or no, as a bool: ``Is(AtLeastAge(16))``. None where the value is not known."""

    predicate: Predicate


@dataclass(frozen=True, slots=True)
class StandIn:
    """A name to show in place of a real one, such as ``"Amber Heron 4821"``, to one ``audience``.

    It is made from the key of the row's data subject: the same in every row and process, another one for another
    audience, and gone when the key is destroyed. Two data subjects may have the same. Only for sealed text.
    """

    audience: str


Precision = Exact | Cell | Year | Quarter | Month | AgeBand | TruncatedIp | Initials | Is | StandIn
