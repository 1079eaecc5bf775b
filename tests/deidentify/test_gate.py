"""What may be handed on: a table is refused where it misses a bound, and is told what holds it back."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from privkit.datasets.relations import EngineTable, database_table
from privkit.deidentify.gate import Bounds, release
from privkit.deidentify.measures import Measures, measure
from privkit.errors import InvalidValue, ReleaseRefused

ROWS = [(f"{age}", city, disease) for age in (31, 32, 33) for city in ("Ulm", "Bonn") for disease in ("flu", "cold")]


@pytest.fixture
def table() -> EngineTable:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (age TEXT, city TEXT, disease TEXT)")
    connection.executemany("INSERT INTO t VALUES (?, ?, ?)", ROWS)
    return database_table(connection, "t")


@pytest.fixture
def found(table: EngineTable) -> Measures:
    return measure(table, quasi=["age", "city"], sensitive="disease")


def test_what_keeps_all_bounds_is_released(found: Measures) -> None:
    assert found is release(found, Bounds(k=2, distinct_l=2, entropy_l=1.9, t=0.0, unique=0))


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        ({"k": 3}, "k is 2, not at least 3"),
        ({"distinct_l": 3}, "distinct l is 2, not at least 3"),
        ({"entropy_l": 2.5}, "entropy l is 2, not at least 2.5"),
    ],
)
def test_each_bound_that_is_missed_refuses(found: Measures, bound: dict[str, Any], says: str) -> None:
    with pytest.raises(ReleaseRefused, match=says) as refused:
        release(found, Bounds(**bound))
    assert (says,) == refused.value.data["missed"]


def test_what_is_at_most_is_refused_above(table: EngineTable) -> None:
    table.rows("DELETE FROM t WHERE age = '31' AND city = 'Ulm' AND disease = 'flu'")
    found = measure(table, quasi=["age", "city"], sensitive="disease")
    assert 2 == len(Bounds(t=0.1, unique=0).missed_by(found))
    assert () == Bounds(t=0.6, unique=1).missed_by(found)


def test_a_refusal_says_which_column_holds_it_back_and_how_many_rows_without_a_value(
    table: EngineTable, found: Measures
) -> None:
    with pytest.raises(ReleaseRefused) as refused:
        release(found, Bounds(k=6), table)
    assert str(refused.value).splitlines() == [
        "PK801: k is 2, not at least 6.",
        "12 of 12 rows are in 6 classes smaller than 6.",
        "Without 'age': measured k = 6, distinct l = 2, t = 0, 0 rows in classes smaller than 6",
        "Without 'city': measured k = 4, distinct l = 2, t = 0, 12 rows in classes smaller than 6",
        "Generalise or leave out a quasi-identifier, or suppress the rows of the smallest classes.",
    ]
    assert {"age": 6, "city": 4} == refused.value.data["without"]
    assert [] == [value for row in ROWS for value in row if value in str(refused.value) + repr(refused.value.data)]


def test_what_was_not_measured_keeps_no_bound(table: EngineTable) -> None:
    found = measure(table, quasi=["city"])
    assert ("distinct l is not measured, not at least 2", "t is not measured, not at most 1.0") == Bounds(
        distinct_l=2, t=1.0
    ).missed_by(found)


def test_an_empty_table_keeps_no_bound(table: EngineTable) -> None:
    table.rows("DELETE FROM t")
    found = measure(table, quasi=["city"], sensitive="disease")
    assert 4 == len(Bounds(k=1, distinct_l=1, t=1.0, unique=9).missed_by(found))
    with pytest.raises(ReleaseRefused):
        release(found, Bounds(unique=9), table)


def test_persons_are_told_where_they_are_counted(table: EngineTable) -> None:
    found = measure(table, quasi=["city"], person="age")
    with pytest.raises(ReleaseRefused, match="12 of 12 rows of 6 persons are in 2 classes smaller than 5"):
        release(found, Bounds(k=5))


@pytest.mark.parametrize(
    "bound",
    [{}, {"k": 0}, {"distinct_l": 0}, {"entropy_l": 0.5}, {"t": -0.1}, {"t": 1.5}, {"t": float("nan")}, {"unique": -1}],
)
def test_a_bound_that_nothing_can_miss_or_keep_is_refused(bound: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="bound"):
        Bounds(**bound)
