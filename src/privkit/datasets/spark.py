"""The engine of a cluster: a Spark task for each file, which calls the same function as this machine would.

Every worker has to see the paths that the driver sees, and to have privkit installed. The keys go to the workers in a
broadcast, which is in neither Spark's logs nor its event log, and is encrypted where it is written to a worker's disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from privkit.datasets.columns import Recipe
from privkit.datasets.deidentify import Engine
from privkit.datasets.extras import needed
from privkit.datasets.one_file import FileDone, FileTask, deidentify_file
from privkit.errors import ApplicationError, PrivkitError

WAVES = 2
"""How many files each worker has before the record is written: what a stop can cost."""


@contextmanager
def spark(master: str) -> Iterator[Engine]:
    """Hand out the engine of a Spark master, such as ``"local[2]"``; the session ends with the block.

    A session that this process has already is used as it is, and stays. Raises ApplicationError where Spark or Java is
    missing, or the master does not answer.
    """
    sql = needed("pyspark.sql", "pyspark")
    found = sql.SparkSession.getActiveSession()
    if found is not None:
        yield on(found.sparkContext)
        return
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        session = (
            sql.SparkSession.builder.master(master)
            .appName("privkit dataset deidentify")
            .config("spark.io.encryption.enabled", "true")
            .config("spark.ui.enabled", "false")
            .getOrCreate()
        )
    except Exception as error:
        raise ApplicationError(
            f"Spark does not start at {master} ({type(error).__name__}).", "", "Check Java, and the master's URL."
        ) from None
    try:
        yield on(session.sparkContext)
    finally:
        session.stop()


def on(context: Any) -> Engine:
    """Return the engine of a Spark context that is there already."""

    def run(tasks: list[FileTask], recipe: Recipe) -> Generator[FileDone | PrivkitError, None, None]:
        shared = context.broadcast(recipe)
        size = WAVES * max(1, context.defaultParallelism)
        try:
            for start in range(0, len(tasks), size):
                some = tasks[start : start + size]
                yield from context.parallelize(some, len(some)).map(lambda task: _made(task, shared)).collect()
        finally:
            shared.destroy()

    return run


def _made(task: FileTask, shared: Any) -> FileDone | PrivkitError:
    return deidentify_file(task, shared.value)
