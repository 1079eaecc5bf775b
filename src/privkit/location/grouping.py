"""Cells that are published only with enough persons in them, and the middle of a group of places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

import h3.api.basic_str as h3

from privkit.errors import InvalidValue
from privkit.location.cells import cell
from privkit.location.point import GeoPoint
from privkit.location.regions import middle_of

Persons = Callable[[int], Mapping[str, int]]
"""From an H3 resolution to the number of different persons in each of its cells, as a database counts them."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """The published cell of each cell, or None where it is withheld.

    ``smallest``: the fewest persons that a published group is known to have; None where nothing is published.
    """

    published: Mapping[str, str | None]
    smallest: int | None

    @property
    def withheld(self) -> int:
        """How many cells stay unpublished."""
        return sum(1 for each in self.published.values() if each is None)


def group_cells(persons: Persons, *, k: int, finest: int, coarsest: int = 0) -> Grouping:
    """Climb from each cell to the first ancestor under which at least ``k`` persons are published together.

    Who shares a published cell is exactly who climbed to it: those of a finer published cell inside are told apart by
    their own, so they do not count. With counts alone, somebody in two cells is subtracted twice; so a group may be
    larger than it was taken for, and never smaller. Raises InvalidValue for a ``k`` below 2, resolutions that are
    none, and counts that do not fit together.
    """
    if k < 2 or not 0 <= coarsest <= finest <= 15:
        raise InvalidValue(
            "Grouping needs a k of 2 or more, and resolutions from 0 to 15, the coarsest not above the finest.",
            "",
            "Give for example group_cells(persons, k=10, finest=9, coarsest=5).",
        )
    counts = dict(persons(finest))
    published: dict[str, str | None] = dict.fromkeys(counts)
    waiting = {each: [each] for each in counts}
    told: dict[str, int] = defaultdict(int)  # persons under a cell who are published in finer ones, or more
    smallest: int | None = None
    for resolution in range(finest, coarsest - 1, -1):
        counts = counts if resolution == finest else dict(persons(resolution))
        for each, members in list(waiting.items()):
            group = _count(counts, each) - told[each]
            if group >= k:
                published.update(dict.fromkeys(members, each))
                smallest = group if smallest is None else min(smallest, group)
                told[each] = counts[each]
                del waiting[each]
        waiting, told = _climbed(waiting, told, resolution - 1) if resolution > coarsest else (waiting, told)
    return Grouping(published, smallest)


def persons_of(places: Iterable[tuple[Hashable, GeoPoint]], finest: int) -> Persons:
    """Return the counts of (person, place) pairs that are in memory, for ``group_cells`` with the same ``finest``.

    A coarser cell is the parent of the finest: H3's coarse cells do not hold exactly what their children hold.
    """
    kept = {(person, cell(point, finest)) for person, point in places}

    def persons(resolution: int) -> dict[str, int]:
        found: dict[str, set[Hashable]] = defaultdict(set)
        for person, lived in kept:
            found[h3.cell_to_parent(lived, resolution)].add(person)
        return {each: len(them) for each, them in found.items()}

    return persons


def centroid(points: Iterable[GeoPoint]) -> GeoPoint:
    """Return the middle of places on the sphere, which is near them at the antimeridian and the poles too.

    Raises InvalidValue for no places, and for some whose directions cancel out.
    """
    kept = list(points)
    found = middle_of(kept) if kept else None
    if found is None:
        raise InvalidValue("These places have no middle.", "There are none, or they lie all round the earth.")
    return found


def _count(counts: Mapping[str, int], wanted: str) -> int:
    if wanted in counts:
        return counts[wanted]
    raise InvalidValue(
        f"The counts of resolution {h3.get_resolution(wanted)} lack a cell whose children have persons.",
        "Groups would be told too small or too large.",
        "Count coarse cells as parents of the finest: h3.cell_to_parent(cell, resolution).",
    )


def _climbed(
    waiting: Mapping[str, list[str]], told: Mapping[str, int], resolution: int
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return who waits, and how many are told of, under the parent of each cell."""
    above: dict[str, list[str]] = defaultdict(list)
    told_above: dict[str, int] = defaultdict(int)
    for each, members in waiting.items():
        above[h3.cell_to_parent(each, resolution)] += members
    for each, number in told.items():
        told_above[h3.cell_to_parent(each, resolution)] += number
    return above, told_above
