"""How well the rows of a table hide in each other: k, l, t and what follows from them, computed where the table is.

Rows with equal *quasi-identifiers* form a class. NULL is a value like any other, and so is NaN; 0.0 and -0.0 are one.
Texts are equal where their characters are, whatever a column's collation says. Nothing depends on the order of rows,
and no row is fetched: a ``Relation`` answers aggregates alone.

    found = measure(table, quasi=["age", "postcode"], sensitive="disease", person="patient")
    print(found.label)                                            # measured k = 5, distinct l = 2, t = 0.31
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import exp
from typing import Any, Literal, Protocol

from sqlglot import exp as tree
from sqlglot import parse_one

from privkit.errors import InvalidValue
from privkit.policy.problems import quoted

Dialect = Literal["duckdb", "sqlite", "postgres", "spark"]
Kind = Literal["text", "number", "other"]

_BINARY = {"duckdb": "C", "sqlite": "BINARY", "postgres": "C", "spark": "UTF8_BINARY"}


class Relation(Protocol):
    """A table, a view or files, in the engine that holds them."""

    @property
    def dialect(self) -> Dialect:
        """How the engine spells SQL."""

    @property
    def table(self) -> tuple[str, ...]:
        """What it is called there, the name of a schema first where there is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its columns."""

    def kind(self, name: str) -> Kind:
        """Return whether a column holds text, numbers or something else."""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return what a query of it answers."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured. ``sizes`` holds for each size of a class: the size, how many classes have it, their rows.

    The size of a class is the number of its rows, or of its persons where a column tells them apart; ``share`` is
    the part of them that somebody who knows each one's quasi-identifiers is expected to recognise. ``entropy_l`` is e
    to the smallest entropy. l and t are None where no sensitive column was named. In an empty table all is 0.
    """

    quasi: tuple[str, ...]
    sensitive: str | None
    person: str | None
    sizes: tuple[tuple[int, int, int], ...]
    distinct_l: int | None
    entropy_l: float | None
    t: float | None

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(rows for _, _, rows in self.sizes)

    @property
    def classes(self) -> int:
        """Return the number of classes, which is the expected number of re-identifications."""
        return sum(classes for _, classes, _ in self.sizes)

    @property
    def members(self) -> int:
        """Return the sizes of all classes together: rows, or persons, each once for every class it is in."""
        return sum(size * classes for size, classes, _ in self.sizes)

    @property
    def unique(self) -> int:
        """Return how many rows, or persons, are alone in their class."""
        return sum(classes for size, classes, _ in self.sizes if size == 1)

    @property
    def k(self) -> int:
        """Return the size of the smallest class."""
        return min((size for size, _, _ in self.sizes), default=0)

    @property
    def share(self) -> float:
        """Return the expected share of re-identifications."""
        return self.classes / self.members if self.sizes else 0.0

    def below(self, k: int) -> tuple[int, int, int]:
        """Return how many classes are smaller than ``k``, how many members they have and how many rows."""
        small = [each for each in self.sizes if each[0] < k]
        members = sum(size * classes for size, classes, _ in small)
        return sum(classes for _, classes, _ in small), members, sum(rows for _, _, rows in small)

    @property
    def label(self) -> str:
        """Return what may be said of the table: what was measured, and no more than that."""
        known = {"k": self.k, "distinct l": self.distinct_l, "t": self.t if self.t is None else f"{self.t:.4g}"}
        return "measured " + ", ".join(f"{name} = {value}" for name, value in known.items() if value is not None)


def measure(
    relation: Relation, *, quasi: Sequence[str], sensitive: str | None = None, person: str | None = None
) -> Measures:
    """Measure a table by its quasi-identifiers.

    With ``person``, members of a class are distinct persons, each of whom counts once for each sensitive value; rows
    whose person is NULL are nobody further. t is the total variation distance between a class and the whole for
    texts, and the ordered earth mover's distance over the distinct values for numbers (Li et al., ICDE 2007; NULL
    comes before all numbers, NaN after them). Raises InvalidValue for a column that is not there or named twice, and
    where no quasi-identifier is named.
    """
    chosen = check_columns(relation, quasi, sensitive, person)
    keys = [expression(relation, name) for name in chosen]
    sizes = _sizes(relation, keys, person)
    spread = _spread(relation, keys, sensitive, person) if sensitive and sizes else (0, 0.0, 0.0)
    distinct, entropy, distance = spread if sensitive else (None, None, None)
    return Measures(chosen, sensitive, person, sizes, distinct, entropy, distance)


