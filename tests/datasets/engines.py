"""The same rows as a table of each engine that can be measured, and what plain Python makes of them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import accumulate
from math import exp, log
from pathlib import Path
from typing import Any

import psycopg

from privkit.datasets.relations import EngineTable, database_table, spark_view
from tests.databases import unavailable

Row = tuple[Any, ...]
Make = Callable[[dict[str, type], Sequence[Row]], EngineTable]
"""Makes a table of columns with their types and of rows."""

_TYPES: dict[str, dict[type, str]] = {
    "duckdb": {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"},
    "sqlite": {str: "TEXT", int: "INTEGER", float: "REAL", bool: "BOOLEAN"},
    "postgres": {str: "text", int: "bigint", float: "double precision", bool: "boolean"},
    "spark": {str: "string", int: "bigint", float: "double", bool: "boolean"},
}


@contextmanager
def spark_session(folder: Path) -> Iterator[Any]:
    """A Spark with two threads; skip where it cannot start."""
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        unavailable("Spark needs Java: apt-get install default-jre-headless")
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        unavailable("Spark comes with: pip install pyspark")
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.driver.host": "127.0.0.1",
        "spark.log.level": "ERROR",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": (folder / "events").as_uri(),
        # Compiling takes longer than all that the tests ask of it.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.adaptive.enabled": "false",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    }
    (folder / "events").mkdir()
    session = SparkSession.builder.master("local[2]").appName("tests").config(map=settings).getOrCreate()
    try:
        yield session
    finally:
        session.stop()


def declared(engine: str, columns: dict[str, type]) -> str:
    """Return the columns as the engine declares them, whatever their names hold."""
    return ", ".join('"' + name.replace('"', '""') + '" ' + _TYPES[engine][kind] for name, kind in columns.items())


def in_database(connection: Any, columns: dict[str, type], rows: Sequence[Row]) -> EngineTable:
    """Store rows in a new table of a connection."""
    engine = {"sqlite3": "sqlite", "psycopg": "postgres"}.get(type(connection).__module__.partition(".")[0], "duckdb")
    name = f"t{uuid.uuid4().hex}"
    connection.execute(f"CREATE TABLE {name} ({declared(engine, columns)})")
    if isinstance(connection, psycopg.Connection):
        with connection.cursor().copy(f"COPY {name} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    elif rows and engine == "duckdb":
        names = [f"c{number}" for number in range(len(columns))]
        lists = ", ".join(
            f"UNNEST(${each}::{_TYPES[engine][kind]}[]) AS {each}" for each, kind in _pairs(names, columns)
        )
        values = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        connection.execute(f"INSERT INTO {name} SELECT {lists}", values)
    elif rows:
        connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows)
    return database_table(connection, name)


def _pairs(names: list[str], columns: dict[str, type]) -> Iterator[tuple[str, type]]:
    return zip(names, columns.values(), strict=True)


def in_spark(session: Any, columns: dict[str, type], rows: Sequence[Row]) -> EngineTable:
    """Show rows as a new view of a Spark session."""
    schema = ", ".join("`" + name.replace("`", "``") + "` " + _TYPES["spark"][kind] for name, kind in columns.items())
    view = f"t{uuid.uuid4().hex}"
    session.createDataFrame(list(rows), schema).createOrReplaceTempView(view)
    session.catalog.cacheTable(view)
    return spark_view(session, view)


def lite() -> sqlite3.Connection:
    return sqlite3.connect(":memory:")


def duck() -> Any:
    import duckdb

    return duckdb.connect()


def by_hand(
    rows: Sequence[dict[str, Any]], quasi: Sequence[str], sensitive: str, person: str | None, *, number: bool
) -> tuple[int, int, int, int, float, Fraction]:
    """Return classes, unique, k, l, entropy l and t as their definitions read, by plain loops."""
    classes: dict[Row, list[dict[str, Any]]] = {}
    for row in rows:
        classes.setdefault(tuple(row[name] for name in quasi), []).append(row)
    sizes = [
        len(inside) if person is None else max(1, len({row[person] for row in inside} - {None}))
        for inside in classes.values()
    ]
    spreads = []
    for inside in classes.values():
        pairs = [(row[sensitive], None if person is None else row[person]) for row in inside]
        spreads.append(Counter(value for value, _ in (pairs if person is None else set(pairs))))
    whole = sum(spreads, Counter[Any]())
    values = sorted(whole, key=lambda value: (value is not None, value))
    q = [Fraction(whole[value], whole.total()) for value in values]
    distances, entropies = [], []
    for spread in spreads:
        p = [Fraction(spread[value], spread.total()) for value in values]
        gaps = [a - b for a, b in zip(p, q, strict=True)]
        if number:
            distances.append(sum(map(abs, accumulate(gaps)), Fraction()) / max(1, len(values) - 1))
        else:
            distances.append(sum(map(abs, gaps), Fraction()) / 2)
        entropies.append(exp(-sum(float(each) * log(each) for each in p if each)))
    return len(sizes), sizes.count(1), min(sizes), min(map(len, spreads)), min(entropies), max(distances)
