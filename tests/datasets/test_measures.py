"""What is measured, and that every engine measures the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privkit.datasets.relations import EngineTable, database_table
from privkit.deidentify.measures import Measures, measure
from privkit.errors import InvalidValue
from tests import adult
from tests.adult import SIX
from tests.datasets.engines import Make, by_hand, duck, in_database, lite

COLUMNS = {"person": str, "age": str, "city": str, "disease": str, "visits": int}
ROWS = [
    ("p1", "young", "Ulm", "flu", 1),
    ("p2", "young", "Ulm", "flu", 3),
    ("p2", "young", "Ulm", "cold", 3),
    ("p3", "old", None, "flu", 2),
    ("p4", "old", None, "cold", 2),
    ("p5", "old", "Bonn", "flu", None),
]
BOTH = ["age", "city"]

EIGHT = ["sex", "age", "race", "marital-status", "education", "native-country", "workclass", "occupation"]
REFERENCE = [
    ("adult", SIX, "salary-class", 32561, 15093, 10154, 1, 1, 0.7591904425539756),
    ("adult", ["sex", "race"], "salary-class", 32561, 10, 0, 109, 2, 0.18576368588639136),
    ("adult", ["sex", "race"], "occupation", 32561, 10, 0, 109, 11, 0.32220540754980985),
    ("adult", ["sex", "race"], "hours-per-week", 32561, 10, 0, 109, 23, 0.049617546210691386),
    ("complete", EIGHT, "salary-class", 30162, 18109, 14021, 1, 1, 0.7510775147536636),
    ("adult_anonymized_3", SIX, "salary-class", 18203, 2837, 0, 3, 1, 0.7135636982914904),
    ("adult_anonymized_10", SIX, "salary-class", 7303, 462, 0, 10, 1, 0.634944543338354),
    ("adult_anonymized_20", SIX, "salary-class", 2428, 89, 0, 20, 1, 0.6684514003294892),
    ("hospital_anonymized", ["age", "gender", "city"], "disease", 13, 5, 0, 2, 1, 0.6153846153846154),
]
"""Known values of public tables: rows, classes, unique, k, l and t."""
WARDS = {
    ("Female", "Kerala"): ["Viral infection", "Heart-related"],
    ("Female", "Tamil Nadu"): ["Cancer", "TB"],
    ("Male", "Karnataka"): ["No illness", "TB", "Heart-related"],
    ("Male", "Kerala"): ["Cancer", "Heart-related", "Viral infection"],
    ("Male", "Tamil Nadu"): ["Cancer"] * 3,
}


def hospital() -> tuple[list[str], list[tuple[str, ...]]]:
    rows = [("[17, 30[", *place, disease) for place, found in WARDS.items() for disease in found]
    return ["age", "gender", "city", "disease"], rows


TABLES: dict[str, Callable[[], tuple[list[str], list[tuple[str, ...]]]]] = {
    "adult": adult.table,
    "complete": adult.complete,
    **{f"adult_anonymized_{k}": partial(adult.of_many, k) for k in (3, 10, 20)},
    "hospital_anonymized": hospital,
}


@pytest.fixture(scope="module")
def table(make: Make) -> EngineTable:
    return make(COLUMNS, ROWS)


def six(found: Measures) -> tuple[Any, ...]:
    return found.rows, found.classes, found.unique, found.k, found.distinct_l, found.t


def test_a_small_table_measures_what_was_worked_out_by_hand(table: EngineTable) -> None:
    found = measure(table, quasi=BOTH, sensitive="disease")
    assert (6, 3, 1, 1, 1, pytest.approx(1 / 3, rel=1e-12)) == six(found)
    assert ((1, 1, 1), (2, 1, 2), (3, 1, 3)) == found.sizes
    assert (0.5, 1.0, (2, 3, 3)) == (found.share, found.entropy_l, found.below(3))
    assert "measured k = 1, distinct l = 1, t = 0.3333" == found.label


def test_numbers_are_as_far_apart_as_their_ranks_with_null_before_them(table: EngineTable) -> None:
    assert pytest.approx(11 / 18, rel=1e-12) == measure(table, quasi=BOTH, sensitive="visits").t


def test_five_rows_of_one_person_are_k_1(make: Make) -> None:
    rows = [("p1", "Ulm", each) for each in ("flu", "cold", "flu", "flu", "flu")]
    table = make({"person": str, "city": str, "disease": str}, rows)
    assert 5 == measure(table, quasi=["city"]).k
    found = measure(table, quasi=["city"], sensitive="disease", person="person")
    assert (5, 1, 1, 1, 2, 0.0) == six(found)
    assert (1, 1.0) == (found.members, found.share)
    assert pytest.approx(2.0) == found.entropy_l


def test_rows_whose_person_is_unknown_are_nobody_further(make: Make) -> None:
    rows = [("p1", "Ulm"), (None, "Ulm"), (None, "Bonn"), (None, "Bonn")]
    found = measure(make({"person": str, "city": str}, rows), quasi=["city"], person="person")
    assert ((1, 2, 4),) == found.sizes


def test_null_is_a_value(make: Make) -> None:
    rows = [(None, "flu")] * 1 + [("", "flu")] * 5 + [("Ulm", "flu")] * 5
    assert 1 == measure(make({"city": str, "disease": str}, rows), quasi=["city"]).k


def test_zero_has_no_sign(make: Make) -> None:
    table = make({"x": float, "y": str}, [(0.0, "a"), (-0.0, "a"), (1.5, "b"), (1.5, "b")])
    assert ((2, 2, 4),) == measure(table, quasi=["x"], sensitive="y").sizes


def test_nan_is_one_value_after_all_numbers(make: Make) -> None:
    rows = [("a", nan), ("a", nan), ("b", 1.0), ("b", inf)]
    table = make({"x": str, "y": float}, rows)
    if table.dialect == "sqlite":  # it stores NULL in place of NaN
        assert ((2, 1, 2),) == measure(make({"x": str, "y": float}, rows[:2]), quasi=["y"]).sizes
        return
    assert ((1, 2, 2), (2, 1, 2)) == measure(table, quasi=["y"]).sizes
    # ranks 1.0, inf, NaN; cumulated 1/4, 1/2, 1 in all, 0, 0, 1 in a and 1/2, 1, 1 in b
    assert pytest.approx(3 / 8) == measure(table, quasi=["x"], sensitive="y").t


def test_an_empty_table_measures_nothing_that_a_bound_would_take(make: Make) -> None:
    found = measure(make({"x": str, "y": str}, []), quasi=["x"], sensitive="y")
    assert (0, 0, 0, 0, 0, 0.0) == six(found)
    assert 0.0 == found.share


def test_a_table_with_one_sensitive_value_is_at_no_distance(make: Make) -> None:
    found = measure(make({"x": str, "y": int}, [("a", 7), ("b", 7)]), quasi=["x"], sensitive="y")
    assert (1, 0.0) == (found.distinct_l, found.t)


@pytest.mark.parametrize(
    "name",
    [
        'x" FROM t; DROP TABLE t; --',
        "x`y",
        "it's",
        "50% :off ?",
        "SELECT",
        "ä b",
        "a.b",
        "*",
        "q0",
        "s",
        "c",
        "n",
        "size",
    ],
)
def test_the_name_of_a_column_is_never_sql(make: Make, name: str) -> None:
    table = make({name: str, "plain": str}, [("a", "1"), ("a", "2"), ("b", "1")])
    found = measure(table, quasi=[name], sensitive="plain")
    assert (3, 2, 1, 1, 1) == six(found)[:5]
    assert ((1, 1, 1), (2, 1, 2)) == measure(table, quasi=["plain"], person=name).sizes


@pytest.mark.parametrize("connect", [lite, duck])
def test_texts_that_a_collation_holds_equal_are_two_values(connect: Callable[[], Any]) -> None:
    connection = connect()
    connection.execute("CREATE TABLE t (city VARCHAR(9) COLLATE NOCASE)")
    connection.execute("INSERT INTO t VALUES ('ulm'), ('ULM')")
    assert 1 == len(connection.execute("SELECT COUNT(*) FROM t GROUP BY city").fetchall())
    assert 2 == measure(database_table(connection, "t"), quasi=["city"]).classes
    connection.close()


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"quasi": ["ctiy"]}, "There is no column 'ctiy'.\nNearest: 'city'"),
        ({"quasi": ["CITY"]}, "There is no column 'CITY'"),
        ({"quasi": ["age"], "sensitive": "diseases"}, "Nearest: 'disease'"),
        ({"quasi": ["age"], "person": "nobody"}, "None of its 5 columns has a name like it"),
        ({"quasi": []}, "No quasi-identifier was named"),
        ({"quasi": ["age", "age"]}, "Column 'age' is named twice"),
        ({"quasi": ["age"], "sensitive": "age"}, "Column 'age' is named twice"),
        ({"quasi": ["age"], "person": "age"}, "Column 'age' is named twice"),
    ],
)
def test_columns_that_make_no_sense_are_refused(named: dict[str, Any], says: str) -> None:
    table = in_database(lite(), COLUMNS, ROWS)
    with pytest.raises(InvalidValue, match=says.replace(".", r"\.")):
        measure(table, **named)


def test_one_name_is_one_column_and_not_its_letters() -> None:
    assert ("age",) == measure(in_database(lite(), COLUMNS, ROWS), quasi="age").quasi


def test_only_a_connection_that_is_known_is_measured() -> None:
    with pytest.raises(InvalidValue, match="A connection of builtins cannot be measured"):
        database_table(object(), "t")


VALUES = st.one_of(st.none(), st.integers(-3, 3))
TEXTS = st.sampled_from([None, "", "a", "b"])


@given(
    st.lists(st.tuples(TEXTS, VALUES, TEXTS, VALUES, TEXTS), min_size=1, max_size=25),
    st.sampled_from(["word", "number"]),
    st.sampled_from([None, "person"]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_measured_is_what_the_definitions_say(rows: list[Any], sensitive: str, person: str | None) -> None:
    columns = {"a": str, "b": int, "word": str, "number": int, "person": str}
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    for connection in (duck(), lite()):
        table = in_database(connection, columns, rows)
        number = table.kind(sensitive) == "number"
        classes, unique, k, distinct, entropy, t = by_hand(named, ["a", "b"], sensitive, person, number=number)
        found = measure(table, quasi=["a", "b"], sensitive=sensitive, person=person)
        assert (len(rows), classes, unique, k, distinct, pytest.approx(float(t), abs=1e-12)) == six(found)
        assert pytest.approx(entropy) == found.entropy_l
        connection.close()


def test_many_numbers_in_many_classes_are_measured_by_every_engine_as_by_hand(make: Make) -> None:
    pick = random.Random(7)
    rows = [(pick.choice("abcdefgh"), int(pick.gauss(0, 400)), f"p{pick.randrange(300)}") for _ in range(600)]
    table = make({"a": str, "number": int, "person": str}, rows)
    named = [dict(zip(("a", "number", "person"), row, strict=True)) for row in rows]
    for person in (None, "person"):
        found = measure(table, quasi=["a"], sensitive="number", person=person)
        *expected, entropy, t = by_hand(named, ["a"], "number", person, number=True)
        assert [*expected, pytest.approx(float(t), abs=1e-12)] == list(six(found)[1:])
        assert pytest.approx(entropy) == found.entropy_l


def test_a_measure_does_not_depend_on_the_order_of_rows(make: Make) -> None:
    found = [
        measure(make(COLUMNS, rows), quasi=BOTH, sensitive="visits", person="person") for rows in (ROWS, ROWS[::-1])
    ]
    assert found[0] == found[1]


def reference_rows(name: str) -> tuple[list[str], list[tuple[str, ...]]]:
    """The rows of a public table, shuffled."""
    names, rows = TABLES[name]()
    random.Random(name).shuffle(rows)
    return names, rows


@pytest.fixture(scope="module")
def reference(make: Make) -> Any:
    """Each public table once in the engine."""
    made: dict[str, EngineTable] = {}

    def table(name: str) -> EngineTable:
        if name not in made:
            names, rows = reference_rows(name)
            columns = {each: int if each == "hours-per-week" else str for each in names}
            at = [index for index, kind in enumerate(columns.values()) if kind is int]
            typed: Sequence[Any] = [
                tuple(int(value) if index in at else value for index, value in enumerate(row)) for row in rows
            ]
            made[name] = make(columns, typed)
        return made[name]

    return table


@pytest.mark.parametrize("known", REFERENCE, ids=lambda known: f"{known[0]}-{len(known[1])}-{known[2]}")
def test_public_tables_measure_what_is_known_of_them(reference: Any, known: tuple[Any, ...]) -> None:
    name, quasi, sensitive, *expected, t = known
    found = measure(reference(name), quasi=quasi, sensitive=sensitive)
    assert (*expected, pytest.approx(t, rel=1e-12)) == six(found)