def check_columns(
    relation: Relation, quasi: Sequence[str], sensitive: str | None = None, person: str | None = None
) -> tuple[str, ...]:
    """Return the quasi-identifiers. Raises InvalidValue where the columns that were named make no sense."""
    chosen = (quasi,) if isinstance(quasi, str) else tuple(quasi)
    named = [*chosen, *(name for name in (sensitive, person) if name is not None)]
    if not chosen:
        raise InvalidValue(
            "No quasi-identifier was named.",
            "All rows would be in one class, and k would say nothing.",
            "Name the columns by which somebody could be recognised.",
        )
    for name in named:
        if name not in relation.names:
            # Only what is alike: the first row of a file without a header is no list of names.
            lower = {each.lower(): each for each in relation.names}
            near = ", ".join(quoted(lower[each]) for each in get_close_matches(name.lower(), lower))
            fix = f"Nearest: {near}." if near else f"None of its {len(relation.names)} columns has a name like it."
            raise InvalidValue(f"There is no column {quoted(name)}.", "", fix, column=name)
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise InvalidValue(
            f"Column {quoted(twice)} is named twice.",
            "A column is a quasi-identifier, or sensitive, or tells persons apart.",
            "Name it once.",
            column=twice,
        )
    return chosen


def expression(relation: Relation, name: str) -> str:
    """Return the SQL of a column, in DuckDB's spelling, whose texts are equal only where their characters are."""
    column = tree.column(name, quoted=True).sql("duckdb")
    # A column of SQLite may hold text whatever its type, and PostgreSQL has text that is not of a type of its own.
    if relation.dialect == "sqlite" or relation.kind(name) == "text":
        text = f"CAST({column} AS TEXT)" if relation.dialect == "postgres" else column
        return f'{text} COLLATE "{_BINARY[relation.dialect]}"'
    return column


def ask(relation: Relation, sql: str) -> list[tuple[Any, ...]]:
    """Return what a query answers that is written as DuckDB writes it."""
    return relation.rows(parse_one(sql, read="duckdb").sql(dialect=relation.dialect))


def source(relation: Relation) -> str:
    """Return the name of the table, in DuckDB's spelling."""
    return ".".join(tree.to_identifier(part, quoted=True).sql("duckdb") for part in relation.table)


def _sizes(relation: Relation, keys: list[str], person: str | None) -> tuple[tuple[int, int, int], ...]:
    size = "COUNT(*)" if person is None else "CASE WHEN COUNT(p) = 0 THEN 1 ELSE COUNT(DISTINCT p) END"
    members = _members(relation, keys, {} if person is None else {"p": person})
    classes = f"SELECT {size} AS size, COUNT(*) AS n FROM ({members}) AS members GROUP BY {_names(keys)}"
    answer = ask(relation, f"SELECT size, COUNT(*), SUM(n) FROM ({classes}) AS classes GROUP BY size ORDER BY size")
    return tuple((int(size), int(classes), int(rows)) for size, classes, rows in answer)


def _members(relation: Relation, keys: list[str], others: dict[str, str]) -> str:
    """Return the columns under names of our own, which no column's own name can be taken for."""
    columns = [f"{key} AS q{number}" for number, key in enumerate(keys)]
    columns += [f"{expression(relation, name)} AS {ours}" for ours, name in others.items()]
    return f"SELECT {'DISTINCT ' * ('s' in others and 'p' in others)}{', '.join(columns)} FROM {source(relation)}"


def _names(keys: list[str]) -> str:
    return ", ".join(f"q{number}" for number in range(len(keys)))


