"""What two releases of a table tell together: whoever has both can subtract one from the other.

found = compare(earlier, later, by=["month", "city"], count="visits")
check_difference(found, at_least=10)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privkit.deidentify.measures import Relation, ask, check_columns, expression, source
from privkit.errors import InvalidValue, ReleaseRefused


@dataclass(frozen=True, slots=True)
class Difference:
    """What subtracting gives. ``sizes``: how much a cell differs, and in how many cells; cells that agree are left out.

    Of summaries that is the change of a cell's number. Of tables with a column that tells persons apart, it is how
    many persons came into a cell, and separately how many left it.
    """

    by: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]

    @property
    def smallest(self) -> int:
        """Return the smallest change of a cell, or 0 where none changed."""
        return min((size for size, _ in self.sizes), default=0)

    def below(self, k: int) -> int:
        """Return how many changes are of fewer than ``k``."""
        return sum(cells for size, cells in self.sizes if size < k)


def compare(
    earlier: Relation, later: Relation, *, by: Sequence[str], count: str | None = None, person: str | None = None
) -> Difference:
    """Subtract one release from another, both in one engine and behind one connection.

    ``by``: the columns that name a cell; NULL is a value like any other. ``count``: the column of whole numbers that
    was published of each cell; or ``person``: the column that tells persons apart, in tables of rows. A cell that only
    one of the releases has is 0 in the other; a NULL number is 0, and rows whose person is NULL are nobody's.

    Raises InvalidValue for columns that one of them has not, and where not exactly one of ``count`` and ``person`` is
    given.
    """
    if (count is None) == (person is None):
        raise InvalidValue(
            "A comparison is of numbers or of persons.",
            "",
            'Give count="visits" for a summary, or person="rider_id" for a table of rows.',
        )
    check_columns(earlier, by, count, person)
    chosen = check_columns(later, by, count, person)
    read = _of_persons(earlier, later, chosen, person) if person else _of_numbers(earlier, later, chosen, count or "")
    answer = ask(later, read)
    return Difference(chosen, tuple((int(size), int(cells)) for size, cells in answer))


def check_difference(found: Difference, *, at_least: int) -> Difference:
    """Return the difference of releases that may both be had. Raises ReleaseRefused where a change is of fewer."""
    if at_least < 2:
        raise InvalidValue("A change of one is that one.", "", "Give at_least=2 or more.")
    if few := found.below(at_least):
        raise ReleaseRefused(
            f"{few:,} cells differ by fewer than {at_least}: the smallest by {found.smallest}.",
            "Who has both releases learns by subtraction what is said of those few.",
            "Publish these cells with a later release, when they have changed by enough, or in wider cells.",
        )
    return found


def _of_numbers(earlier: Relation, later: Relation, by: tuple[str, ...], count: str) -> str:
    both = " UNION ALL ".join(
        f"SELECT {_cells(each, by)}, {sign} * COALESCE({expression(each, count)}, 0) AS n FROM {source(each)}"
        for each, sign in ((earlier, -1), (later, 1))
    )
    return _counted(f"SELECT ABS(SUM(n)) AS size FROM ({both}) AS released GROUP BY {_names(by)}")


def _of_persons(earlier: Relation, later: Relation, by: tuple[str, ...], person: str) -> str:
    names = _names(by)
    both = " UNION ALL ".join(
        f"SELECT DISTINCT {_cells(each, by)}, {expression(each, person)} AS p, {sign} AS n FROM {source(each)}"
        for each, sign in ((earlier, -1), (later, 1))
    )
    moved = f"SELECT {names}, p, SUM(n) AS n FROM ({both}) AS released WHERE p IS NOT NULL GROUP BY {names}, p"
    return _counted(f"SELECT COUNT(*) AS size FROM ({moved}) AS moved WHERE n <> 0 GROUP BY {names}, n")


def _counted(sizes: str) -> str:
    return f"SELECT size, COUNT(*) FROM ({sizes}) AS cells WHERE size > 0 GROUP BY size ORDER BY size"


def _cells(relation: Relation, by: tuple[str, ...]) -> str:
    return ", ".join(f"{expression(relation, name)} AS q{number}" for number, name in enumerate(by))


def _names(by: tuple[str, ...]) -> str:
    return ", ".join(f"q{number}" for number, _ in enumerate(by))
