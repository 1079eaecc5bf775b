"""Seven columns in four files, de-identified by this process with DuckDB and by Spark with two workers.

The digests have to be the same; times and rows a second are printed. ``PRIVKIT_BENCH_ROWS`` (200 000) rows in all.

    make bench
"""

from __future__ import annotations

import os
import time
from datetime import date
from pathlib import Path

import pytest

from privkit import AgeBand, FileKeyring, Generalise, KeepLast, NotPersonal, Pseudonymise, ShiftDates, Zip3
from privkit.datasets.deidentify import Deidentified, deidentify
from privkit.datasets.extras import needed
from privkit.datasets.plan import DatasetPlan
from privkit.datasets.spark import spark
from privkit.errors import ApplicationError

ROWS, FILES = int(os.environ.get("PRIVKIT_BENCH_ROWS", "200000")), 4
PLAN = DatasetPlan(
    {
        "person": Pseudonymise("person"),
        "email": Pseudonymise("email", "email"),
        "phone": KeepLast(3),
        "born": Generalise(AgeBand()),
        "seen": ShiftDates(365),
        "zip": Zip3(),
        "fare": NotPersonal("a price"),
    },
    at=date(2026, 1, 1),
    subject="person",
)
MADE = """
    COPY (
        SELECT 'p' || (i % 50000) AS person, 'ada' || i || '@Example.org' AS email,
               '0123 ' || lpad(CAST(i AS VARCHAR), 8, '0') AS phone,
               DATE '1930-01-01' + CAST(i % 30000 AS INTEGER) AS born,
               DATE '2020-01-01' + CAST(i % 2000 AS INTEGER) AS seen,
               lpad(CAST((i * 7919) % 100000 AS VARCHAR), 5, '0') AS zip, (i % 10000) / 100 AS fare
        FROM range({start}, {end}) AS numbers(i)
    ) TO '{path}' (FORMAT parquet)
"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that pyspark leaves open
def test_both_engines_write_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    source.mkdir()
    connection = needed("duckdb").connect()
    size = -(-ROWS // FILES)
    for number in range(FILES):
        start, end = number * size, min(ROWS, (number + 1) * size)
        connection.execute(MADE.format(start=start, end=end, path=source / f"part-{number}.parquet"))
    connection.close()
    keyring = FileKeyring.create(tmp_path / "keys.json")
    started = time.perf_counter()
    here = deidentify(source, tmp_path / "here", PLAN, keyring)
    alone = time.perf_counter() - started
    try:
        with spark("local[2]") as engine:
            started = time.perf_counter()
            there: Deidentified = deidentify(source, tmp_path / "there", PLAN, keyring, engine=engine)
            together = time.perf_counter() - started
    except ApplicationError as error:
        pytest.skip(str(error))
    assert here == there
    assert ROWS == here.rows
    with capsys.disabled():
        print(
            f"\n{ROWS:,} rows in {FILES} files: DuckDB {alone:.1f} s ({ROWS / alone:,.0f} rows/s), "
            f"Spark with two workers {together:.1f} s ({ROWS / together:,.0f} rows/s), the same digests"
        )