def _spread(relation: Relation, keys: list[str], sensitive: str, person: str | None) -> tuple[int, float, float]:
    """Return distinct l, entropy l and t: the worst of all classes."""
    by = _names(keys)
    members = _members(relation, keys, {"s": sensitive} if person is None else {"s": sensitive, "p": person})
    pairs = (
        f"WITH members AS ({members}),"
        f" pairs AS (SELECT {by}, s, CAST(COUNT(*) AS DOUBLE) AS c FROM members GROUP BY {by}, s)"
    )
    distances = _earth_mover(by) if relation.kind(sensitive) == "number" else _total_variation(by)
    inside = f"SELECT COUNT(*) AS l, LN(SUM(c)) - SUM(c * LN(c)) / SUM(c) AS entropy FROM pairs GROUP BY {by}"
    worst = f"SELECT MIN(l) AS l, MIN(entropy) AS entropy FROM ({inside}) AS classes"
    farthest = "SELECT MAX(t) AS t FROM distances"
    both = f"SELECT l, entropy, t FROM ({worst}) AS inside CROSS JOIN ({farthest}) AS outside"
    [(distinct, entropy, distance)] = ask(relation, f"{pairs}, {distances} {both}")
    return int(distinct), exp(max(0.0, entropy)), max(0.0, float(distance))


def _total_variation(by: str) -> str:
    """Return for each class: half the sum of |P - Q| over all values, which is the sum of P - Q where P is larger."""
    return f"""
    whole AS (SELECT SUM(c) AS c, SUM(CASE WHEN s IS NULL THEN c ELSE 0 END) AS nulls FROM pairs),
    spread AS (SELECT s, SUM(c) AS c FROM pairs WHERE s IS NOT NULL GROUP BY s),
    shares AS (
        SELECT {by}, pairs.c / SUM(pairs.c) OVER (PARTITION BY {by}) - COALESCE(spread.c, nulls) / whole.c AS more
        FROM pairs CROSS JOIN whole LEFT JOIN spread ON pairs.s = spread.s),
    distances AS (SELECT SUM(CASE WHEN more > 0 THEN more ELSE 0 END) AS t FROM shares GROUP BY {by})"""


def _earth_mover(by: str) -> str:
    """Return for each class: the sum of |P - Q|, both cumulated, over the ranks of the m values, divided by m - 1.

    Between two values of a class P stands still and Q rises, so the sum over the ranks between them follows from the
    rank at which Q overtakes P and from Q cumulated once more (``area``): a step for each value that a class has, not
    for each that it lacks. ``merged`` finds that rank by sorting P among the steps of Q.
    """
    return f"""
    spread AS (SELECT s, SUM(c) AS c FROM pairs GROUP BY s),
    steps AS (
        SELECT DENSE_RANK() OVER (ORDER BY s NULLS FIRST) AS r,
            SUM(c) OVER (ORDER BY s NULLS FIRST) / SUM(c) OVER () AS q FROM spread),
    scale AS (
        SELECT r, q, SUM(q) OVER (ORDER BY r) AS area, MAX(r) OVER () AS m, SUM(q) OVER () AS whole FROM steps),
    placed AS (
        SELECT DENSE_RANK() OVER (ORDER BY {by}) AS class, DENSE_RANK() OVER (ORDER BY s NULLS FIRST) AS r, c
        FROM pairs),
    pieces AS (
        SELECT class, m, SUM(c) OVER (PARTITION BY class ORDER BY placed.r) / SUM(c) OVER (PARTITION BY class) AS p,
            placed.r - 1 AS low, area - q AS low_area,
            COALESCE(LEAD(placed.r) OVER (PARTITION BY class ORDER BY placed.r) - 1, m) AS high,
            COALESCE(LEAD(area - q) OVER (PARTITION BY class ORDER BY placed.r), whole) AS high_area
        FROM placed JOIN scale ON placed.r = scale.r),
    points AS (
        SELECT p AS height, 1 AS piece, class, m, low, low_area, high, high_area, 0 AS r, 0e0 AS area FROM pieces
        UNION ALL SELECT q, 0, 0, 0, 0, 0e0, 0, 0e0, r, area FROM scale),
    merged AS (
        SELECT piece, class, m, height, low, low_area, high, high_area,
            MAX(r) OVER (ORDER BY height, piece) AS r, MAX(area) OVER (ORDER BY height, piece) AS area FROM points),
    crossings AS (
        SELECT class, m, height, low, low_area, high, high_area,
            CASE WHEN r < low THEN low WHEN r > high THEN high ELSE r END AS r,
            CASE WHEN r < low THEN low_area WHEN r > high THEN high_area ELSE area END AS area
        FROM merged WHERE piece = 1),
    distances AS (
        SELECT CASE WHEN MAX(m) = 1 THEN 0 ELSE
            (MIN(low_area) + SUM(height * (2 * r - low - high) + low_area + high_area - 2 * area))
            / (MAX(m) - 1) END AS t
        FROM crossings GROUP BY class)"""
