"""What a developer writes on a model: frozen facts without behaviour, and the class decorators that attach them.

@data_subject
@events(account_closed="closed_at")
class Rider(Base):
    email: Mapped[Annotated[str, Personal("user.contact.email", purposes={"account"})]]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from privkit.errors import MappingError
from privkit.precisions import AddNoise as AddNoise
from privkit.precisions import AgeBand as AgeBand
from privkit.precisions import AtLeastAge as AtLeastAge
from privkit.precisions import Bins as Bins
from privkit.precisions import Cell as Cell
from privkit.precisions import Clamp as Clamp
from privkit.precisions import Displace as Displace
from privkit.precisions import Exact as Exact
from privkit.precisions import Generalise as Generalise
from privkit.precisions import InCountry as InCountry
from privkit.precisions import Initials as Initials
from privkit.precisions import Is as Is
from privkit.precisions import KeepLast as KeepLast
from privkit.precisions import Map as Map
from privkit.precisions import Microaggregate as Microaggregate
from privkit.precisions import Month as Month
from privkit.precisions import Precision as Precision
from privkit.precisions import Pseudonymise as Pseudonymise
from privkit.precisions import Quarter as Quarter
from privkit.precisions import Redact as Redact
from privkit.precisions import Reversible as Reversible
from privkit.precisions import ShiftDates as ShiftDates
from privkit.precisions import StandIn as StandIn
from privkit.precisions import Substitute as Substitute
from privkit.precisions import Suppress as Suppress
from privkit.precisions import Technique as ValueTechnique
from privkit.precisions import TruncatedIp as TruncatedIp
from privkit.precisions import Year as Year
from privkit.precisions import Zip3 as Zip3
from privkit.previous import Adopting

_Class = TypeVar("_Class", bound=type)


# What ends a whole row. The techniques that end a value are in ``privkit.precisions``.


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the row. Only for ``@expire_row``."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Count the row in a summary table, and delete it. Only for ``@expire_row``.

    ``into``: the summary's table. ``by``: its key columns (text or whole numbers), each with the attribute of the row
    that it comes from, alone or with a precision: ``{"month": ("ended_at", Month()), "city": "city"}``. ``count``:
    its column for the number of rows. ``sums``: its other columns, each with the attribute that is added up there.

    A cell is published once ``at_least`` data subjects have rows in it that were not published before, and only if what
    remains unpublished cannot be told by subtraction: it is nothing, or two cells or more of as many data subjects.
    What still waits after the period ``wait`` is destroyed.

    ``epsilon``: with noise, so that all numbers published of one row lose at most this much (differential privacy of a
    row, docs/lifetimes.md). Each sum then needs ``bounds``, the lowest and highest number that a row may add.
    """

    into: str
    by: Mapping[str, str | tuple[str, Precision]]
    count: str
    sums: Mapping[str, str] = field(default_factory=dict)
    at_least: int = 10
    wait: str = "P1Y"
    epsilon: float | None = None
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("by", "sums", "bounds"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __hash__(self) -> int:
        return hash((self.into, self.count, tuple(self.by), tuple(self.sums), self.at_least, self.wait, self.epsilon))


Technique = Delete | ValueTechnique


# Searches that a sealed field can serve.


@dataclass(frozen=True, slots=True)
class Equality:
    """Serve ``==`` and ``in_`` through a keyed hash of the normalised value.

    ``normaliser`` is ``"exact"``, ``"case"`` (caseless), ``"email"``, ``"digits"`` or ``"phone"``. ``key`` (1 to 255)
    is the number of the index key that new hashes are made with. ``also``: what other hashes may be stored while
    key or normaliser change, each a key number or an ``Equality`` with a key of its own. ``guessable``: why a
    field of so few values that whoever has the table can guess them is searched all the same.
    """

    normaliser: str = "exact"
    key: int = field(default=1, kw_only=True)
    also: tuple[int | Equality, ...] = field(default=(), kw_only=True)
    guessable: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        spelt = (Equality(self.normaliser, key=each) if isinstance(each, int) else each for each in self.also)
        object.__setattr__(self, "also", tuple(spelt))


@dataclass(frozen=True, slots=True)
class Nearby:
    """Serve ``nearby()`` through a keyed hash of the H3 cell at ``resolution``.

    ``key``, ``also`` and ``guessable`` as in ``Equality``; where the resolution changes ``also`` names a ``Nearby``.
    """

    resolution: int
    key: int = field(default=1, kw_only=True)
    also: tuple[int | Nearby, ...] = field(default=(), kw_only=True)
    guessable: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        spelt = (Nearby(self.resolution, key=each) if isinstance(each, int) else each for each in self.also)
        object.__setattr__(self, "also", tuple(spelt))


# Where an event's time stands when it is not a column of the model itself.


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest time of many related rows, as ``"relationship.column"``."""

    path: str


# Field markers.


@dataclass(frozen=True, slots=True)
class Personal:
    """A field that holds personal data.

    ``category``: a Fideslang key such as ``"user.contact.email"``. ``purposes``: the names that need the
    field, or a mapping of name to precision (a set means ``Exact()``). ``then``: the technique at the end of
    its life. ``search``: what a sealed field can be found by. ``seal``: True, False, or None to let the
    category and the policy decide. ``duties``: policy duties that keep it longer. ``id``: the stable name a
    sealed value is bound to; give the old one when the table or the attribute is renamed. ``adopting``: what is
    still stored in another way than sealed. ``formerly``: ids that ``id`` replaced; values that were sealed under
    one of them open until ``privkit reseal`` has sealed them under the present one. ``file``: the name of the store,
    of those that ``Privacy(stores=...)`` was given, in which the value names a file that goes with it.
    """

    category: str
    purposes: Iterable[str] | Mapping[str, Precision] = field(kw_only=True)
    then: Technique = field(default=Suppress(), kw_only=True)
    search: Equality | Nearby | None = field(default=None, kw_only=True)
    seal: bool | None = field(default=None, kw_only=True)
    duties: frozenset[str] = field(default=frozenset(), kw_only=True)
    id: str | None = field(default=None, kw_only=True)
    adopting: Adopting | None = field(default=None, kw_only=True)
    formerly: str | tuple[str, ...] = field(default=(), kw_only=True)
    file: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        given = self.purposes
        if isinstance(given, str):
            given = (given,)
        pairs = given.items() if isinstance(given, Mapping) else ((name, Exact()) for name in given)
        object.__setattr__(self, "purposes", tuple(sorted(pairs, key=lambda pair: pair[0])))
        object.__setattr__(self, "duties", frozenset(self.duties))
        former = (self.formerly,) if isinstance(self.formerly, str) else tuple(self.formerly)
        object.__setattr__(self, "formerly", former)


@dataclass(frozen=True, slots=True)
class Location(Personal):
    """A place of a data subject. Sealed by default."""

    category: str = "user.location.precise"


@dataclass(frozen=True, slots=True)
class BirthDate(Personal):
    """The birth date of a data subject. Sealed by default."""

    category: str = "user.demographic.date_of_birth"


@dataclass(frozen=True, slots=True)
class NotPersonal:
    """A decision that a field is not personal data, with the reason an auditor will read."""

    because: str


# Class markers. Each decorator attaches one and tells the observers that a class has changed.


@dataclass(frozen=True, slots=True)
class DataSubject:
    """Rows of the class are data subjects."""


@dataclass(frozen=True, slots=True)
class OwnedBy:
    """Rows belong to the data subjects at the end of these relationships or foreign-key columns."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Events:
    """When each policy event happened: the name of a column, ``"relationship.column"``, or ``Latest``."""

    sources: tuple[tuple[str, str | Latest], ...]


@dataclass(frozen=True, slots=True)
class ExpireRow:
    """What happens to the row when the lifetime of all its fields has ended."""

    technique: Delete | Aggregate


@dataclass(frozen=True, slots=True)
class ChildProtection:
    """The fields from which it is decided whether a data subject is a child."""

    birth_date: str | tuple[str, ...] = ()
    country: str | None = None
    region: str | None = None
    reached_on: str | None = None
    age_band: str | None = None

    @property
    def births(self) -> tuple[str, ...]:
        """The fields that hold birth dates, a verified one first."""
        return (self.birth_date,) if isinstance(self.birth_date, str) else self.birth_date

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields that the day of age depends on."""
        rest = (self.country, self.region, self.reached_on, self.age_band)
        return (*self.births, *(name for name in rest if name is not None))


@dataclass(frozen=True, slots=True)
class NotPersonalColumns:
    """``NotPersonal`` for several fields at once."""

    names: tuple[str, ...]
    because: str


@dataclass(frozen=True, slots=True)
class Together:
    """Fields and columns that end in one UPDATE."""

    names: tuple[str, ...]


ClassMarker = DataSubject | OwnedBy | Events | ExpireRow | ChildProtection | NotPersonalColumns | Together

ATTRIBUTE = "__privkit__"
observers: list[Callable[[type], None]] = []
"""Called with a class after a decorator marked it; storage rooms add themselves when they are imported."""


def mark(cls: type, marker: ClassMarker) -> None:
    """Attach ``marker`` to ``cls`` and tell the observers."""
    setattr(cls, ATTRIBUTE, (*cls.__dict__.get(ATTRIBUTE, ()), marker))
    for observer in observers:
        observer(cls)


def data_subject(cls: _Class) -> _Class:
    """Declare that rows of this class are data subjects: each gets a key of its own."""
    mark(cls, DataSubject())
    return cls


def owned_by(*paths: str) -> Callable[[_Class], _Class]:
    """Declare who a row is about: relationships, or foreign-key columns, that lead to a data subject."""
    return _marking(OwnedBy(paths))


def events(**sources: str | Latest) -> Callable[[_Class], _Class]:
    """Map policy events to where their time stands, for example ``account_closed="closed_at"``."""
    return _marking(Events(tuple(sorted(sources.items()))))


def expire_row(technique: Delete | Aggregate) -> Callable[[_Class], _Class]:
    """Declare what happens to the whole row once every field of it has expired."""
    return _marking(ExpireRow(technique))


def together(*names: str) -> Callable[[_Class], _Class]:
    """Declare that these columns are emptied in one UPDATE, for example because a CHECK ties them to each other.

    Fields of a group have the same purposes and duties, and end with ``Suppress()``. A column that is not personal,
    as a token that was sent to a phone number, is set to NULL when the first field of its group ends.
    """
    return _marking(Together(names))


def child_protection(
    *,
    birth_date: str | tuple[str, ...] = (),
    country: str | None = None,
    region: str | None = None,
    reached_on: str | None = None,
    age_band: str | None = None,
) -> Callable[[_Class], _Class]:
    """Declare that a data subject may be a child. An unknown age is a child's; an unknown country, the strictest.

    ``birth_date``: a date, a year as int, or text such as ``"2013-05"``; of several fields the first, a verified date,
    counts where it is known, otherwise the latest of the others. ``reached_on``: a date, from which consent is the data
    subject's own (``consent_age_reached_on``), so that no birth date need be kept. ``age_band``: text such as
    ``"13-15"`` or ``"18+"``. ``country`` and ``region``: codes of ISO 3166. Raises MappingError without any age.
    """
    if not (birth_date or reached_on or age_band):
        raise MappingError(
            "@child_protection names no field that tells an age.",
            "Every data subject would be a child for ever.",
            'Name one: birth_date="born", reached_on="consent_age_on" or age_band="band".',
        )
    return _marking(ChildProtection(birth_date, country, region, reached_on, age_band))


def not_personal(*names: str, because: str) -> Callable[[_Class], _Class]:
    """Declare that these fields are not personal data, and why."""
    return _marking(NotPersonalColumns(names, because))


def _marking(marker: ClassMarker) -> Callable[[_Class], _Class]:
    def decorate(cls: _Class) -> _Class:
        mark(cls, marker)
        return cls

    return decorate
