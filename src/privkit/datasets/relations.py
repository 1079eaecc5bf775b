"""What can be measured: a table behind a database connection, Parquet or CSV files, a view of a Spark session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlglot import exp as tree

from privkit.datasets.extras import needed
from privkit.deidentify.measures import Dialect, Kind, ask, source
from privkit.errors import ApplicationError, InvalidValue

_DRIVERS: dict[str, Dialect] = {
    "sqlite3": "sqlite",
    "sqlite": "sqlite",
    "psycopg": "postgres",
    "psycopg2": "postgres",
    "postgresql": "postgres",
    "duckdb": "duckdb",
    "_duckdb": "duckdb",
}
_FORMATS = {".parquet": "parquet", ".csv": "csv"}
_NUMBERS = (
    *("tinyint", "smallint", "int", "bigint", "hugeint", "utinyint", "usmallint", "uint", "ubigint", "uhugeint"),
    *("bignum", "float", "double", "decimal"),
)
_TEXTS = ("varchar", "string", "char")


@dataclass(frozen=True, slots=True)
class EngineTable:
    """A ``privkit.deidentify.measures.Relation``: what an engine answers, and what it says of the columns."""

    dialect: Dialect
    table: tuple[str, ...]
    kinds: dict[str, Kind]
    rows: Callable[[str], list[tuple[Any, ...]]] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(self.kinds)

    def kind(self, name: str) -> Kind:
        """Return a column's kind: that of its type, and in SQLite, where a type binds nothing, that of its values."""
        if self.dialect != "sqlite":
            return self.kinds[name]
        column = tree.column(name, quoted=True).sql("sqlite")
        kinds = f"SELECT DISTINCT typeof({column}) FROM {source(self)} WHERE {column} IS NOT NULL"
        found = {kind for (kind,) in self.rows(kinds)}
        return "number" if found and found <= {"integer", "real"} else "text"


def database_table(connection: Any, table: str, *, schema: str | None = None) -> EngineTable:
    """Return a table or view of an open connection of sqlite3, psycopg, DuckDB or SQLAlchemy.

    Raises InvalidValue for a connection to anything else.
    """
    name = _driver(connection)
    if name not in _DRIVERS:
        raise InvalidValue(
            f"A connection of {name} cannot be measured.",
            "",
            "Give one of sqlite3, psycopg or duckdb, or of SQLAlchemy to SQLite, PostgreSQL or DuckDB.",
        )
    found = EngineTable(
        _DRIVERS[name], (schema, table) if schema else (table,), {}, lambda sql: _fetch(connection, sql)
    )
    if found.dialect == "duckdb":
        answer = found.rows(f"DESCRIBE SELECT * FROM {source(found)}")
        found.kinds.update({column: _kind(str(kind)) for column, kind, *_ in answer})
        return found
    cursor = _execute(connection, f"SELECT * FROM {source(found)} LIMIT 0")
    types = {str(column[0]): column[1] for column in cursor.description}
    cursor.close()
    found.kinds.update(dict.fromkeys(types, "other") if found.dialect == "sqlite" else _categories(found, types))
    return found


def spark_view(session: Any, view: str) -> EngineTable:
    """Return a table or temporary view of a Spark session."""
    found = EngineTable("spark", (view,), {}, lambda sql: [tuple(row) for row in session.sql(sql).collect()])
    found.kinds.update({name: _kind(kind) for name, kind in session.table(_spark_name(view)).dtypes})
    return found


@contextmanager
def files(path: Path, *, sensitive: str | None = None) -> Iterator[EngineTable]:
    """Hand out Parquet or CSV files as a table of DuckDB: one, or a folder of them whose ``a=1`` is a column.

    Every column of a CSV file is text as it is written, so that 01234 is not 1234; only the sensitive one is numbers
    where all of its values are. Raises ApplicationError where there are no such files or they cannot be read.
    """
    with tables([path], numbers=sensitive) as [table]:
        yield table


