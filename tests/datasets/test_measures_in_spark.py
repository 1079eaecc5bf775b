"""What the other engines measure, Spark measures as well: the same tests, but few of them: each takes seconds."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from privkit.deidentify.measures import measure
from tests.datasets.engines import Make, in_spark
from tests.datasets.test_measures import (  # noqa: F401
    reference,
    table,
    test_a_small_table_measures_what_was_worked_out_by_hand,
    test_five_rows_of_one_person_are_k_1,
    test_nan_is_one_value_after_all_numbers,
    test_public_tables_measure_what_is_known_of_them,
)


@pytest.fixture(scope="module")
def make(spark: Any) -> Make:
    """What makes a view of rows."""
    return partial(in_spark, spark)


def test_no_name_of_a_column_is_sql(make: Make) -> None:
    name = "it's `x\" a.b* ? %"
    found = measure(make({name: str, "plain": str}, [("a", "1"), ("a", "2"), ("b", "1")]), quasi=[name])
    assert ((1, 1, 1), (2, 1, 2)) == found.sizes
