"""One file of a data set, read, changed and written: the whole task of one worker, here or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from hashlib import file_digest
from pathlib import Path
from tempfile import mkstemp
from typing import Any, TypeVar

from sqlglot import exp as tree

from privkit.datasets.columns import LABEL, Recipe
from privkit.datasets.extras import needed
from privkit.errors import ApplicationError, PrivkitError

_Result = TypeVar("_Result")

ROWS = 65_536
"""How many rows are in memory at once, and in a row group of Parquet."""

LEFT = ".privkit"
"""How the name of a file ends that is not whole yet, or was left by a crash."""

_CSV = "all_varchar=true, header=true, skip=0, comment='', allow_quoted_nulls=false, hive_partitioning=false"


@dataclass(frozen=True, slots=True)
class FileTask:
    """A file to read and one to write. ``name``: its path within the data set; ``digest``: what it has to hold."""

    name: str
    source: str
    target: str
    digest: str


@dataclass(frozen=True, slots=True)
class FileDone:
    """A file that was written: how many rows it has, and the SHA-256 of what was read and written."""

    name: str
    rows: int
    input: str
    output: str


def deidentify_file(task: FileTask, recipe: Recipe) -> FileDone | PrivkitError:
    """Write one file as the recipe has it. It appears under its name only when it is whole and on the disk.

    An error is returned, not raised: a cluster's log shows what is raised.
    """
    try:
        return _telling_nothing(task.name, lambda: _written(task, recipe))
    except PrivkitError as error:
        return error


def names_of(path: Path) -> list[str]:
    """Return the names of a file's columns. Raises ApplicationError where it cannot be read or is a result."""

    def read() -> list[str]:
        with _reading(path) as reader:
            return list(reader.schema.names)

    return _telling_nothing(path.name, read)


def counts_of(paths: list[Path], name: str) -> list[tuple[Any, int]]:
    """Return each value of a column with how often it occurs in all files together. NULL is no value here."""
    column = tree.column(name, quoted=True).sql("duckdb")

    def read() -> list[tuple[Any, int]]:
        with _session() as connection:
            query = f"SELECT {column}, COUNT(*) FROM {_scan(paths)} WHERE {column} IS NOT NULL GROUP BY 1"
            return [(value, count) for value, count in connection.sql(query).fetchall()]

    return _telling_nothing(name, read)


def digest_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Have what was renamed in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _telling_nothing(name: str, work: Callable[[], _Result]) -> _Result:
    """Raise a PrivkitError that begins with ``name`` for whatever is raised: an engine's own text may hold a value."""
    try:
        return work()
    except PrivkitError as error:
        found: PrivkitError = type(error)(f"{name}: {error.what}", error.why, error.fix, **error.data)
    except Exception as error:
        found = ApplicationError(
            f"{name} cannot be read, changed or written ({type(error).__name__}).",
            "What the exception says is not shown: it may hold a value.",
            "Check that the file is whole, and that each number still fits its column's type.",
        )
    raise found  # here, so that no context is chained


def _written(task: FileTask, recipe: Recipe) -> FileDone:
    target = Path(task.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A cluster may try a file twice at once, so each attempt has a name of its own.
    descriptor, temporary = mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=LEFT)
    try:
        with open(descriptor, "wb") as file:
            rows = _change(Path(task.source), file, target.suffix.lower(), recipe)
            file.flush()
            os.fsync(file.fileno())
        found = digest_of(task.source)
        if found != task.digest:
            raise ApplicationError("it changed while it was read.", "", "Start again once nobody writes to it.")
        os.replace(temporary, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_folder(target.parent)
    return FileDone(task.name, rows, found, digest_of(target))


def _change(source: Path, file: Any, suffix: str, recipe: Recipe) -> int:
    count = 0
    with _reading(source) as reader:
        schema = recipe.schema(reader.schema)
        with _writer(file, suffix, schema) as writer:
            for batch in _even(reader):
                writer.write_batch(recipe.batch(batch, schema))
                count += len(batch)
    return count


def _writer(file: Any, suffix: str, schema: Any) -> Any:
    if suffix == ".parquet":
        return needed("pyarrow.parquet").ParquetWriter(file, schema, compression="zstd")
    csv = needed("pyarrow.csv")
    return csv.CSVWriter(file, schema, write_options=csv.WriteOptions(quoting_style="needed"))


def _even(reader: Any) -> Iterator[Any]:
    """Cut what an engine hands out into batches of one size: else its threads would decide the bytes of the result."""
    pyarrow = needed("pyarrow")
    waiting: list[Any] = []
    count = 0
    for batch in reader:
        waiting.append(batch)
        count += len(batch)
        while count >= ROWS:
            [whole] = pyarrow.Table.from_batches(waiting).combine_chunks().to_batches()
            yield whole[:ROWS]
            waiting, count = [whole[ROWS:]], count - ROWS
    if count:
        [whole] = pyarrow.Table.from_batches(waiting).combine_chunks().to_batches()
        yield whole


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    _refuse_result(path)
    with _session() as connection:
        yield connection.sql(f"SELECT * FROM {_scan([path])}").to_arrow_reader(ROWS)


def _refuse_result(path: Path) -> None:
    if path.suffix.lower() == ".parquet" and LABEL in (needed("pyarrow.parquet").read_schema(path).metadata or {}):
        raise ApplicationError(
            f"{path.name} is the result of an earlier run.",
            "A second run would change what stands for a value, and nothing would join any more.",
            "Give the files that it was made of.",
        )


@contextmanager
def _session() -> Iterator[Any]:
    """One thread: the work is done in Python, and the order of rows is the file's."""
    config = {"temp_directory": "", "autoinstall_known_extensions": False, "threads": 1, "TimeZone": "UTC"}
    connection = needed("duckdb").connect(config=config)
    try:
        yield connection
    finally:
        connection.close()


def _scan(paths: list[Path]) -> str:
    """Return a table function of DuckDB; a name with ``*`` in it is a name and no pattern."""
    quoted = [tree.Literal.string(escape(str(each))) for each in paths]
    files = tree.Array(expressions=quoted).sql("duckdb")
    if paths[0].suffix.lower() == ".csv":
        return f"read_csv({files}, {_CSV})"
    return f"read_parquet({files}, hive_partitioning=false)"