@contextmanager
def tables(paths: Sequence[Path], *, numbers: str | None = None) -> Iterator[list[EngineTable]]:
    """Hand out several as ``files`` does, behind one connection."""
    duckdb, found = needed("duckdb"), [_paths(path) for path in paths]
    with TemporaryDirectory(prefix="privkit-") as spill:  # what does not fit into memory: the owner's alone to read
        connection = duckdb.connect(config={"temp_directory": spill, "autoinstall_known_extensions": False})
        try:
            yield [_opened(connection, f"data{at}", *each, numbers) for at, each in enumerate(found)]
        except duckdb.Error as error:
            raise ApplicationError(
                f"{' or '.join(map(str, paths))} cannot be read as {found[0][1]} ({type(error).__name__}).",
                "What DuckDB says is not shown: it may hold a value.",
                "Check that each file is whole and all have the same columns.",
            ) from None
        finally:
            connection.close()


def _opened(connection: Any, view: str, paths: list[str], kind: str, numbers: str | None) -> EngineTable:
    files = tree.Array(expressions=[tree.Literal.string(escape(each)) for each in paths]).sql("duckdb")
    options = "hive_partitioning=true, hive_types_autocast=false"
    if kind == "csv":
        options += ", all_varchar=true, header=true, skip=0, comment='', allow_quoted_nulls=false"
    connection.execute(f"CREATE VIEW {view} AS SELECT * FROM read_{kind}({files}, {options})")
    found = database_table(connection, view)
    if kind == "csv" and numbers in found.names:
        column = tree.column(numbers, quoted=True).sql("duckdb")
        [(values, read)] = ask(found, f"SELECT COUNT({column}), COUNT(TRY_CAST({column} AS DOUBLE)) FROM {view}")
        if values and values == read:
            cast = f"SELECT * REPLACE (CAST({column} AS DOUBLE) AS {column}) FROM {view}"
            connection.execute(f"CREATE VIEW {view}_numbers AS {cast}")
            return database_table(connection, f"{view}_numbers")
    return found


def _paths(path: Path) -> tuple[list[str], str]:
    if path.is_dir():
        inside = (each.relative_to(path) for each in path.rglob("*") if each.is_file())
        found = sorted(path / each for each in inside if not any(part.startswith((".", "_")) for part in each.parts))
        found = [each for each in found if each.suffix.lower() in _FORMATS]
    else:
        found = [path] if path.is_file() else []
    kinds = {_FORMATS.get(each.suffix.lower()) for each in found}
    if len(kinds) != 1 or None in kinds:
        raise ApplicationError(
            f"{path} is neither a Parquet nor a CSV file, nor a folder of one kind of them.",
            "",
            "Their names end in .parquet or .csv.",
        )
    return [str(each) for each in found], str(kinds.pop())


def _driver(connection: Any) -> str:
    if hasattr(connection, "exec_driver_sql"):
        return str(connection.dialect.name)
    return type(connection).__module__.partition(".")[0]


def _execute(connection: Any, sql: str) -> Any:
    if not hasattr(connection, "exec_driver_sql"):
        return connection.cursor().execute(sql)
    if connection.dialect.paramstyle in ("format", "pyformat"):
        sql = sql.replace("%", "%%")
    return connection.exec_driver_sql(sql).cursor


def _fetch(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    cursor = _execute(connection, sql)
    return [tuple(row) for row in cursor.fetchall()]


def _kind(declared: str) -> Kind:
    name = declared.lower()
    if name.startswith(_TEXTS):
        return "text"
    return "number" if name.startswith(_NUMBERS) and not name.endswith("]") and name != "interval" else "other"


def _categories(table: EngineTable, types: dict[str, Any]) -> dict[str, Kind]:
    """Return the kinds of PostgreSQL's types by their categories, which extensions and domains keep to as well."""
    numbers = ", ".join(str(int(each)) for each in set(types.values()))
    known = dict(table.rows(f"SELECT oid, typcategory FROM pg_type WHERE oid IN ({numbers})"))
    kinds: dict[str, Kind] = {"S": "text", "N": "number"}
    return {name: kinds.get(known[kind], "other") for name, kind in types.items()}


def _spark_name(view: str) -> str:
    return tree.to_identifier(view, quoted=True).sql("spark")
