"""One connection to each engine for all tests of this folder; Spark starts once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from tests.databases import Server, libpq
from tests.datasets.engines import Make, duck, in_database, lite, spark_session


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The one Spark session of this process."""
    with spark_session(tmp_path_factory.mktemp("spark")) as session:
        yield session


@pytest.fixture(scope="session")
def postgres(pg_server: Server) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database of its own."""
    with pg_server.database() as name, psycopg.connect(libpq(make_url(pg_server.url(name)))) as connection:
        yield connection
        connection.close()


@pytest.fixture(scope="session", params=["duckdb", "sqlite", "postgres"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """What makes a table of rows, once in each engine that starts at once."""
    if request.param == "postgres":
        yield partial(in_database, request.getfixturevalue("postgres"))
    else:
        with closing(duck() if request.param == "duckdb" else lite()) as connection:
            yield partial(in_database, connection)
