"""The Adult table of the UCI Machine Learning Repository (tests/vectors/README.md), and tables made of it."""

from __future__ import annotations

import csv
import lzma
from collections import Counter

from tests.meta import ROOT

SIX = ["age", "education", "occupation", "relationship", "sex", "native-country"]
Row = tuple[str, ...]


def table() -> tuple[list[str], list[Row]]:
    """Return the names of the columns, and the 32,561 rows."""
    with lzma.open(ROOT / "tests" / "vectors" / "adult.csv.xz", "rt", encoding="utf-8", newline="") as file:
        names, *rows = map(tuple, csv.reader(file))
    return list(names), rows


def complete() -> tuple[list[str], list[Row]]:
    """Return the 30,162 rows without a question mark."""
    names, rows = table()
    return names, [row for row in rows if "?" not in row]


def of_many(k: int) -> tuple[list[str], list[Row]]:
    """Return the rows that agree with k rows or more, themselves among them, in all columns of ``SIX``."""
    names, rows = table()
    at = [names.index(name) for name in SIX]
    classes = Counter(tuple(row[each] for each in at) for row in rows)
    return names, [row for row in rows if classes[tuple(row[each] for each in at)] >= k]
