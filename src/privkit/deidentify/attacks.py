"""What somebody who wants to recognise people does with a table: told in shares and counts, with no value of anybody.

A *trait* is what such a person knows of everyone: a row's quasi-identifiers, where somebody sleeps and works, the
places where they are most. Each function takes records in memory and keeps nothing.

    traits = home_and_work(visits)
    alone(traits).share                                           # the share of persons whom the pair singles out
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Any, TypeVar

from privkit.errors import InvalidValue
from privkit.location.cells import metres_between
from privkit.location.grouping import centroid
from privkit.location.point import GeoPoint

Trait = TypeVar("Trait")
Visit = tuple[Hashable, str, datetime]
"""A person, a place that has a name (an H3 cell, say) and the local time at which they were there."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """Of how many persons, or rows, how many were singled out. ``right``: how many of these rightly, where known."""

    persons: int
    found: int
    right: int | None = None

    @property
    def share(self) -> float:
        """Return the share of all persons that was found, and rightly so where that is known; 0 where nobody is."""
        return (self.found if self.right is None else self.right) / self.persons if self.persons else 0.0


@dataclass(frozen=True, slots=True)
class Averaged:
    """How far reports of ``places`` are from the truth: ``one`` of them and the mean of all ``reports``, in metres."""

    places: int
    reports: int
    one: float
    mean: float


def alone(traits: Mapping[Any, Hashable], persons: int | None = None) -> Recognised:
    """Count who shares their trait with nobody. ``persons``: how many there are, where some have no trait."""
    sizes = Counter(traits.values())
    return Recognised(len(traits) if persons is None else persons, sum(sizes[each] == 1 for each in traits.values()))


def link(
    released: Iterable[tuple[Hashable, Hashable, Hashable]],
    known: Iterable[tuple[Hashable, Hashable]],
    *,
    truth: bool = False,
) -> Recognised:
    """Look up everybody of a released table in another one, in which people have names.

    ``released``: a person, a trait and, with ``truth``, who it is; ``known``: who it is and the trait. Somebody is
    found where the traits that only one known person has all name the same one. A trait of None matches nothing.
    """
    holders: dict[Hashable, set[Hashable]] = defaultdict(set)
    for name, trait in known:
        if trait is not None and len(holders[trait]) < 2:
            holders[trait].add(name)
    candidates: dict[Hashable, set[Hashable]] = {}
    real: dict[Hashable, Hashable] = {}
    for person, trait, name in released:
        named = holders.get(trait, set())
        candidates.setdefault(person, set()).update(named if len(named) == 1 else ())
        real[person] = name
    matched = {person: names for person, names in candidates.items() if len(names) == 1}
    right = sum(real[person] in names for person, names in matched.items())
    return Recognised(len(candidates), len(matched), right if truth else None)


def link_nearest(
    released: Mapping[Any, Trait], known: Mapping[Any, Trait], apart: Callable[[Trait, Trait], float]
) -> Recognised:
    """Take each released person for the known one whose trait is nearest; both tables name people alike.

    This finds people whose places were moved or made coarser, where ``link`` finds nothing. Every pair is compared.
    Of two who are equally near, none is taken.
    """
    found = right = 0
    for person, trait in released.items():
        distances = sorted((apart(trait, each), other == person) for other, each in known.items())
        if distances and (len(distances) == 1 or distances[0][0] < distances[1][0]):
            found += 1
            right += distances[0][1]
    return Recognised(len(released), found, right)


def home_and_work(visits: Iterable[Visit]) -> dict[Hashable, tuple[str, str]]:
    """Return for each person the place of their nights, 20 to 6 h, and that of their working hours, 9 to 17 h.

    Working hours are those of Monday to Friday. Who was seen only in one of the two is left out. The pair is from
    Golle and Partridge, "On the Anonymity of Home/Work Location Pairs", Pervasive 2009.
    """
    kept = list(visits)
    homes = _hours(each for each in kept if is_night(each[2]))
    works = _hours(each for each in kept if is_working_time(each[2]))
    return {person: (_top(homes[person], 1)[0], _top(works[person], 1)[0]) for person in homes.keys() & works.keys()}


def most_visited(visits: Iterable[Visit], k: int) -> dict[Hashable, tuple[str, ...]]:
    """Return for each person the ``k`` places where they spent most hours, the first most, or as many as there are.

    Source: Zang and Bolot, MobiCom 2011, doi 10.1145/2030613.2030630.
    """
    return {person: tuple(_top(places, k)) for person, places in _hours(visits).items()}


def average(reports: Iterable[tuple[Hashable, GeoPoint]], truth: Mapping[Any, GeoPoint]) -> Averaged:
    """Take the mean of all reports of one place of one person, which is what undoes noise that is drawn each time.

    ``reports``: a key of person and place, and a report; ``truth``: where each really is. Means are taken on the
    sphere. Over n reports fresh noise falls by the square root of n; noise that was drawn once stays. Raises
    InvalidValue where no report has a truth.
    """
    kept: dict[Hashable, list[GeoPoint]] = defaultdict(list)
    for key, point in reports:
        if key in truth:
            kept[key].append(point)
    if not kept:
        raise InvalidValue("No report is of a place whose truth is given.", "", "Use the same keys in both.")
    one = fmean(fmean(metres_between(each, truth[key]) for each in points) for key, points in kept.items())
    mean = fmean(metres_between(centroid(points), truth[key]) for key, points in kept.items())
    return Averaged(len(kept), sum(map(len, kept.values())), one, mean)


def is_night(at: datetime) -> bool:
    """Return whether most people are at home at this local time: from 20 to 6 h."""
    return at.hour >= 20 or at.hour < 6


def is_working_time(at: datetime) -> bool:
    """Return whether most people are at work at this local time: from 9 to 17 h, Monday to Friday."""
    return at.weekday() < 5 and 9 <= at.hour < 17


def _hours(visits: Iterable[Visit]) -> dict[Hashable, Counter[str]]:
    """Count the hours in which somebody was at a place, however many fixes there are in each."""
    found: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for person, place, _ in {
        (person, place, at.replace(minute=0, second=0, microsecond=0)) for person, place, at in visits
    }:
        found[person][place] += 1
    return found


def _top(places: Counter[str], k: int) -> list[str]:
    return sorted(places, key=lambda place: (-places[place], place))[:k]
