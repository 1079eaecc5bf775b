"""How exact a value a purpose may see, and what may stay of one whose lifetime ended: frozen facts without behaviour.

What they do to values is in ``privkit.deidentify``, with the order among precisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable


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

    ``v4`` is 0 to 31. ``v6`` is 0 to 63, as 64 bits name one household. An IPv6 address that holds an IPv4 one, being
    mapped, compatible, NAT64 or 6to4, becomes the network of that.
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


# Techniques: what a value becomes when its lifetime ends, or its table is handed on. None stays None in each of them.


@dataclass(frozen=True, slots=True)
class Suppress:
    """Leave nothing: NULL, or a destroyed envelope where the column is sealed and NOT NULL."""


@dataclass(frozen=True, slots=True)
class Generalise:
    """Leave the value at a coarser precision, in the residue column."""

    to: Cell | Year | Quarter | Month | AgeBand | TruncatedIp | Initials


@dataclass(frozen=True, slots=True)
class Pseudonymise:
    """Leave a keyed token. Equal values in one ``domain`` get equal tokens; other domains do not match.

    Values are equal without regard to case and outer blanks; ``normaliser`` (``"email"``, ``"digits"`` or
    ``"phone"``, as in ``Equality``) makes more spellings one.
    """

    domain: str
    normaliser: Literal["case", "email", "digits", "phone"] = "case"


@dataclass(frozen=True, slots=True)
class Reversible:
    """Leave a token that ``restore`` turns back, with the key of this ``domain``, which nothing else uses."""

    domain: str


@dataclass(frozen=True, slots=True)
class Substitute:
    """Leave a stand-in of the same kind, made from the key, the ``domain`` and the value alone.

    ``"shape"``: each digit becomes a digit and each letter a letter; length, case and punctuation stay, and different
    values stay different. ``"name"``: such as ``"Amber Heron k3v7q2m5xw4a"``. ``"email"``: an address that nobody has.
    """

    domain: str
    kind: Literal["shape", "name", "email"] = "shape"


@dataclass(frozen=True, slots=True)
class KeepLast:
    """Leave the last ``n`` characters, and never more than half of the value."""

    n: int


@dataclass(frozen=True, slots=True)
class Redact:
    """Leave text without what the regular expression ``pattern`` matches. What it does not match stays."""

    pattern: str
    by: str = "[redacted]"


@dataclass(frozen=True, slots=True)
class ShiftDates:
    """Leave a date moved by up to ``days``, never by 0: by the same for all dates of a data subject in ``domain``."""

    days: int
    domain: str = "dates"


@dataclass(frozen=True, slots=True)
class Zip3:
    """Leave the first three digits of a US ZIP code, ``"000"`` where 20,000 people or fewer live (2000 Census).

    What is no ZIP code leaves the empty text.
    """


@dataclass(frozen=True, slots=True)
class Bins:
    """Leave the class of a number, such as ``"10 to under 20"``; ``bounds`` are where the classes meet."""

    bounds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Clamp:
    """Leave a number, but none below ``low`` or above ``high``: top and bottom coding."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Map:
    """Leave the category that ``to`` gives; one that it does not name becomes ``other``."""

    to: Mapping[str, str] | Iterable[tuple[str, str]]
    other: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "to", tuple(sorted(dict(self.to).items())))


@dataclass(frozen=True, slots=True)
class AddNoise:
    """Leave a number with Laplace noise of ``scale``, within ``low`` to ``high``, rounded to ``digits``.

    It is drawn once for each value of each data subject, so reading again tells nothing more.
    """

    scale: float
    low: float
    high: float
    digits: int = 0
    domain: str = field(default="noise", kw_only=True)


@runtime_checkable
class PlaceNoise(Protocol):
    """How a place is moved: a ``privkit.location.noise.PlanarLaplace``."""

    @property
    def eps(self) -> float:
        """The privacy loss per metre."""

    @property
    def furthest(self) -> float:
        """The greatest distance in metres."""


@dataclass(frozen=True, slots=True)
class Displace:
    """Leave a place moved by ``noise``, as WKT: ``"POINT (-0.12780 51.50740)"``.

    It is drawn once for each place of each data subject in ``domain``, so reading again tells nothing more.
    """

    noise: PlaceNoise
    domain: str = field(default="places", kw_only=True)


@dataclass(frozen=True, slots=True)
class Microaggregate:
    """Leave the mean of a group of at least ``k`` neighbouring numbers. Only for a whole column, so for data sets."""

    k: int = 5


Technique = (
    Suppress
    | Generalise
    | Pseudonymise
    | Reversible
    | Substitute
    | KeepLast
    | Redact
    | ShiftDates
    | Zip3
    | Bins
    | Clamp
    | Map
    | AddNoise
    | Displace
    | Microaggregate
)
"""What can become of a value. ``Delete`` and ``Aggregate``, in ``privkit.markers``, end a whole row."""
