"""The gate before a table is handed on: bounds that its measures have to keep, or it is refused.

release(measure(table, quasi=["age", "postcode"]), Bounds(k=5), table)
"""

from __future__ import annotations

from dataclasses import dataclass

from privkit.deidentify.measures import Measures, Relation, measure
from privkit.errors import InvalidValue, ReleaseRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a table has to reach: at least this k and l, at most this t and so many who are alone in their class."""

    k: int | None = None
    distinct_l: int | None = None
    entropy_l: float | None = None
    t: float | None = None
    unique: int | None = None

    def __post_init__(self) -> None:
        given = [self.k, self.distinct_l, self.entropy_l, self.t, self.unique]
        if not any(bound is not None for bound in given):
            raise InvalidValue("No bound was given.", "Every table would pass.", "Example: Bounds(k=5)")
        lowest = [(self.k, 1), (self.distinct_l, 1), (self.entropy_l, 1), (self.t, 0), (self.unique, 0)]
        if not all(bound is None or bound >= low for bound, low in lowest) or (self.t or 0) > 1:
            raise InvalidValue(
                "A bound is outside its domain.", "", "k and l are at least 1, t is from 0 to 1, unique is at least 0."
            )

    def missed_by(self, found: Measures) -> tuple[str, ...]:
        """Return each bound that is missed, in words. What was not measured misses all, and so does an empty table."""
        pairs = [
            ("k", found.k, self.k),
            ("distinct l", found.distinct_l, self.distinct_l),
            ("entropy l", found.entropy_l, self.entropy_l),
        ]
        missed = [
            f"{name} is {_told(value)}, not at least {bound}"
            for name, value, bound in pairs
            if bound is not None and (value is None or value < bound)
        ]
        above = [("t", found.t, self.t), ("unique", found.unique, self.unique)]
        return tuple(missed) + tuple(
            f"{name} is {_told(value)}, not at most {bound}"
            for name, value, bound in above
            if bound is not None and (value is None or not found.rows or value > bound)
        )


def release(found: Measures, bounds: Bounds, relation: Relation | None = None) -> Measures:
    """Return the measures of a table that may be handed on.

    Raises ReleaseRefused where a bound is missed. It says how many rows are in classes below k and, where the
    relation is given, what leaving out each quasi-identifier would give, the most helpful first.
    """
    missed = bounds.missed_by(found)
    if not missed:
        return found
    small = _small(found, bounds.k)
    without = _without(found, relation) if relation is not None and found.rows and len(found.quasi) > 1 else {}
    helpful = sorted(without, key=lambda name: _worth(without[name], bounds), reverse=True)
    lines = [f"Without {name!r}: {_figures(without[name], bounds)}" for name in helpful]
    raise ReleaseRefused(
        "; ".join(missed) + ".",
        small or "Somebody in it could be told from the others, or what is sensitive about them guessed.",
        "\n".join(
            [*lines, "Generalise or leave out a quasi-identifier, or suppress the rows of the smallest classes."]
        ),
        missed=missed,
        without={name: measured.k for name, measured in without.items()},
    )


def _small(found: Measures, k: int | None) -> str:
    classes, members, rows = found.below(k or 2)
    if not classes:
        return ""
    persons = f" of {members:,} persons" if found.person is not None else ""
    return f"{rows:,} of {found.rows:,} rows{persons} are in {classes:,} classes smaller than {k or 2}."


def _without(found: Measures, relation: Relation) -> dict[str, Measures]:
    return {
        name: measure(
            relation,
            quasi=[each for each in found.quasi if each != name],
            sensitive=found.sensitive,
            person=found.person,
        )
        for name in found.quasi
    }


def _worth(found: Measures, bounds: Bounds) -> tuple[float, ...]:
    """Return what sorts measures by how near they come to the bounds."""
    below = found.below(bounds.k or 2)[2]
    return -len(bounds.missed_by(found)), -below, found.k, found.distinct_l or 0, -(found.t or 0)


def _figures(found: Measures, bounds: Bounds) -> str:
    k = bounds.k or 2
    return f"{found.label}, {found.below(k)[2]:,} rows in classes smaller than {k}"


def _told(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
