"""What is behind a connection of SQLAlchemy is measured like what is behind the driver's own."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from privkit.datasets.relations import database_table
from privkit.deidentify.measures import measure


def test_a_connection_of_sqlalchemy_measures_the_same(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        connection.execute(text('CREATE TABLE t ("50% off" text, visits integer)'))
        connection.exec_driver_sql("INSERT INTO t VALUES ('a', 1), ('a', 2), ('b', 4)")
        schema = "public" if connection.dialect.name == "postgresql" else "main"
        found = measure(database_table(connection, "t", schema=schema), quasi=["50% off"], sensitive="visits")
    engine.dispose()
    # ranks 1, 2, 4; cumulated 1/3, 2/3, 1 in all, 1/2, 1, 1 in a and 0, 0, 1 in b
    assert (((1, 1, 1), (2, 1, 2)), 1, pytest.approx(1 / 2)) == (found.sizes, found.distinct_l, found.t)
