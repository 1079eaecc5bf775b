"""The search for the least generalisation: it is the best there is, and it reaches what was asked of it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from itertools import product
from typing import Any

import pytest
from benchmarks.adult import searched
from hypothesis import given, settings
from hypothesis import strategies as st

from privkit.datasets.relations import EngineTable, database_table
from privkit.deidentify.generalisation import Bands, Generalisation, Levels, search
from privkit.deidentify.measures import measure
from privkit.errors import InvalidValue

CITIES = {"Ulm": "south", "Bonn": "west", "Kiel": "north"}
COUNTRY = dict.fromkeys(CITIES, "inland") | {"Kiel": "coast"}
HIERARCHIES = {"age": Bands((5, 20)), "city": Levels((CITIES, COUNTRY)), "sex": Levels()}
LABELS: dict[str, list[Any]] = {
    "age": [
        lambda value: value,
        lambda value: value and f"[{value // 5 * 5}, {value // 5 * 5 + 5})",
        lambda value: value and f"[{value // 20 * 20}, {value // 20 * 20 + 20})",
        lambda value: "*",
    ],
    "city": [
        lambda value: value,
        lambda value: value and CITIES[value],
        lambda value: value and COUNTRY[value],
        lambda value: "*",
    ],
    "sex": [lambda value: value, lambda value: "*"],
}
Row = tuple[Any, ...]


def stored(
    rows: list[Row], columns: str = "age INTEGER, city TEXT, sex TEXT, disease TEXT, person TEXT"
) -> EngineTable:
    connection = sqlite3.connect(":memory:")
    connection.execute(f"CREATE TABLE t ({columns})")
    if rows:
        connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(rows[0]))})", rows)
    return database_table(connection, "t")


def by_trying_all(rows: list[Row], k: int, l_bound: int, person: bool, share: float) -> float | None:
    """The least loss of all choices, as the definitions read."""
    losses = []
    values = {name: sorted({row[at] for row in rows}, key=str) for at, name in enumerate(LABELS)}
    for node in product(*(range(len(levels)) for levels in LABELS.values())):
        relabel = [levels[level] for levels, level in zip(LABELS.values(), node, strict=True)]
        made = [tuple(label(row[at]) for at, label in enumerate(relabel)) for row in rows]
        members: dict[Row, set[Any]] = {}
        diseases: dict[Row, set[Any]] = {}
        for number, (row, labels) in enumerate(zip(rows, made, strict=True)):
            members.setdefault(labels, set()).add(row[4] if person else number)
            diseases.setdefault(labels, set()).add(row[3])
        sizes = {each: max(1, len(inside - {None})) for each, inside in members.items()}
        kept = [sizes[each] >= k and len(diseases[each]) >= l_bound for each in made]
        if kept.count(False) > share * len(rows) + 1e-9:
            continue
        total = 0.0
        for at, (name, label) in enumerate(zip(LABELS, relabel, strict=True)):
            leaves = Counter(label(value) for value in values[name])
            whole = max(1, len(values[name]) - 1)
            total += sum((leaves[row[at]] - 1) / whole if keep else 1 for row, keep in zip(made, kept, strict=True))
        losses.append(total / len(rows) / len(LABELS))
    return min(losses, default=None)


ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, 1, 3, 7, 21, 38]),
        st.sampled_from([None, *CITIES]),
        st.sampled_from(["f", "m"]),
        st.sampled_from(["flu", "cold"]),
        st.sampled_from([None, "p1", "p2", "p3"]),
    ),
    min_size=1,
    max_size=14,
)


@given(ROWS, st.integers(1, 4), st.integers(1, 2), st.booleans(), st.sampled_from([0.0, 0.2, 0.5]))
@settings(max_examples=60, deadline=None)
def test_nothing_loses_less_and_what_is_made_reaches_the_bounds(
    rows: list[Row], k: int, l_bound: int, person: bool, share: float
) -> None:
    expected = by_trying_all(rows, k, l_bound, person, share)
    wanted: dict[str, Any] = {"k": k, "distinct_l": l_bound, "sensitive": "disease", "suppression": share}
    wanted["person"] = "person" if person else None
    if expected is None:
        with pytest.raises(InvalidValue, match="No generalisation reaches the bounds"):
            search(stored(rows), HIERARCHIES, **wanted)
        return
    found = search(stored(rows), HIERARCHIES, **wanted)
    assert pytest.approx(expected) == found.loss
    made = list(found.apply(row[:3] for row in rows))
    assert found.suppressed == made.count(None) <= share * len(rows)
    released = stored([(*labels, *row[3:]) for labels, row in zip(made, rows, strict=True) if labels is not None])
    measured = measure(released, quasi=["age", "city", "sex"], sensitive="disease", person=wanted["person"])
    assert (measured.k >= k and (measured.distinct_l or 0) >= l_bound) or not measured.rows


def found_of(rows: list[Row], **wanted: Any) -> Generalisation:
    return search(stored(rows), HIERARCHIES, **wanted)


def test_a_table_that_reaches_k_as_it_is_stays_as_it_is() -> None:
    rows = [(21, "Ulm", "f", "flu", "p1"), (21, "Ulm", "f", "flu", "p2")]
    found = found_of(rows, k=2)
    assert {"age": 0, "city": 0, "sex": 0} == found.levels
    assert (0.0, 0) == (found.loss, found.suppressed)
    assert [(21, "Ulm", "f")] == list(found.apply([(21, "Ulm", "f")]))
    assert "generalised to k >= 2, 0 of 2 rows suppressed" == found.label


def test_only_what_is_needed_is_generalised() -> None:
    rows = [(age, city, "f", "flu", "p") for age in (21, 22) for city in CITIES for _ in range(2)]
    found = found_of([*rows, (23, "Ulm", "f", "flu", "p")], k=2)
    assert {"age": 1, "city": 0, "sex": 0} == found.levels
    assert [("[20, 25)", "Ulm", "f"), None] == list(found.apply([(23, "Ulm", "f"), (99, "Ulm", "f")]))


def test_what_was_found_shows_no_value() -> None:
    found = found_of([(21, "Ulm", "f", "flu", "p1")] * 2, k=2)
    assert "Ulm" not in repr(found) + str(found.label)


def test_numbers_that_are_text_get_bands_and_not_a_number_one_of_its_own() -> None:
    rows = [("21",), ("24",), ("nan",), ("nan",)]
    found = search(stored(rows, "age TEXT"), {"age": Bands((5,))}, k=2)
    assert [("[20, 25)",), ("[nan, nan)",)] == list(found.apply([("21",), ("nan",)]))


@pytest.mark.parametrize(
    ("hierarchies", "says"),
    [
        ({"age": Bands((5,)), "city": Levels(({"Ulm": "south"},))}, "2 values of 'city' have no place in level 1"),
        ({"city": Levels((COUNTRY, CITIES))}, "hierarchy of 'city' tells apart what the one before it does not"),
        ({"city": Bands((5,))}, "Bands do not fit 'city'"),
        ({"town": Levels()}, "There is no column 'town'"),
        ({}, "No quasi-identifier was named"),
        ({name: Levels() for name in ("age", "city", "sex", "disease", "person")}, "No generalisation reaches"),
    ],
)
def test_a_hierarchy_that_does_not_fit_is_refused_without_a_value(hierarchies: Any, says: str) -> None:
    rows = [(21, city, "f", "flu", "p") for city in CITIES]
    with pytest.raises(InvalidValue, match=says) as refused:
        search(stored(rows), hierarchies, k=4)
    assert [] == [value for value in (*CITIES, "21") if value in str(refused.value)]


@pytest.mark.parametrize("wanted", [{"k": 0}, {"k": 2, "suppression": 1.0}, {"k": 2, "distinct_l": 2}])
def test_a_search_that_makes_no_sense_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="makes no sense"):
        found_of([(21, "Ulm", "f", "flu", "p1")], **wanted)


def test_an_empty_table_reaches_nothing() -> None:
    with pytest.raises(InvalidValue, match="The table is empty"):
        found_of([], k=2)


@pytest.mark.parametrize("widths", [(5, 7), (0,), (-5,), (10, 5)])
def test_bands_that_do_not_nest_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValue, match="do not nest"):
        Bands(widths)


def test_eight_columns_of_a_public_table_reach_k_5_with_at_most_4_percent_suppressed() -> None:
    found, _, k = searched()
    assert (30162, 1015, 6480) == (found.rows, found.suppressed, found.nodes)
    assert 5 <= k
    assert pytest.approx(0.28365, abs=1e-5) == found.loss
