"""Facts about children that packs state: ages of digital consent by place and day, and rules beyond them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date

OUTCOMES = ("allowed", "own_consent", "consent", "prohibited")
"""What a use of a child's data needs, the mildest first. ``consent`` is a guardian's."""

USES = ("counselling", "precise_location", "profiling", "sale", "sharing", "targeted_advertising", "tracking")
"""What a purpose may say that it does, so that rules about such uses find it."""

_OTHER_CODES = {"DD": "DE", "EL": "GR", "FX": "FR", "UK": "GB"}
"""Codes that name a country which has another one (ISO 3166-3; EL and UK by EU practice)."""

_UNION = "EU"
"""Reserved in ISO 3166 for the European Union. Its own rule is the default one: GDPR Art. 8(1)."""


@dataclass(frozen=True, slots=True)
class AgeRule:
    """The age, in years, from which a young person alone can consent, from the day ``valid_from`` on.

    ``country``: a code of ISO 3166-1, or of 3166-2 such as ``CA-QC``; None for the default rule and for an unknown
    country. ``status``: ``A`` statute read or two sources, ``B`` one reliable source, ``U`` uncertain.
    ``joint_below``: under the age, child and parent consent together.
    """

    country: str | None
    age: int
    status: str
    source: str
    valid_from: date | None = None
    joint_below: bool = False


@dataclass(frozen=True, slots=True)
class ChildRule:
    """What a law asks for uses of the data of somebody from ``from_age`` and ``below`` an age, in years.

    ``then``: one of ``OUTCOMES``. ``places``, ``bases`` and ``uses``: empty where the rule is for all of them.
    ``valid_from`` and ``valid_until``: the first day and the last; None where there is none.
    """

    name: str
    then: str
    below: int
    from_age: int
    places: tuple[str, ...]
    bases: tuple[str, ...]
    uses: tuple[str, ...]
    status: str
    source: str
    valid_from: date | None
    valid_until: date | None
    where: str

    def concerns(self, basis: str, uses: Collection[str]) -> bool:
        """Whether it is about a purpose of that legal basis and those uses."""
        return (not self.bases or basis in self.bases) and (not self.uses or not set(uses).isdisjoint(self.uses))

    def holds(self, places: Collection[str], day: date, age: int) -> bool:
        """Whether it holds for somebody of ``age`` in one of ``places``, on ``day``."""
        there = not self.places or not set(places).isdisjoint(self.places)
        begun = self.valid_from is None or self.valid_from <= day
        ended = self.valid_until is not None and self.valid_until < day
        return there and begun and not ended and self.from_age <= age < self.below


def places_of(country: object, region: object = None) -> tuple[str, ...]:
    """Return the codes of a place, the narrowest first: ``("CA-QC", "CA")``. Empty where nobody knows.

    ``country`` in either case, or an older or other code for it; ``region`` with the country's code or without.
    """
    code, part = (str(each).strip().upper() if isinstance(each, str) else "" for each in (country, region))
    if not code and "-" in part:
        code = part.partition("-")[0]
    if not code:
        return ()
    code, _, inner = code.partition("-")
    code = _OTHER_CODES.get(code, code)
    inner = part.rpartition("-")[2] or inner
    return (f"{code}-{inner}", code) if inner else (code,)


def codes_of(ages: Iterable[str]) -> tuple[str, ...]:
    """Return the codes of countries, in capitals, that lead to a row of ``ages`` or to the default one."""
    countries = {place for place in ages if "-" not in place}
    others = {other for other, code in _OTHER_CODES.items() if code in countries}
    return tuple(sorted(countries | others | {_UNION}))


def rows_of(
    ages: Mapping[str, tuple[AgeRule, ...]],
    default: AgeRule,
    offered_in: Collection[str],
    places: tuple[str, ...],
) -> tuple[AgeRule, ...]:
    """Return the rules of a place, in the order of their days; an uncertain one takes the stricter of it and default.

    A place without a row takes, for each day on which one changes, the strictest of all rows; where ``offered_in``
    names countries, of theirs.
    """
    found = next((ages[place] for place in places if place in ages), None)
    if found is not None:
        return tuple(_certain(rule, default) for rule in found)
    if places == (_UNION,):
        return (default,)
    among = {place: rows_of(ages, default, (), (place,)) for place in offered_in or ages}
    days = sorted({rule.valid_from for rows in among.values() for rule in rows if rule.valid_from is not None})
    return tuple(_strictest(among, default, day) for day in (None, *days))


def rule_on(rows: Iterable[AgeRule], default: AgeRule, day: date) -> AgeRule:
    """Return the rule that holds on a day; before the first of them the default."""
    begun = [rule for rule in rows if rule.valid_from is None or rule.valid_from <= day]
    return begun[-1] if begun else default


def _certain(rule: AgeRule, default: AgeRule) -> AgeRule:
    return replace(rule, age=default.age) if rule.status == "U" and rule.age < default.age else rule


def _strictest(among: Mapping[str, tuple[AgeRule, ...]], default: AgeRule, day: date | None) -> AgeRule:
    then = [rule_on(rows, default, day or date.min) for rows in among.values()]
    worst = max(then, key=lambda rule: (rule.age, rule.status, rule.country or ""), default=default)
    if worst.country is None:
        return replace(worst, valid_from=day)
    source = f"unknown country: the strictest row, {worst.country} ({worst.source})"
    return AgeRule(None, worst.age, "U", source, day, worst.joint_below)
