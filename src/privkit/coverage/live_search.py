"""What a search index gives away and what it misses, from counts of equal hashes. No hash is fetched.

Whoever holds the table and knows how often each plain value occurs matches the two by frequency (Naveed, Kamara and
Wright, "Inference Attacks on Property-Preserving Encrypted Databases", CCS 2015, section 3). A hash that occurs in a
number of rows of its own is known for sure; of m hashes in equally many rows, a matching by chance gets one right in
expectation. So the share of rows that is guessed is the sum of the distinct numbers of rows, divided by all rows.
Other knowledge, such as which values occur together, guesses more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log2
from typing import Any

from sqlalchemy import Column, Connection, LargeBinary, and_, func, literal, literal_column, or_, select, type_coerce

from privkit.crypto import OVERHEAD
from privkit.crypto.search import prefix
from privkit.sqlalchemy.index import searches, stored_prefix

BOUND = 0.05
"""The share of rows above which an index counts as guessable."""

FEWEST_ROWS = 100
"""Of fewer rows nothing is concluded: there each value is a large share."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """What is known of one index: how many hashes, in how many rows, and the rows of the commonest.

    ``guessed`` of the rows are known to who has the values' frequencies. ``missed`` rows have a value and no hash
    that a search looks for.
    """

    rows: int
    distinct: int
    commonest: int
    guessed: int
    missed: int

    @classmethod
    def of(cls, sizes: Iterable[tuple[int, int]], missed: int = 0) -> Histogram:
        """Build it from pairs: in how many rows a hash occurs, and how many hashes do."""
        counts = dict(sizes)
        return cls(
            rows=sum(size * count for size, count in counts.items()),
            distinct=sum(counts.values()),
            commonest=max(counts, default=0),
            guessed=sum(counts),
            missed=missed,
        )

    @property
    def share(self) -> float:
        """The share of rows that is guessed."""
        return self.guessed / self.rows if self.rows else 0.0

    @property
    def min_entropy(self) -> float:
        """The bits that the first guess at a row lacks: minus log2 of the commonest hash's share."""
        return log2(self.rows / self.commonest) if self.rows else 0.0

    @property
    def guessable(self) -> bool:
        """Whether enough rows are there to judge, and more than ``BOUND`` of them are guessed."""
        return self.rows >= FEWEST_ROWS and self.share > BOUND

    def __str__(self) -> str:
        if not self.rows:
            return "no hashes"
        few = "" if self.rows >= FEWEST_ROWS else "; too few rows to judge"
        return (
            f"{self.distinct} hashes in {self.rows} rows, min-entropy {self.min_entropy:.1f} bits; "
            f"who has the table and the values' frequencies guesses {self.share:.0%}{few}"
        )


def histogram(connection: Connection, column: Column[Any], index: Column[Any], *, sealed: bool) -> Histogram:
    """Count the hashes in ``index``, which stands beside ``column``."""
    stored = type_coerce(index, LargeBinary())
    sizes = select(func.count().label("size")).where(stored.is_not(None)).group_by(stored).subquery()
    counts = connection.execute(select(sizes.c.size, func.count()).group_by(sizes.c.size)).all()
    missed = connection.execute(select(func.count()).where(_missed(column, index, sealed=sealed))).scalar_one()
    return Histogram.of(((size, count) for size, count in counts), missed)


def _missed(column: Column[Any], index: Column[Any], *, sealed: bool) -> Any:
    stored, value = type_coerce(index, LargeBinary()), type_coerce(column, LargeBinary())
    known = [literal(prefix(each.key), LargeBinary()) for each in searches(index.type.field)]  # type: ignore[attr-defined]
    there = func.length(value) >= literal_column(str(OVERHEAD)) if sealed else value.is_not(None)
    return or_(and_(stored.is_(None), there), stored_prefix(index).not_in(known))
